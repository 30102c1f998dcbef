"""A request from another process of ours to the running learner's admin API; its problems come back as our errors."""

from __future__ import annotations

from typing import Any

import httpx

from bandit.errors import Busy, Conflict, InvalidInput, NotFound, NotYet, Refused, RewardloopError
from serving.learner.address import Address

TIMEOUT_S = 3600.0


def ask(address: Address, method: str, path: str, *, json: Any = None) -> dict[str, Any]:
    """The answer's JSON object; raises the error that the learner's problem stands for, `Busy` when it is silent."""
    try:
        response = httpx.request(
            method,
            address.url + path,
            json=json,
            headers={"Authorization": f"Bearer {address.token}"},
            timeout=TIMEOUT_S,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise Busy(f"the running learner does not answer ({type(error).__name__}); try again") from None
    if response.is_success:
        answer = response.json()
        assert isinstance(answer, dict)
        return answer
    raise _error_of(response)


def _error_of(response: httpx.Response) -> RewardloopError:
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    detail = problem.get("detail") or problem.get("title") or f"the learner answered {response.status_code}"
    errors = problem.get("errors") or []
    if response.status_code == 422 and errors:
        first = errors[0]
        return InvalidInput(first["field"], first["problem"], first.get("limit"))
    if response.status_code == 409 and problem.get("title") == "Refused":
        return NotYet(detail)
    kinds: dict[int, type[RewardloopError]] = {404: NotFound, 409: Conflict, 403: Refused, 423: Busy}
    return kinds.get(response.status_code, RewardloopError)(detail)
