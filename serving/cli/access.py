"""How a command reaches the warehouse: in process under the learner's lock, or by asking the running learner.

A DuckDB file has one owner. `operate(common, "join", last="72h")` runs the operation of that name
(`serving/learner/operations/`) wherever the owner is and returns its answer, so a command works the same whether
or not a service runs on the directory.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx

from bandit.errors import Busy, Conflict, InvalidInput, NotFound, Refused, RewardloopError
from serving.cli.common import Common, now
from serving.learner.address import Address, running_learner, take_lock

WAIT_S = 10.0
"""How long a command waits for another command to finish, or for a starting learner to answer."""

TIMEOUT_S = 3600.0


def operate(common: Common, operation: str, /, **arguments: Any) -> dict[str, Any]:
    """Run an operation on the asked experiment; raises what the operation raises, or `Busy`."""
    name = common.experiment_name()
    address = owner(common.data_dir)
    if address is not None:
        return ask(address, "POST", f"/v1/experiments/{name}/operations/{operation}", json=arguments)
    return _in_process(common, operation, arguments)


def ask(address: Address, method: str, path: str, *, json: Any = None) -> dict[str, Any]:
    """One request to the running learner's admin API; its problems come back as our errors."""
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


def owner(data_dir: Path, *, wait_for_lock: bool = True) -> Address | None:
    """The running learner, None when the lock is free; raises `Busy` while another command holds it.

    Waits a while for a learner that is just starting, unless `wait_for_lock` is false.
    """
    from bandit.files import is_locked
    from serving.learner.address import lock_path

    deadline = time.monotonic() + WAIT_S
    while True:
        address = running_learner(data_dir)
        if address is not None or not is_locked(lock_path(data_dir)):
            return address
        if not wait_for_lock or time.monotonic() > deadline:
            raise Busy("another command uses the warehouse of this data directory; try again when it has finished")
        time.sleep(0.1)


def require_learner(common: Common) -> Address:
    """The running learner's address; raises `Refused` when none runs."""
    address = owner(common.data_dir, wait_for_lock=False)
    if address is None:
        raise Refused("no learner runs on this data directory; start it with `rewardloop up`")
    return address


def _in_process(common: Common, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from serving.learner.operations import run_operation
    from serving.learner.workspace import Workspace

    lock = take_lock(common.data_dir)
    try:
        workspace = Workspace(common.open_experiment(), now)
        try:
            return run_operation(workspace, operation, arguments)
        finally:
            workspace.close()
    finally:
        lock.release()


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
    kinds: dict[int, type[RewardloopError]] = {404: NotFound, 409: Conflict, 403: Refused, 423: Busy}
    return kinds.get(response.status_code, RewardloopError)(detail)
