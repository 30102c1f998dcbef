"""The routes that Azure Personalizer's published clients call, in that API's own terms.

A rank request becomes a `RecommendRequest`: the list of context feature objects is merged into one context,
each action's list into its features. The answer keeps excluded actions in their place with probability 0,
as that API documents, and orders the others around them with the chosen one first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from bandit.errors import Conflict, InvalidInput, InvalidRequest, Problem
from bandit.settings import Limits
from bandit.types import Action
from serving.api.answers import Answer
from serving.api.http import Reply
from serving.api.problems import ProblemBody
from serving.api.requests import RecommendRequest, RewardItem, check_recommend, decode


class RankableAction(Struct):
    """An action with a list of feature objects."""

    id: str
    features: list[dict[str, Any]] | None = None


class RankRequest(Struct):
    """The body of a rank call."""

    actions: list[RankableAction]
    context_features: list[dict[str, Any]] | None = msgspec.field(default=None, name="contextFeatures")
    excluded_actions: list[str] | None = msgspec.field(default=None, name="excludedActions")
    event_id: str | None = msgspec.field(default=None, name="eventId")
    defer_activation: bool | None = msgspec.field(default=None, name="deferActivation")


class RewardRequest(Struct):
    """The body of a reward call."""

    value: float


class RankedAction(Struct):
    """An action in the answer to a rank call."""

    id: str
    probability: float


class RankResponse(Struct):
    """The answer to a rank call."""

    ranking: list[RankedAction]
    event_id: str = msgspec.field(name="eventId")
    reward_action_id: str = msgspec.field(name="rewardActionId")


_rank_decoder = msgspec.json.Decoder(RankRequest)
_reward_decoder = msgspec.json.Decoder(RewardRequest)
_encoder = msgspec.json.Encoder()

_THEIR_NAMES = {
    "context": "contextFeatures",
    "deferred": "deferActivation",
    "event_id": "eventId",
    "excluded": "excludedActions",
    "reward": "value",
}
_OUR_NAME = re.compile(rf"^({'|'.join(_THEIR_NAMES)})\b")

_CODES = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "ResourceNotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "RequestBodyTooLarge",
    415: "UnsupportedMediaType",
    501: "NotImplemented",
    503: "ServiceUnavailable",
}


def parse_rank(body: bytes, limits: Limits) -> RecommendRequest:
    """The question in a rank body; raises `InvalidRequest` that names the field in that API's terms."""
    rank = decode(_rank_decoder, body)
    request = RecommendRequest(
        context=merge_features(rank.context_features or []),
        actions=[
            Action(action.id, merge_features(action.features or [], f"actions[{position}].features"))
            for position, action in enumerate(rank.actions)
        ],
        event_id=rank.event_id or None,
        excluded=rank.excluded_actions or [],
        deferred=bool(rank.defer_activation),
    )
    with in_their_terms():
        check_recommend(request, limits)
    return request


@contextmanager
def in_their_terms() -> Iterator[None]:
    """Raises what the block raises, with fields named as that API names them."""
    try:
        yield
    except InvalidInput as error:
        theirs = [Problem(_their(entry.field), entry.problem, entry.limit) for entry in error.problems]
        raise InvalidRequest.of(theirs) from None
    except Conflict as error:
        raise Conflict(_their(str(error))) from None


def _their(text: str) -> str:
    """`text` with the field that it begins with in that API's name."""
    return _OUR_NAME.sub(lambda found: _THEIR_NAMES[found.group(1)], text)


def parse_rank_reward(body: bytes, event_id: str) -> RewardItem:
    """The reward in a reward body; raises `InvalidRequest`."""
    return RewardItem(event_id=event_id, reward=decode(_reward_decoder, body).value)


def merge_features(parts: list[dict[str, Any]], field: str = "contextFeatures") -> dict[str, Any]:
    """One feature object out of the several in `field`: objects of one name are merged, texts become a list.

    Any other clash of a name is refused: keeping the last one would lose a feature without a word.

    >>> merge_features([{"user": {"age": 3}}, {"user": {"vip": True}}, {"tag": "a"}, {"tag": "b"}])
    {'user': {'age': 3, 'vip': True}, 'tag': ['a', 'b']}
    """
    merged: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            merged[name] = _combine(merged[name], value, field) if name in merged else value
    return merged


def _combine(known: Any, value: Any, field: str) -> Any:
    if known == value and type(known) is type(value):
        return known
    if isinstance(known, dict) and isinstance(value, dict):
        return merge_features([known, value], field)
    texts = [entry if isinstance(entry, list) else [entry] for entry in (known, value)]
    combined = [text for entry in texts for text in entry]
    if all(isinstance(text, str) for text in combined):
        return combined
    raise InvalidRequest(field, "two of its objects give one feature different values")


def rank_reply(request: RecommendRequest, answer: Answer) -> Reply:
    """The 201 of a rank call."""
    excluded = set(request.excluded)
    ranked = iter(answer.ranking)
    ranking = []
    for action in request.actions or []:
        if action.id in excluded:
            ranking.append(RankedAction(action.id, 0.0))
        else:
            entry = next(ranked)
            ranking.append(RankedAction(entry.action, entry.probability))
    body = RankResponse(ranking, answer.event_id, answer.action)
    return Reply(201, _encoder.encode(body))


def error_reply(problem: ProblemBody, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """A problem in that API's error body; what cannot be understood is 400 there, not 422."""
    status = 400 if problem.status in (421, 422) else problem.status
    code = _CODES.get(status, "BadRequest" if status < 500 else "InternalServerError")
    error: dict[str, Any] = {"code": code, "message": problem.detail}
    if problem.errors:
        error["target"] = problem.errors[0].field
        error["details"] = [
            {"code": code, "target": entry.field, "message": _sentence(entry.problem, entry.limit)}
            for entry in problem.errors
        ]
    return Reply(status, _encoder.encode({"error": error}), headers=headers)


def _sentence(problem: str, limit: str | None) -> str:
    return problem if limit is None else f"{problem} (limit: {limit})"
