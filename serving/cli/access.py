"""How a command reaches the warehouse: in process under the learner's lock, or by asking the running learner.

A DuckDB file has one owner. `operate(common, "join", last="72h")` runs the operation of that name
(`serving/learner/operations/`) wherever the owner is and returns its answer, so a command works the same whether
or not a service runs on the directory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bandit.errors import Busy, InvalidInput, Refused
from bandit.experiment import Experiment
from serving.asking import ask
from serving.cli.common import Common, now
from serving.cli.read_only import in_a_folder_of_its_own, is_read_only, only_looks
from serving.learner.address import Address, lock_path, running_learner, take_lock

WAIT_S = 10.0
"""How long a command waits for another command to finish, or for a starting learner to answer."""


def operate(common: Common, operation: str, /, **arguments: Any) -> dict[str, Any]:
    """Run an operation on the asked experiment; raises what the operation raises, or `Busy`."""
    for key, value in arguments.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isprintable():
                _check_text(key, text)
    name = common.experiment_name()
    address = owner(common.data_dir)
    if address is not None:
        return ask(address, "POST", f"/v1/experiments/{name}/operations/{operation}", json=arguments)
    return _in_process(common, operation, arguments)


def _check_text(key: str, text: str) -> None:
    """Raise `InvalidInput` for a text that came of bytes which are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(key, "is not UTF-8 text") from None


def owner(data_dir: Path, *, wait_for_lock: bool = True) -> Address | None:
    """The running learner, None when the lock is free; raises `Busy` while another command holds it.

    Waits a while for a learner that is just starting, unless `wait_for_lock` is false.
    """
    from bandit.files import is_locked
    from serving.learner.address import learner_is_meant_to_run

    deadline = time.monotonic() + WAIT_S
    while True:
        address = running_learner(data_dir)
        starting = learner_is_meant_to_run(data_dir)
        if address is not None or not (starting or is_locked(lock_path(data_dir))):
            return address
        if not wait_for_lock or time.monotonic() > deadline:
            if starting:
                raise Busy("the learner of this data directory is starting; try again in a moment")
            raise Busy("another command uses the warehouse of this data directory; try again when it has finished")
        time.sleep(0.1)


def _in_process(common: Common, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from serving.learner.operations import run_operation
    from serving.learner.workspace import Workspace

    with _to_work_on(common, operation, arguments) as data_dir:
        workspace = Workspace(Experiment.open(data_dir, common.experiment_name()), now)
        try:
            return run_operation(workspace, operation, arguments)
        finally:
            workspace.close()


@contextmanager
def _to_work_on(common: Common, operation: str, arguments: dict[str, Any]) -> Iterator[Path]:
    """The data directory while no learner can have it, or what stands for it where it cannot be written."""
    read_only = is_read_only(common.data_dir)
    if read_only and not only_looks(operation, arguments):
        raise Refused("this data directory is read-only: nothing can be changed in it, only looked at")
    with ExitStack() as held:
        if not read_only or lock_path(common.data_dir).exists():  # where none can be made no learner ever ran
            held.callback(take_lock(common.data_dir).release)
        if read_only:
            yield held.enter_context(in_a_folder_of_its_own(common.data_dir, common.experiment_name()))
        else:
            yield common.data_dir
