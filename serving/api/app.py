"""The ASGI application: a short way in for the two hot paths, FastAPI for everything else.

FastAPI's routing and middleware cost more than a whole decision, so `recommend` and `rewards` are recognised
here by their path and answered directly; the same functions also stand behind FastAPI, which describes them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI

from serving.api.access import Headers
from serving.api.authority import Authority
from serving.api.endpoints import RECOMMEND, REWARDS, Api, Begun, Route
from serving.api.hosting import Hosting
from serving.api.http import ClientGone, Message, Receive, Reply, Scope, Send, send_reply
from serving.api.routes import describe

_PREFIX = "/v1/experiments/"
_PREFIX_BYTES = _PREFIX.encode()

Endpoint = Callable[[str, Headers, Receive], Awaitable[Reply]]
Begin = Callable[[str, Headers, bytes], Begun]


class HotRoute(NamedTuple):
    """One address of one experiment that is worth a short way."""

    route: Route
    experiment: str
    begin: Begin


def create_app(
    data_dir: Path,
    *,
    writer_id: str,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    durable: bool = True,
    allowed_hosts: frozenset[str] | None = None,
    default_experiment: str | None = None,
    closed: bool = False,
) -> DecisionApp:
    """The decision API over all experiments of a data directory; opens them when the server starts it.

    `allowed_hosts` are the Host headers to answer for while no key exists (None: any); `default_experiment` is
    what Personalizer's routes mean where the key does not say it; `closed` lets nobody in while no key exists.
    """
    authority = Authority(data_dir, allowed_hosts, closed=closed)
    hosting = Hosting(data_dir, writer_id=writer_id, clock=clock, durable=durable, also=authority.refresh)
    return DecisionApp(Api(hosting, authority, default_experiment=default_experiment))


class DecisionApp:
    """An ASGI application with its lifespan."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.fastapi: FastAPI = describe(api)
        self._by_url: dict[bytes, HotRoute] = {}
        self._hot: dict[str, tuple[Route, Endpoint, Begin]] = {
            "recommend": (RECOMMEND, api.recommend, api.begin_recommend),
            "rewards": (REWARDS, api.rewards, api.begin_rewards),
        }

    def hot(self, url: bytes) -> HotRoute | None:
        """What answers a POST to this very address, where that is *recommend* or *rewards* of an open experiment."""
        route = self._by_url.get(url)
        if route is None and url.startswith(_PREFIX_BYTES):
            experiment, _, name = url[len(_PREFIX_BYTES) :].decode("latin-1").partition("/")
            if name in self._hot and experiment in self.api.hosting.hosted:
                route = self._by_url[url] = HotRoute(self._hot[name][0], experiment, self._hot[name][2])
        return route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith(_PREFIX) and scope["method"] == "POST":
                experiment, _, name = path[len(_PREFIX) :].partition("/")
                hot = self._hot.get(name)
                if hot is not None:
                    route, endpoint, _ = hot
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
                except Exception as error:  # whatever it is, the server is told and it is raised again
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.api.hosting.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return
