"""What a feature object may hold, checked leaf by leaf before anything else sees it.

Numbers, strings, booleans, null, lists of strings and nested objects. Names and texts are printable
Unicode: control characters and lone surrogates are refused, since they end in logs, files and other tools.
A problem's field is the path to the leaf; a name that is not plain is given by its place, never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bandit.errors import InvalidRequest
from bandit.settings import Limits

NUMBER_MAX = 1.7976931348623157e308
OWN_ID_LENGTH = len("00000000-0000-7000-8000-000000000000:10")
"""An event_id that we gave ourselves, with its slot, is accepted back whatever `limits.name_length_max` is."""

_BAD_IN_NAME = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BAD_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_PLAIN = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")


def check_features(features: Mapping[str, Any], path: str, limits: Limits) -> None:
    """Check one feature object found at `path`; raises `InvalidRequest` for the first leaf that is refused."""
    if len(features) > limits.features_max or _check(features, path, limits, 1) > limits.features_max:
        raise InvalidRequest(path, "has too many features", f"limits.features_max = {limits.features_max}")


def check_name(name: str, path: str, limits: Limits) -> None:
    """Check an id (action, event, reward); raises `InvalidRequest`."""
    if not name:
        raise InvalidRequest(path, "must not be empty")
    if len(name) > limits.name_length_max:
        raise InvalidRequest(path, "is too long", f"limits.name_length_max = {limits.name_length_max} characters")
    if not name.isprintable() and _BAD_IN_NAME.search(name):
        raise InvalidRequest(path, "holds a control character or a lone surrogate")


def check_event_id(event_id: str, path: str, limits: Limits) -> None:
    """Check the event_id of a decision that was made earlier; raises `InvalidRequest`."""
    if len(event_id) <= OWN_ID_LENGTH and event_id.isprintable() and event_id:
        return
    check_name(event_id, path, limits)


def child(path: str, name: str, position: int) -> str:
    """The path of a member: by name where that is a plain word, else by its place (counted from 1)."""
    return f"{path}.{name}" if _PLAIN.fullmatch(name) else f"{path}.(member {position})"


def _check(features: Mapping[str, Any], path: str, limits: Limits, depth: int) -> int:
    leaves = 0
    name_length_max = limits.name_length_max
    for name, value in features.items():
        if not name or len(name) > name_length_max or not name.isprintable():
            _check_feature_name(name, path, limits, features)
        kind = type(value)
        if kind is float or kind is bool or value is None:
            leaves += 1
        elif kind is str:
            leaves += 1
            if len(value) > limits.text_length_max or not value.isprintable():
                _check_text(value, path, name, limits, features)
        elif kind is int:
            leaves += 1
            if not -NUMBER_MAX <= value <= NUMBER_MAX:
                raise InvalidRequest(_child(path, name, features), "is too large a number", f"{NUMBER_MAX:.2g}")
        elif kind is dict:
            if depth >= limits.depth_max:
                raise InvalidRequest(
                    _child(path, name, features), "is nested too deeply", f"limits.depth_max = {limits.depth_max}"
                )
            leaves += _check(value, _child(path, name, features), limits, depth + 1)
        elif kind is list:
            leaves += len(value)
            for text in value:
                if type(text) is not str:
                    raise InvalidRequest(_child(path, name, features), "is a list, and a list may hold strings only")
                if len(text) > limits.text_length_max or not text.isprintable():
                    _check_text(text, path, name, limits, features)
        else:
            raise InvalidRequest(_child(path, name, features), "is neither number, string, boolean, list nor object")
    return leaves


def _check_feature_name(name: str, path: str, limits: Limits, features: Mapping[str, Any]) -> None:
    check_name(name, f"{_child(path, name, features)} (its name)", limits)


def _check_text(value: str, path: str, name: str, limits: Limits, features: Mapping[str, Any]) -> None:
    if len(value) > limits.text_length_max:
        raise InvalidRequest(
            _child(path, name, features), "is too long", f"limits.text_length_max = {limits.text_length_max} characters"
        )
    if _BAD_IN_TEXT.search(value):
        raise InvalidRequest(_child(path, name, features), "holds a control character or a lone surrogate")


def _child(path: str, name: str, features: Mapping[str, Any]) -> str:
    return child(path, name, list(features).index(name) + 1)
