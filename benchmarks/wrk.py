"""Load from wrk, a generator in C: beside two workers on two cores, one in Python is much of what gets measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_SCRIPT = """
local requests, nextone = {}, 0
function init(args)
  for line in io.lines(args[1]) do
    if #line > 0 then
      requests[#requests + 1] = wrk.format("POST", nil, {["content-type"] = "application/json"}, line)
    end
  end
end
function request()
  nextone = nextone % #requests + 1
  return requests[nextone]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests_per_s": %.3f, "p50_ms": %.6f, "p99_ms": %.6f, "statuses": {"200": %d}, "lost": %d}\\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.requests, errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
"""


def available() -> bool:
    """Whether wrk is installed (Debian: `apt-get install wrk`)."""
    return shutil.which("wrk") is not None


def load(
    port: int, path: str, bodies: Path, *, connections: int, seconds: float, core: int | None = None
) -> dict[str, Any]:
    """What `benchmarks.load` tells, from one run of wrk; answers that are no success count as lost."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-wrk-") as folder:
        script = Path(folder) / "bodies.lua"
        script.write_text(_SCRIPT)
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s", "-s", str(script)]
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{port}{path}", "--", str(bodies)],
            capture_output=True,
            check=True,
            text=True,
            preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
