"""How the decision API says no: RFC 9457 `application/problem+json`, one shape for every refusal.

A refusal names the field, what is wrong with it and the limit or setting that would lift it. It never
repeats the input: values come from outside, and some of them (NaN, lone surrogates) cannot even be encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bandit.errors import Busy, Conflict, DurabilityLost, InvalidInput, NotFound, Problem, RewardloopError

PROBLEM_TYPE = b"application/problem+json"

TITLES: dict[str, tuple[int, str]] = {
    "malformed-request": (400, "The request cannot be read"),
    "malformed-body": (400, "The body cannot be read"),
    "bad-host": (400, "The Host header is missing or malformed"),
    "unauthorized": (401, "An API key is needed"),
    "forbidden": (403, "This API key does not allow that"),
    "not-found": (404, "There is no such thing"),
    "method-not-allowed": (405, "This address takes another method"),
    "conflict": (409, "This collides with what is already there"),
    "body-too-large": (413, "The body is too large"),
    "wrong-content-type": (415, "The content type is not accepted"),
    "wrong-content-encoding": (415, "The content encoding is not accepted"),
    "misdirected": (421, "This server does not answer for that host"),
    "invalid-request": (422, "The request cannot be accepted"),
    "head-too-large": (431, "The headers are too large"),
    "internal": (500, "The server failed to answer"),
    "wrong-transfer-encoding": (501, "The transfer encoding is not known"),
    "unavailable": (503, "The experiment cannot be opened"),
    "keys-unreadable": (503, "The API keys cannot be read"),
    "busy": (503, "The server is too busy"),
    "durability-lost": (503, "Nothing can be made durable any more"),
}
"""Every kind of problem with its status and title; the kind is the last part of `type`."""


class FieldProblem(msgspec.Struct, omit_defaults=True):
    """One thing wrong with one field."""

    field: str
    problem: str
    limit: str | None = None


class ProblemBody(msgspec.Struct):
    """The body of a refusal."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []


class ApiProblem(RewardloopError):
    """A refusal that is about HTTP rather than about input: body size, content type, host, key."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        field: str | None = None,
        limit: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.problems = (Problem(field, detail, limit),) if field else ()
        self.headers = tuple(headers)


class MalformedBody(InvalidInput):
    """The body is not JSON at all (400, where other invalid input is 422)."""


def problem_of(error: RewardloopError) -> ProblemBody:
    """The body that tells a client about `error`; unknown kinds of error become `internal`."""
    if isinstance(error, ApiProblem):
        return problem(error.kind, error.detail, error.problems)
    if isinstance(error, MalformedBody):
        return problem("malformed-body", str(error), error.problems)
    if isinstance(error, InvalidInput):
        return problem("invalid-request", str(error), error.problems)
    if isinstance(error, NotFound):
        return problem("not-found", str(error), _named(error))
    if isinstance(error, Conflict):
        return problem("conflict", str(error), _named(error))
    if isinstance(error, Busy):
        return problem("busy", "The queue of the event log is full; try again in a second.")
    if isinstance(error, DurabilityLost):
        return problem("durability-lost", "A write to the event log failed; nothing was recorded. Try again later.")
    return problem("internal", "The server failed to answer; its log says why.")


def _named(error: RewardloopError) -> tuple[Problem, ...]:
    """The field that a message of the form `field: problem` begins with."""
    field, colon, what = str(error).partition(": ")
    return (Problem(field, what),) if colon and field.isidentifier() else ()


def problem(kind: str, detail: str, problems: Sequence[Problem] = ()) -> ProblemBody:
    """A body of one of the kinds in `TITLES`."""
    status, title = TITLES[kind]
    errors = [FieldProblem(entry.field, entry.problem, entry.limit and str(entry.limit)) for entry in problems]
    return ProblemBody(type=f"urn:rewardloop:problem:{kind}", title=title, status=status, detail=detail, errors=errors)


def kind_of(body: ProblemBody) -> str:
    """The kind of a problem, as the metrics count it."""
    return body.type.rpartition(":")[2]


def item_problem(index: int, error: RewardloopError) -> dict[str, Any]:
    """The entry of `errors` for one refused item of a list."""
    body = problem_of(error)
    first = body.errors[0] if body.errors else FieldProblem("body", body.detail)
    entry: dict[str, Any] = {"index": index, "status": body.status, "field": first.field, "problem": first.problem}
    if first.limit is not None:
        entry["limit"] = first.limit
    return entry
