"""The description of the decision API: every address, field, limit and error, as OpenAPI 3.1.

The limits are taken from where they are declared (`bandit.settings.Limits`), as defaults: an experiment may set
its own. A test asks the running service everything that is said here.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from bandit.settings import EXPERIMENT_NAME, Limits
from serving.api.schemas import EXAMPLES, SCHEMAS

_LIMITS = Limits()

_ABOUT = f"""Ask which action to take in a context, and report later what came of it.

A 200 from *recommend* means that the decision is on disk with the probability it was drawn with; a 200 from
*rewards* means that the reward is. When durability is lost the answer is 503, never a false 200.

**Features** are numbers, texts, booleans, null, lists of texts, and objects of these (namespaces). Names are
printable Unicode of at most {_LIMITS.name_length_max} characters; control characters and lone surrogates are refused.
Numbers are finite.

**Retries**: send the same body with the same `event_id` and get the same decision. The same `event_id` with
another body is refused (409). A worker remembers its last 100,000 ids; what goes to another worker, or comes
after a restart, is logged with the digest of its body and settled when decisions are joined with rewards.

**Limits** are settings of the experiment (`limits.*`); the numbers here are the defaults. A refusal names the
limit that it is about.

**Errors** are `application/problem+json` (RFC 9457) and never repeat what was sent."""

_PROBLEMS = {
    400: "The body is not JSON, or not UTF-8.",
    401: "Keys exist, and none that is live was sent.",
    403: "The key does not have the scope, or not for this experiment.",
    404: "There is no such experiment.",
    409: "The event_id was used before with another body.",
    413: f"The body is larger than `limits.body_bytes_max` ({_LIMITS.body_bytes_max:,} bytes), counted while reading.",
    415: "The content type is not one that is accepted, or the body is compressed.",
    421: "No key exists, and the Host header is not a loopback name.",
    422: "A field is missing, of the wrong type, or out of its limit; `errors` names it.",
    501: "The transfer encoding is another than `chunked`.",
    503: "Nothing can be made durable at present, the queue for the disk is full, or the API keys cannot be read; "
    "nothing was recorded.",
}

_EXPERIMENT = {
    "name": "experiment",
    "in": "path",
    "required": True,
    "description": "The experiment's name.",
    "schema": {"type": "string", "pattern": EXPERIMENT_NAME.pattern, "example": "default"},
}
_EVENT_ID = {
    "name": "event_id",
    "in": "path",
    "required": True,
    "description": "The decision's event_id, percent-encoded.",
    "schema": {"type": "string", "minLength": 1, "maxLength": _LIMITS.name_length_max},
}


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "rewardloop decision API", "version": version("rewardloop"), "description": _ABOUT},
        "tags": [
            {"name": "decide", "description": "Ask which action to take."},
            {"name": "report", "description": "Say what came of it."},
            {"name": "personalizer", "description": "For Azure Personalizer's published clients, unchanged."},
            {"name": "health", "description": "Look after the process; needs no key, except for metrics."},
        ],
        "paths": _paths(),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key; ignored while none exists and the port is bound to loopback.",
                },
                "subscription": {"type": "apiKey", "in": "header", "name": "Ocp-Apim-Subscription-Key"},
            },
        },
    }


def _paths() -> dict[str, Any]:
    base = "/v1/experiments/{experiment}"
    rank = "/personalizer/v1.0"
    rank_codes = (400, 401, 403, 404, 409, 413, 415, 503)
    return {
        f"{base}/recommend": {
            "post": _operation(
                "recommend",
                "decide",
                "Ask for one decision, or for several slots at once",
                "`actions` may be left out where the experiment declares a catalogue. With `slots: n` above 1 the "
                "answer is `{decisions: […]}`: n distinct actions drawn in order, each with its own event_id and its "
                "probability given those before it. A `deferred` decision counts once it is activated within the "
                "reward window.",
                body=_json("RecommendRequest", "recommend"),
                answers={200: _answer("The decision is on disk.", "Recommendation", "answer")},
                codes=(400, 401, 403, 404, 409, 413, 415, 421, 422, 501, 503),
                parameters=[_EXPERIMENT],
            )
        },
        f"{base}/recommend/batch": {
            "post": _operation(
                "recommend_batch",
                "decide",
                "Ask for many decisions, judged one by one",
                f"At most `limits.batch_items_max` ({_LIMITS.batch_items_max:,}) requests and `limits.batch_bytes_max` "
                f"({_LIMITS.batch_bytes_max:,}) bytes. `results` has an answer or an `error` for each, in order. "
                "NDJSON, one request a line, is answered by NDJSON.",
                body=_json("BatchRequest", "batch") | _ndjson("One RecommendRequest a line."),
                answers={
                    200: _answer("Every good request's decision is on disk.", "BatchAnswer", None)
                    | {"content": _schema("BatchAnswer") | _ndjson("One answer or `{error}` a line.")}
                },
                codes=(400, 401, 403, 404, 413, 415, 421, 422, 501, 503),
                parameters=[_EXPERIMENT],
            )
        },
        f"{base}/rewards": {
            "post": _operation(
                "rewards",
                "report",
                "Report rewards, one or many",
                "Without `reward_id` the same content again is a retry, other content a further reward, aggregated as "
                "the experiment declares; `sum` and `mean` require it. An unknown event_id is accepted: its decision "
                "may still be on its way. `action`, where given, must be the decided one for the reward to be learnt "
                "from. In a list (or NDJSON) good items are kept whatever the others are; when all are refused the "
                "answer is 422.",
                body=_json("RewardsRequest", "reward") | _ndjson("One Reward a line."),
                answers={200: _answer("`accepted` rewards are on disk.", "RewardsAnswer", "accepted")},
                codes=(400, 401, 403, 404, 413, 415, 421, 422, 501, 503),
                parameters=[_EXPERIMENT],
            )
        },
        f"{base}/events/{{event_id}}/activate": {
            "post": _operation(
                "activate",
                "report",
                "Say that a deferred decision was shown after all",
                "Counts until the reward window, which starts at the decision, has passed. Needs no body.",
                answers={200: _answer("The activation is on disk.", "Activated", "activated")},
                codes=(400, 401, 403, 404, 413, 415, 421, 422, 501, 503),
                parameters=[_EXPERIMENT, _EVENT_ID],
            )
        },
        f"{rank}/rank": {
            "post": _operation(
                "personalizer_rank",
                "personalizer",
                "Rank, as Azure Personalizer does",
                "For the experiment that the key is bound to, else the declared or only one. Excluded actions keep "
                "their place with probability 0.",
                body=_json("RankRequest", "rank"),
                answers={201: _answer("The decision is on disk.", "RankResponse", "ranked")},
                codes=rank_codes,
                error="PersonalizerError",
            )
        },
        f"{rank}/events/{{event_id}}/reward": {
            "post": _operation(
                "personalizer_reward",
                "personalizer",
                "Reward, as Azure Personalizer does",
                "The reward's range is the experiment's.",
                body=_json("RankReward", "rank_reward"),
                answers={204: {"description": "The reward is on disk."}},
                codes=rank_codes,
                error="PersonalizerError",
                parameters=[_EVENT_ID],
            )
        },
        f"{rank}/events/{{event_id}}/activate": {
            "post": _operation(
                "personalizer_activate",
                "personalizer",
                "Activate, as Azure Personalizer does",
                "Needs no body.",
                answers={204: {"description": "The activation is on disk."}},
                codes=rank_codes,
                error="PersonalizerError",
                parameters=[_EVENT_ID],
            )
        },
        "/livez": {"get": _health("livez", "Whether the process answers", "Live")},
        "/readyz": {
            "get": _health(
                "readyz",
                "Whether every experiment can answer durably, and what it serves",
                "Readiness",
                {503: _answer("An experiment cannot answer; the body says which and why.", "Readiness", None)},
            )
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "health",
                "Prometheus metrics of all workers",
                "Each worker is a label of its own; a key needs the scope `read`.",
                answers={
                    200: {"description": "Exposition text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
                },
                codes=(401, 403, 421),
            )
        },
    }


def _operation(
    name: str,
    tag: str,
    summary: str,
    description: str,
    *,
    answers: dict[int, dict[str, Any]],
    codes: tuple[int, ...],
    body: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    error: str = "Problem",
) -> dict[str, Any]:
    media = "application/problem+json" if error == "Problem" else "application/json"
    responses = {str(status): answer for status, answer in answers.items()}
    for code in codes:
        responses[str(code)] = {
            "description": _PROBLEMS[code],
            "content": {media: {"schema": {"$ref": f"#/components/schemas/{error}"}}},
        }
    operation: dict[str, Any] = {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "description": description,
        "responses": responses,
    }
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    operation["security"] = [{"subscription": []}] if tag == "personalizer" else [{"bearer": []}, {}]
    return operation


def _health(name: str, summary: str, schema: str, more: dict[int, dict[str, Any]] | None = None) -> dict[str, Any]:
    operation = _operation(
        name,
        "health",
        summary,
        "Needs no key.",
        answers={200: _answer("Yes.", schema, None)} | (more or {}),
        codes=(421,),
    )
    operation["security"] = [{}]
    return operation


def _schema(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _json(name: str, example: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}, "example": EXAMPLES[example]}}


def _ndjson(description: str) -> dict[str, Any]:
    return {"application/x-ndjson": {"schema": {"type": "string", "description": description}}}


def _answer(description: str, schema: str, example: str | None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if example is not None:
        content["example"] = EXAMPLES[example]
    return {"description": description, "content": {"application/json": content}}
