"""From bytes to checked requests: everything a client sends passes here once, and nothing unchecked passes.

msgspec parses the bytes (it refuses NaN, Infinity, 1e400, lone surrogates and deep nesting). Only when it
does is the body read a second time, slowly, to name the field that is to blame.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from bandit.errors import InvalidRequest, one_of
from bandit.features import check_event_id, check_features, check_name, child
from bandit.settings import Limits
from bandit.settings.words import members_at, unknown_member
from bandit.types import Action
from serving.api.known_actions import KnownActions, WireAction
from serving.api.problems import MalformedBody


class RecommendRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A question: which of these actions, in this context? Without `actions` the catalogue is offered."""

    context: dict[str, Any]
    actions: list[Action] | None = None
    event_id: str | None = None
    excluded: list[str] = []
    slots: int | None = None
    deferred: bool = False


class RewardItem(Struct, forbid_unknown_fields=True, kw_only=True):
    """What came of a decision: a number, or a named event that the settings turn into one."""

    event_id: str
    reward: float | None = None
    event: str | None = None
    value: float | None = None
    reward_id: str | None = None
    action: str | None = None


class BatchRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Several questions in one body, each judged by itself."""

    requests: list[msgspec.Raw]


class _WireRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A question whose actions are left undecoded."""

    context: dict[str, Any]
    actions: list[msgspec.Raw] | None = None
    event_id: str | None = None
    excluded: list[str] | None = None
    slots: int | None = None
    deferred: bool = False


class _ReadAgain(Struct, forbid_unknown_fields=True, kw_only=True):
    """A question decoded in one go, so that what is wrong with an action is told with its place."""

    context: dict[str, Any]
    actions: list[WireAction] | None = None
    event_id: str | None = None
    excluded: list[str] | None = None
    slots: int | None = None
    deferred: bool = False


_wire_decoder = msgspec.json.Decoder(_WireRequest)
_recommend_decoder = msgspec.json.Decoder(_ReadAgain)
_reward_decoder = msgspec.json.Decoder(RewardItem)
_batch_decoder = msgspec.json.Decoder(BatchRequest)
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])

T = TypeVar("T")


def slot_event_id(event_id: str, slot: int) -> str:
    """The event_id of slot `slot` (counted from 1) of a request for several."""
    return f"{event_id}:{slot}"


def parse_recommend(body: bytes | msgspec.Raw, limits: Limits, known: KnownActions | None = None) -> RecommendRequest:
    """One question out of JSON bytes; raises `InvalidRequest` that names the field.

    With `known`, actions that were seen before are neither parsed nor checked again.
    """
    if known is not None:
        request = _parse_quickly(body, limits, known)
        if request is not None:
            return request
    read = decode(_recommend_decoder, body)
    actions = None if read.actions is None else [action.action() for action in read.actions]
    request = _request(read, actions)
    check_recommend(request, limits)
    return request


def _request(read: _WireRequest | _ReadAgain, actions: list[Action] | None) -> RecommendRequest:
    return RecommendRequest(
        context=read.context,
        actions=actions,
        event_id=read.event_id,
        excluded=read.excluded or [],
        slots=read.slots,
        deferred=read.deferred,
    )


def _parse_quickly(body: bytes | msgspec.Raw, limits: Limits, known: KnownActions) -> RecommendRequest | None:
    """The question, or None when anything is wrong with it: then the whole of it is read again to say what."""
    try:
        wire = _wire_decoder.decode(body)
        actions = None
        if wire.actions is not None:
            if not 0 < len(wire.actions) <= limits.actions_max:
                return None
            actions = [known.find(raw) for raw in wire.actions]
            if len({action.id for action in actions}) != len(actions):
                return None
    except (msgspec.DecodeError, UnicodeError, RecursionError, InvalidRequest):
        return None
    request = _request(wire, actions)
    _check_all_but_actions(request, limits)
    return request


def check_recommend(request: RecommendRequest, limits: Limits) -> None:
    """Check a question whose types are right already; raises `InvalidRequest`."""
    _check_all_but_actions(request, limits)
    if request.actions is not None:
        _check_actions(request.actions, limits)


def _check_all_but_actions(request: RecommendRequest, limits: Limits) -> None:
    if request.event_id is not None:
        check_name(request.event_id, "event_id", limits)
    check_features(request.context, "context", limits)
    if len(request.excluded) > limits.actions_max:
        raise InvalidRequest("excluded", "has too many entries", f"limits.actions_max = {limits.actions_max}")
    for position, name in enumerate(request.excluded):
        check_name(name, f"excluded[{position}]", limits)
    if request.slots is not None and not 1 <= request.slots <= limits.slots_max:
        raise InvalidRequest("slots", "is out of range", f"1 to limits.slots_max = {limits.slots_max}")
    last = request.slots or 1
    if last > 1 and request.event_id and len(slot_event_id(request.event_id, last)) > limits.name_length_max:
        limit = f"limits.name_length_max = {limits.name_length_max} characters"
        raise InvalidRequest("event_id", "is too long to take the number of a slot", limit)


