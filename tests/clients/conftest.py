"""A scripted HTTP server: answers what it is told, waits when told to, and keeps what it was sent."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

DRIP = -1


class Scripted(ThreadingHTTPServer):
    """Answers with the scripted (status, body) pairs in order, the last one for ever; keeps what it was sent.

    The status 0 hangs up without an answer, and `DRIP` begins one that never ends. A function in the script makes the
    pair from what was sent. `headers` go with every answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[tuple[int, Any] | Callable[[Any], tuple[int, Any]]] = []
        self.seen: list[tuple[str, Any, dict[str, str]]] = []
        self.connections: set[tuple[str, int]] = set()
        self.delay_s = 0.0
        self.headers: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.connections.add(self.client_address)
        sent = json.loads(body) if body else None
        self.server.seen.append((self.path, sent, dict(self.headers)))
        time.sleep(self.server.delay_s)
        script = self.server.script
        scripted = script.pop(0) if len(script) > 1 else script[0]
        status, answer = scripted(sent) if callable(scripted) else scripted
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        if status == 0:  # hang up without an answer
            self.close_connection = True
            return
        if status == DRIP:
            self._drip()
            return
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.do_POST()

    def _drip(self) -> None:
        """Begin an answer that never ends, until the client hangs up."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                self.wfile.write(b" ")
                time.sleep(0.03)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    thread = threading.Thread(target=scripted.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield scripted
    scripted.shutdown()
    scripted.server_close()
    thread.join()
