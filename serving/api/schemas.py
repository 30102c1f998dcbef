"""The JSON schemas of what goes over the wire, with an example of each message."""

from __future__ import annotations

from typing import Any

from bandit.settings import Limits
from serving.api.problems import TITLES

_LIMITS = Limits()
_NAME = {"type": "string", "minLength": 1, "maxLength": _LIMITS.name_length_max}
_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(
    properties: dict[str, Any], required: list[str], description: str, *, closed: bool = False
) -> dict[str, Any]:
    schema = {"type": "object", "description": description, "properties": properties, "required": required}
    return schema | {"additionalProperties": False} if closed else schema


def _said(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return schema | {"description": description}


SCHEMAS: dict[str, Any] = {
    "Features": {
        "type": "object",
        "description": (
            f"At most {_LIMITS.features_max:,} features (`limits.features_max`), nested at most {_LIMITS.depth_max} "
            "deep (`limits.depth_max`)."
        ),
        "propertyNames": _NAME,
        "maxProperties": _LIMITS.features_max,
        "additionalProperties": _ref("Feature"),
    },
    "Feature": {
        "description": f"A text has at most {_LIMITS.text_length_max:,} characters (`limits.text_length_max`).",
        "anyOf": [
            {"type": "number"},
            {"type": "string", "maxLength": _LIMITS.text_length_max},
            {"type": "boolean"},
            {"type": "null"},
            {"type": "array", "items": {"type": "string", "maxLength": _LIMITS.text_length_max}},
            _ref("Features"),
        ],
    },
    "Action": _object(
        {
            "id": _said(_NAME, "Unique among the actions offered."),
            "features": {
                **_ref("Features"),
                "description": "Left out or empty: those of the catalogue, if it is there.",
            },
        },
        ["id"],
        "One candidate.",
        closed=True,
    ),
    "RecommendRequest": _object(
        {
            "context": _said(_ref("Features"), "What is known before choosing."),
            "actions": {
                "type": ["array", "null"],
                "items": _ref("Action"),
                "minItems": 1,
                "maxItems": _LIMITS.actions_max,
                "description": "The candidates, the one that would be taken anyway first. Left out: the catalogue.",
            },
            "event_id": _said(
                {**_NAME, "type": ["string", "null"]}, "Names the decision; a UUIDv7 is made where it is left out."
            ),
            "excluded": {
                "type": ["array", "null"],
                "items": _NAME,
                "maxItems": _LIMITS.actions_max,
                "description": "Ids of actions not to choose now; removed before the draw.",
            },
            "slots": {
                "type": ["integer", "null"],
                "minimum": 1,
                "maximum": _LIMITS.slots_max,
                "description": "How many distinct actions to draw (`limits.slots_max`); 1 is as if left out.",
            },
            "deferred": {"type": "boolean", "default": False, "description": "Counts only once it is activated."},
        },
        ["context"],
        "A question.",
        closed=True,
    ),
    "RankedAction": _object(
        {"action": _NAME, "probability": _PROBABILITY}, ["action", "probability"], "An offered action."
    ),
    "Decision": _object(
        {
            "event_id": _said({"type": "string"}, "Send it back with the reward."),
            "action": _said(_NAME, "The drawn action."),
            "probability": _said(_PROBABILITY, "The chance with which it was drawn, all mixtures included."),
            "model_id": _said({"type": "string"}, "The model that decided; `cold-start` or `baseline` where none did."),
            "ranking": {
                "type": "array",
                "items": _ref("RankedAction"),
                "description": "The drawn action, then the others by probability.",
            },
        },
        ["event_id", "action", "probability", "model_id", "ranking"],
        "A decision.",
    ),
    "Decisions": _object(
        {"decisions": {"type": "array", "items": _ref("Decision"), "minItems": 2}},
        ["decisions"],
        "The decisions for several slots, in order.",
    ),
    "Recommendation": {"anyOf": [_ref("Decision"), _ref("Decisions")]},
    "BatchRequest": _object(
        {
            "requests": {
                "type": "array",
                "items": _ref("RecommendRequest"),
                "minItems": 1,
                "maxItems": _LIMITS.batch_items_max,
            }
        },
        ["requests"],
        "Many questions.",
        closed=True,
    ),
    "BatchAnswer": _object(
        {
            "results": {
                "type": "array",
                "items": {
                    "anyOf": [
                        _ref("Decision"),
                        _ref("Decisions"),
                        _object({"error": _ref("Problem")}, ["error"], "No."),
                    ]
                },
            }
        },
        ["results"],
        "An answer or an error for each question, in order.",
    ),
    "Reward": _object(
        {
            "event_id": _said(_NAME, "The decision it belongs to."),
            "reward": {"type": ["number", "null"], "description": "Within `rewards.min` and `rewards.max`."},
            "event": _said(
                {**_NAME, "type": ["string", "null"]}, "Instead of `reward`: a name declared in `rewards.events`."
            ),
            "value": {"type": ["number", "null"], "description": "What the named event is scaled by."},
            "reward_id": _said(
                {**_NAME, "type": ["string", "null"]}, "Tells a retry from a further reward; `sum` and `mean` need it."
            ),
            "action": _said({**_NAME, "type": ["string", "null"]}, "The action that is rewarded, as a check."),
        },
        ["event_id"],
        "What came of a decision.",
        closed=True,
    ),
    "RewardsRequest": {
        "anyOf": [
            _ref("Reward"),
            {"type": "array", "items": _ref("Reward"), "minItems": 1, "maxItems": _LIMITS.batch_items_max},
        ]
    },
    "RewardsAnswer": _object(
        {
            "accepted": _said({"type": "integer", "minimum": 0}, "How many rewards are on disk."),
            "errors": {"type": "array", "items": _ref("ItemError")},
        },
        ["accepted", "errors"],
        "What was kept.",
    ),
    "ItemError": _object(
        {
            "index": _said({"type": "integer", "minimum": 0}, "The item's place, from 0."),
            "status": {"type": "integer"},
            "field": {"type": "string"},
            "problem": {"type": "string"},
            "limit": {"type": "string"},
        },
        ["index", "status", "field", "problem"],
        "What was wrong with one item.",
    ),
    "Activated": _object({"event_id": {"type": "string"}}, ["event_id"], "The activated decision."),
    "Problem": _object(
        {
            "type": {"enum": [f"urn:rewardloop:problem:{kind}" for kind in TITLES]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "errors": {"type": "array", "items": _ref("FieldProblem")},
        },
        ["type", "title", "status", "detail", "errors"],
        "A refusal (RFC 9457).",
    ),
    "FieldProblem": _object(
        {
            "field": _said({"type": "string"}, "The path of the field, as in `actions[0].features.price`."),
            "problem": {"type": "string"},
            "limit": _said({"type": "string"}, "The limit, and the setting that would lift it."),
        },
        ["field", "problem"],
        "One thing wrong with one field.",
    ),
    "RankRequest": _object(
        {
            "contextFeatures": {"type": ["array", "null"], "items": _ref("Features")},
            "actions": {
                "type": "array",
                "minItems": 1,
                "maxItems": _LIMITS.actions_max,
                "items": _object(
                    {"id": _NAME, "features": {"type": ["array", "null"], "items": _ref("Features")}},
                    ["id"],
                    "An action.",
                ),
            },
            "excludedActions": {"type": ["array", "null"], "items": _NAME},
            "eventId": {"type": ["string", "null"], "maxLength": _LIMITS.name_length_max},
            "deferActivation": {"type": ["boolean", "null"]},
        },
        ["actions"],
        "A rank call.",
    ),
    "RankResponse": _object(
        {
            "ranking": {
                "type": "array",
                "items": _object({"id": _NAME, "probability": _PROBABILITY}, ["id", "probability"], "An action."),
            },
            "eventId": {"type": "string"},
            "rewardActionId": _NAME,
        },
        ["ranking", "eventId", "rewardActionId"],
        "The answer to a rank call.",
    ),
    "RankReward": _object({"value": {"type": "number"}}, ["value"], "A reward call."),
    "PersonalizerError": _object(
        {
            "error": _object(
                {
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "target": {"type": "string"},
                    "details": {"type": "array", "items": {"type": "object"}},
                },
                ["code", "message"],
                "What was wrong.",
            )
        },
        ["error"],
        "A refusal in that API's terms.",
    ),
    "Live": _object({"live": {"const": True}}, ["live"], "The process answers."),
    "Readiness": _object(
        {
            "ready": {"type": "boolean"},
            "reason": _said({"type": "string"}, "Why no experiment can be asked, where that is so."),
            "experiments": {
                "type": "object",
                "additionalProperties": _object(
                    {
                        "ready": {"type": "boolean"},
                        "serving": {"enum": ["champion", "fallback", "cold-start"]},
                        "model_id": {"type": "string"},
                        "champion": {"type": ["string", "null"]},
                        "fallback": _said({"type": "string"}, "Why the champion is not served."),
                        "mode": {"type": "string"},
                        "settings_version": {"type": "integer"},
                        "reason": _said({"type": "string"}, "Why it is not ready."),
                    },
                    ["ready"],
                    "One experiment.",
                ),
            },
        },
        ["ready", "experiments"],
        "What is served.",
    ),
}

_DECISION = {
    "event_id": "0198c3f2-7d3a-7c1e-9b0a-3f1d5e2c4b6a",
    "action": "sport",
    "probability": 0.85,
    "model_id": "m20260301t120000-1f2e3d4c",
    "ranking": [{"action": "sport", "probability": 0.85}, {"action": "news", "probability": 0.15}],
}

EXAMPLES: dict[str, Any] = {
    "recommend": {
        "context": {"hour": 20, "device": "phone", "interests": ["football", "cooking"]},
        "actions": [{"id": "news", "features": {"length_min": 4}}, {"id": "sport", "features": {"length_min": 9}}],
    },
    "answer": _DECISION,
    "batch": {"requests": [{"context": {"hour": 20}, "actions": [{"id": "news"}, {"id": "sport"}]}]},
    "reward": {"event_id": "0198c3f2-7d3a-7c1e-9b0a-3f1d5e2c4b6a", "reward": 1.0},
    "accepted": {"accepted": 1, "errors": []},
    "activated": {"event_id": "0198c3f2-7d3a-7c1e-9b0a-3f1d5e2c4b6a"},
    "rank": {
        "contextFeatures": [{"timeOfDay": "evening"}],
        "actions": [{"id": "news", "features": [{"length_min": 4}]}, {"id": "sport", "features": [{"length_min": 9}]}],
        "excludedActions": [],
        "eventId": "0198c3f2-7d3a-7c1e-9b0a-3f1d5e2c4b6b",
        "deferActivation": False,
    },
    "ranked": {
        "ranking": [{"id": "sport", "probability": 0.85}, {"id": "news", "probability": 0.15}],
        "eventId": "0198c3f2-7d3a-7c1e-9b0a-3f1d5e2c4b6b",
        "rewardActionId": "sport",
    },
    "rank_reward": {"value": 1.0},
}
