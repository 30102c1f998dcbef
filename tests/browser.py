"""A headless Chromium, driven through its debugging pipe: what a page said, asked for, and looks like to a reader.

The pipe carries one JSON message after the other, each ended by a zero byte, so that no WebSocket client is needed.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
)
CUT_OFF = """
for (const details of document.querySelectorAll("details")) details.open = true;
[...document.querySelectorAll("div")].filter((box) => box.scrollWidth > box.clientWidth + 1
  && getComputedStyle(box).overflowX !== "visible").map((box) => box.innerText)
"""
ANSWER_TIMEOUT_S = 30.0


@dataclass
class Visit:
    """One page: its visible text, the width it needs, the texts of what scrolls sideways within it, every URL it asked
    for, what its console complained of, and the answer to what it was asked."""

    text: str = ""
    needed_width: int = 0
    cut_off: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    answer: Any = None


class Browser:
    """A context manager; `profile` is a folder of its own."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        assert program is not None, "Chromium is needed for this test"
        told, self._commands = os.pipe()
        self._answers, tell = os.pipe()
        # Chromium reads commands from descriptor 3 and writes answers to descriptor 4
        script = f'exec "$0" "$@" 3<&{told} 4>&{tell}'
        command = ["bash", "-c", script, program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=(told, tell), stderr=subprocess.DEVNULL)
        os.close(told)
        os.close(tell)
        self._buffer = b""
        self._count = 0
        self._visit = Visit()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._commands)
        os.close(self._answers)
        self._process.terminate()
        self._process.wait(10)

    def visit(
        self,
        url: str,
        *,
        width: int,
        stay_s: float = 0.3,
        ask: str = "null",
        media: Mapping[str, str] | None = None,
    ) -> Visit:
        """Open `url` in a tab of `width` pixels, look at it for `stay_s` after it has loaded, and close it.

        `ask` is evaluated at the end; `media` has features of the medium, and its `type`.
        """
        self._visit = Visit()
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", {}, session)
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", size, session)
        features = [{"name": name, "value": value} for name, value in (media or {}).items() if name != "type"]
        emulated = {"media": (media or {}).get("type", ""), "features": features}
        self._call("Emulation.setEmulatedMedia", emulated, session)
        answer = self._call("Page.navigate", {"url": url}, session)
        assert "errorText" not in answer, answer
        self._listen(until="Page.loadEventFired", seconds=ANSWER_TIMEOUT_S)
        self._listen(until=None, seconds=stay_s)
        self._visit.text = self._evaluate("document.body.innerText", session)
        self._visit.needed_width = self._evaluate("document.documentElement.scrollWidth", session)
        self._visit.answer = self._evaluate(ask, session)
        self._visit.cut_off = self._evaluate(CUT_OFF, session)
        self._call("Target.closeTarget", {"targetId": target})
        return self._visit

    def _evaluate(self, expression: str, session: str) -> Any:
        return self._call("Runtime.evaluate", {"expression": expression, "returnByValue": True}, session)["result"][
            "value"
        ]

    def _call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        os.write(self._commands, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        until = time.monotonic() + ANSWER_TIMEOUT_S
        while (answer := self._next(until)) is not None:
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer)
                return answer["result"]
        raise TimeoutError(method)

    def _listen(self, *, until: str | None, seconds: float) -> None:
        """Note what happens until an event of that name, or, without one, for so many seconds."""
        deadline = time.monotonic() + seconds
        while (message := self._next(deadline)) is not None:
            if message.get("method") == until:
                return
        assert until is None, f"no {until} within {seconds:g} s"

    def _next(self, deadline: float) -> dict[str, Any] | None:
        """The next message, None when none comes before the deadline."""
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                return None
            part = os.read(self._answers, 65536)
            assert part, "Chromium ended"
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, said: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self._visit.requests.append(said["request"]["url"])
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self._visit.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self._visit.complaints.append(json.dumps(said["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self._visit.complaints.append(json.dumps(said["args"]))
