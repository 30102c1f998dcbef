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
from typing import Any, get_type_hints

import msgspec

from bandit.errors import InvalidInput, NotFound, one_of
from serving.learner.workspace import Workspace

_NAME = re.compile(r"^[a-z][a-z_]{0,30}$")


def run_operation(workspace: Workspace, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run operation `name`.

    Raises `NotFound` for an unknown one and `InvalidInput` for arguments that it does not take, of another type, or
    missing.
    """
    if not _NAME.fullmatch(name):
        raise NotFound("there is no such operation")
    module_name = f"{__name__}.{name}_" if keyword.iskeyword(name) else f"{__name__}.{name}"
    if importlib.util.find_spec(module_name) is None:
        raise NotFound(f"there is no operation '{name}'")
    run = importlib.import_module(module_name).run
    parameters = dict(list(inspect.signature(run).parameters.items())[1:])  # the first is the workspace
    types = get_type_hints(run)
    checked = {}
    for argument, value in arguments.items():
        if argument not in parameters:
            raise InvalidInput(argument, f"is not an argument of operation '{name}'", one_of(parameters))
        try:
            checked[argument] = msgspec.convert(value, types[argument])
        except msgspec.ValidationError:
            raise InvalidInput(argument, "has the wrong type") from None
    for argument, parameter in parameters.items():
        if argument not in checked and parameter.default is inspect.Parameter.empty:
            raise InvalidInput(argument, "is required")
    result = run(workspace, **checked)
    assert isinstance(result, dict)
    return result
