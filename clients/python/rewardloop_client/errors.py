"""Every error the client raises, in one tree.

RewardloopError
├── Unavailable             no answer, or 408, 425 or 5xx after all retries: the service is down, slow or not durable
├── Rejected                the service answered 4xx; carries status, title, detail and problems
│   ├── InvalidRequest      400 or 422: a field is wrong (`problems` says which, and the limit)
│   ├── Unauthorized        401 or 403: no key, or one without this right
│   ├── Refused             403 of the admin API: asked properly, but its rules say no (deploying without a verdict);
│   │                       409, where what is needed is still to come (training before anything has matured)
│   ├── NotFound            404: no such experiment
│   ├── Conflict            409: the event_id was used with another body
│   └── TooManyRequests     429
├── NotEncodable            the request holds NaN, infinity, a lone surrogate or what JSON has not, or is too deep
└── UnexpectedAnswer        the answer is not what the API promises (a proxy's page, another service)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class RewardloopError(Exception):
    """Root of every error of this client; `retry_after_s` is the pause that the service asked for, if it did."""

    retry_after_s: float | None = None


class Unavailable(RewardloopError):
    """No usable answer within the timeout and the retries; nothing is known to be recorded."""


class NotEncodable(RewardloopError, ValueError):
    """The request cannot be written as JSON; nothing was sent."""


class UnexpectedAnswer(RewardloopError):
    """What answered is not the decision API, or a version that this client does not know; nothing is known."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing the service found wrong: the field, what, and the limit with the setting that lifts it."""

    field: str
    problem: str
    limit: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" + ("" if self.limit is None else f" (limit: {self.limit})")


class Rejected(RewardloopError):
    """The service understood the request and refused it (RFC 9457 problem document)."""

    def __init__(self, status: int, title: str, detail: str, problems: Sequence[FieldProblem] = ()) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.problems = tuple(problems)
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")


class InvalidRequest(Rejected):
    """A field of the request cannot be accepted; `problems` names each.

    `accepted` is how many rewards of a list are on the service's disk although others were refused; None where the
    request was refused as a whole.
    """

    accepted: int | None = None


class Unauthorized(Rejected):
    """The key is missing, unknown or has not the right."""


class Refused(Rejected):
    """What was asked is denied by a rule of the loop; the message says which, and the way on."""


class NotFound(Rejected):
    """There is no experiment of that name."""


class Conflict(Rejected):
    """The event_id was used before with another body."""


class TooManyRequests(Rejected):
    """The service asks to slow down."""


_BY_STATUS: dict[int, type[Rejected]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: TooManyRequests,
}


def rejection(status: int, body: object) -> Rejected:
    """The exception for a 4xx answer whose decoded body is `body` (a problem document, or anything else)."""
    kind = _BY_STATUS.get(status, Rejected)
    if not isinstance(body, dict):
        return kind(status, "refused", "")
    errors = body.get("errors")
    problems = [
        FieldProblem(str(entry.get("field", "")), str(entry.get("problem", "")), _text(entry.get("limit")))
        for entry in (errors if isinstance(errors, list) else [])
        if isinstance(entry, dict)
    ]
    error = kind(status, str(body.get("title") or "refused"), str(body.get("detail") or ""), problems)
    accepted = body.get("accepted")
    if isinstance(error, InvalidRequest) and type(accepted) is int:
        error.accepted = accepted
    return error


def _text(value: object) -> str | None:
    return None if value is None else str(value)
