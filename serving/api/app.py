"""The ASGI application: a short way in for the two hot paths, FastAPI for everything else.

FastAPI's routing and middleware cost more than a whole decision, so `recommend` and `rewards` are recognised
here by their path and answered directly; the same functions also stand behind FastAPI, which describes them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI

from serving.api.access import Headers
from serving.api.endpoints import Api
from serving.api.hosting import Hosting
from serving.api.http import ClientGone, Message, Receive, Reply, Scope, Send, send_reply
from serving.api.routes import describe

_PREFIX = "/v1/experiments/"


def create_app(
    data_dir: Path,
    *,
    writer_id: str,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    durable: bool = True,
    allowed_hosts: frozenset[str] | None = None,
) -> DecisionApp:
    """The decision API over all experiments of a data directory; opens them when the server starts it."""
    hosting = Hosting(data_dir, writer_id=writer_id, clock=clock, durable=durable)
    return DecisionApp(Api(hosting, allowed_hosts=allowed_hosts))


class DecisionApp:
    """An ASGI application with its lifespan."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.fastapi: FastAPI = describe(api)
        self._hot = {"recommend": api.recommend, "rewards": api.rewards}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith(_PREFIX) and scope["method"] == "POST":
                experiment, _, route = path[len(_PREFIX) :].partition("/")
                endpoint = self._hot.get(route)
                if endpoint is not None:
                    headers = Headers.of(scope["headers"])
                    try:
                        reply: Reply = await self.api.run(
                            route, experiment, headers, lambda: endpoint(experiment, headers, receive)
                        )
                    except ClientGone:
                        return
                    await send_reply(send, reply)
                    return
            await self.fastapi(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message: Message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.api.hosting.start()
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.api.hosting.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return
