"""FastAPI's part: the cold routes, and the description of all of them at `/openapi.json` and `/docs`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bandit.errors import InvalidRequest, Problem
from serving.api.access import Headers
from serving.api.docs_page import DOCS_POLICY, addressed, render_docs
from serving.api.endpoints import (
    ACTIVATE,
    BATCH,
    HEALTH,
    METRICS,
    RANK,
    RANK_ACTIVATE,
    RANK_REWARD,
    RECOMMEND,
    REWARDS,
    Api,
    Route,
)
from serving.api.http import ClientGone, Reply, problem_reply
from serving.api.openapi import document
from serving.api.personalizer import error_reply
from serving.api.problems import problem

EXPERIMENT = "/v1/experiments/{experiment}"


def describe(api: Api) -> FastAPI:
    """A FastAPI application over the endpoints."""
    # no redirects: a client that follows one may send its POST again as a GET, or without its body
    app = FastAPI(title="rewardloop decision API", docs_url=None, redoc_url=None, redirect_slashes=False)
    description = document()
    page = render_docs(description)
    app.openapi = lambda: description  # type: ignore[method-assign]

    async def run(
        request: Request, route: Route, experiment: str | None, endpoint: Callable[[Headers], Awaitable[Reply]]
    ) -> Response:
        headers = Headers.of(request.scope["headers"])
        try:
            return respond(await api.run(route, experiment, headers, lambda: endpoint(headers)))
        except ClientGone:
            return Response(status_code=499)

    @app.post(f"{EXPERIMENT}/recommend")
    async def recommend(experiment: str, request: Request) -> Response:
        return await run(request, RECOMMEND, experiment, lambda h: api.recommend(experiment, h, request.receive))

    @app.post(f"{EXPERIMENT}/recommend/batch")
    async def recommend_batch(experiment: str, request: Request) -> Response:
        return await run(request, BATCH, experiment, lambda h: api.recommend_batch(experiment, h, request.receive))

    @app.post(f"{EXPERIMENT}/rewards")
    async def rewards(experiment: str, request: Request) -> Response:
        return await run(request, REWARDS, experiment, lambda h: api.rewards(experiment, h, request.receive))

    @app.post(f"{EXPERIMENT}/events/{{event_id:path}}/activate")
    async def activate(experiment: str, event_id: str, request: Request) -> Response:
        async def endpoint(headers: Headers) -> Reply:
            check_encoding(request, "event_id")
            return await api.activate(experiment, event_id, headers, request.receive)

        return await run(request, ACTIVATE, experiment, endpoint)

    @app.post("/personalizer/v1.0/rank")
    async def rank(request: Request) -> Response:
        experiment = api.personalizer_experiment(Headers.of(request.scope["headers"]))
        return await run(request, RANK, experiment, lambda h: api.rank(experiment, h, request.receive))

    @app.post("/personalizer/v1.0/events/{event_id:path}/reward")
    async def rank_reward(event_id: str, request: Request) -> Response:
        experiment = api.personalizer_experiment(Headers.of(request.scope["headers"]))

        async def endpoint(headers: Headers) -> Reply:
            check_encoding(request, "eventId")
            return await api.rank_reward(experiment, event_id, headers, request.receive)

        return await run(request, RANK_REWARD, experiment, endpoint)

    @app.post("/personalizer/v1.0/events/{event_id:path}/activate")
    async def rank_activate(event_id: str, request: Request) -> Response:
        experiment = api.personalizer_experiment(Headers.of(request.scope["headers"]))

        async def endpoint(headers: Headers) -> Reply:
            check_encoding(request, "eventId")
            return await api.rank_activate(experiment, event_id, headers, request.receive)

        return await run(request, RANK_ACTIVATE, experiment, endpoint)

    @app.api_route("/livez", methods=["GET", "HEAD"])
    async def livez(request: Request) -> Response:
        return await run(request, HEALTH, None, lambda h: api.livez())

    @app.api_route("/readyz", methods=["GET", "HEAD"])
    async def readyz(request: Request) -> Response:
        return await run(request, HEALTH, None, lambda h: api.readyz())

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        return await run(request, METRICS, None, api.metrics)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        asked = addressed(page, request.scope["scheme"], request.headers.get("host"), request.scope.get("server"))
        return Response(asked, media_type="text/html; charset=utf-8", headers={"content-security-policy": DOCS_POLICY})

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return Response(status_code=307, headers={"location": "/docs"})

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        reply_with = error_reply if request.scope["path"].startswith("/personalizer/") else problem_reply
        if error.status_code == 405:
            headers = tuple((name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items())
            wrong = Problem("method", "is not taken by this address", (error.headers or {}).get("Allow"))
            return respond(reply_with(problem("method-not-allowed", str(wrong), [wrong]), headers))
        wrong = Problem("path", "is no address of this service; see /docs")
        if _known(app, request, request.scope["path"].rstrip("/")):
            wrong = Problem("path", "is an address of this service only without the slash at its end")
        return respond(reply_with(problem("not-found", str(wrong), [wrong]), ()))

    return app


def check_encoding(request: Request, field: str) -> None:
    """Refuse an address whose percent-encoded bytes are no UTF-8; raises `InvalidRequest` that names `field`.

    The server decodes it leniently: different bytes would all become the same replacement characters.
    """
    try:
        unquote_to_bytes(request.scope.get("raw_path", b"")).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(field, "is not valid UTF-8 in the address") from None


def _known(app: FastAPI, request: Request, path: str) -> bool:
    """Whether `path` would be an address for this request."""
    scope = {**request.scope, "path": path}
    return any(route.matches(scope)[0] != Match.NONE for route in app.routes)


def respond(reply: Reply) -> Response:
    """A reply as Starlette's response."""
    if reply.status == 204:
        return Response(status_code=204)
    response = Response(reply.body, reply.status, media_type=reply.content_type.decode("latin-1"))
    for name, value in reply.headers:
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    return response