def _check_actions(actions: list[Action], limits: Limits) -> None:
    if not actions:
        raise InvalidRequest("actions", "must not be empty")
    if len(actions) > limits.actions_max:
        raise InvalidRequest("actions", "has too many entries", f"limits.actions_max = {limits.actions_max}")
    for position, action in enumerate(actions):
        name = action.id
        if not name or len(name) > limits.name_length_max or not name.isprintable():
            check_name(name, f"actions[{position}].id", limits)
        if action.features:
            check_features(action.features, f"actions[{position}].features", limits)
    if len({action.id for action in actions}) != len(actions):
        seen: set[str] = set()
        for position, action in enumerate(actions):
            if action.id in seen:
                raise InvalidRequest(f"actions[{position}].id", "appears twice in actions")
            seen.add(action.id)


def parse_reward(body: bytes | msgspec.Raw, limits: Limits) -> RewardItem:
    """One reward out of JSON bytes; raises `InvalidRequest` that names the field."""
    item = decode(_reward_decoder, body)
    check_event_id(item.event_id, "event_id", limits)
    if item.reward_id is not None:
        check_name(item.reward_id, "reward_id", limits)
    if item.action is not None:
        check_name(item.action, "action", limits)
    if item.event is not None:
        check_name(item.event, "event", limits)
    return item


def split_batch(body: bytes, limits: Limits) -> list[msgspec.Raw]:
    """The undecoded questions of `{"requests": […]}`; raises `InvalidRequest`."""
    return _bounded(decode(_batch_decoder, body).requests, "requests", limits)


def split_list(body: bytes, limits: Limits) -> list[msgspec.Raw]:
    """The undecoded items of a JSON array; raises `InvalidRequest`."""
    return _bounded(decode(_list_decoder, body), "body", limits)


def split_lines(body: bytes, limits: Limits) -> list[bytes]:
    """The lines of an NDJSON body, blank ones left out; raises `InvalidRequest`."""
    return _bounded([line for line in body.split(b"\n") if line.strip()], "body", limits)


def decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    """Decode, turning every way in which that can fail into an error that names a field."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise explain(bytes(body), error, decoder.type) from None


_PATH = re.compile(r" - at `\$\.?([\w.\[\]]*)`$")
_JSON_TYPES = {"bool": "boolean", "float": "number", "int": "integer", "str": "string"}
_NAMES_OF_TYPES = re.compile(rf"\b({'|'.join(_JSON_TYPES)})\b")


def explain(body: bytes, error: Exception, wanted: Any) -> InvalidRequest | MalformedBody:
    """Which field of an undecodable body is to blame, and why, where a `wanted` was expected; raises nothing."""
    if isinstance(error, RecursionError):
        return MalformedBody("body", "is nested too deeply")
    culprit = _find_culprit(body)
    if culprit is not None:
        return InvalidRequest(*culprit)
    if isinstance(error, msgspec.ValidationError):
        return _explain_type(str(error), wanted)
    if isinstance(error, UnicodeError):
        return MalformedBody("body", "is not valid UTF-8")
    place = re.search(r"\(byte (\d+)\)", str(error))
    where = f" at byte {place.group(1)}" if place else ""
    return MalformedBody("body", "is empty, where JSON is expected" if not body else f"is not valid JSON{where}")


def _explain_type(message: str, wanted: Any) -> InvalidRequest:
    if unknown := unknown_member(message):
        path, name = unknown
        field = child(path, name, 0).replace("(member 0)", "(a member)").lstrip(".")
        return InvalidRequest(field, "is not known here", one_of(members_at(wanted, path)))
    found = _PATH.search(message)
    path = found.group(1) if found else ""
    problem = message[: found.start()] if found else message
    missing = re.match(r"Object missing required field `(.*)`", problem)
    if missing:
        return InvalidRequest(f"{path}.{missing.group(1)}" if path else missing.group(1), "is required")
    kinds = re.match(r"Expected `([a-z |]+)`, got `([a-z]+)`$", problem)
    if kinds:
        expected, got = (_NAMES_OF_TYPES.sub(lambda name: _JSON_TYPES[name[0]], kind) for kind in kinds.groups())
        return InvalidRequest(path or "body", f"must be of type {expected}, not {got}")
    return InvalidRequest(path or "body", "is out of range" if "range" in problem else "has the wrong type")


def _find_culprit(body: bytes) -> tuple[str, str] | None:
    """Where a body that Python's lenient parser reads holds what JSON or UTF-8 forbids."""
    try:
        value = json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return path or "body", "is not a finite number"
        if isinstance(value, str) and not _encodable(value):
            return path or "body", "holds a lone surrogate"
        if isinstance(value, dict):
            for position, (name, below) in enumerate(value.items(), start=1):
                where = child(path, name, position).lstrip(".")
                if not _encodable(name):
                    return where, "has a lone surrogate in its name"
                waiting.append((where, below))
        elif isinstance(value, list):
            waiting.extend((f"{path}[{position}]", below) for position, below in enumerate(value))
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _bounded(items: list[T], field: str, limits: Limits) -> list[T]:
    if not items:
        raise InvalidRequest(field, "must not be empty")
    if len(items) > limits.batch_items_max:
        raise InvalidRequest(field, "has too many items", f"limits.batch_items_max = {limits.batch_items_max}")
    return items
