"""Operations that need the warehouse: plain functions, run by a command itself or by the running learner.

Operation `x` is the file `serving/learner/operations/x.py` (`x_.py` where `x` is a reserved word) with a function
`run(workspace, **arguments) -> dict`; arguments and answer are JSON objects, so that the same call works in process
and through the admin API. An operation checks its arguments itself and raises the errors of `bandit.errors`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import keyword
import re
from typing import Any

from bandit.errors import InvalidInput, NotFound
from serving.learner.workspace import Workspace

_NAME = re.compile(r"^[a-z][a-z_]{0,30}$")


def run_operation(workspace: Workspace, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run operation `name`; raises `NotFound` for an unknown one and `InvalidInput` for unknown arguments."""
    if not _NAME.match(name):
        raise NotFound("there is no such operation")
    module_name = f"{__name__}.{name}_" if keyword.iskeyword(name) else f"{__name__}.{name}"
    if importlib.util.find_spec(module_name) is None:
        raise NotFound(f"there is no operation '{name}'")
    run = importlib.import_module(module_name).run
    parameters = inspect.signature(run).parameters
    for argument in arguments:
        if argument not in parameters:
            raise InvalidInput(argument, f"is not an argument of operation '{name}'")
    result = run(workspace, **arguments)
    assert isinstance(result, dict)
    return result
