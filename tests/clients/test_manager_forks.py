"""A manager made before a fork: each process steps over a connection of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def test_a_process_forked_after_the_manager_was_made_has_a_connection_of_its_own(server: Any) -> None:
    server.script = [(200, {"workers": [{"kind": "worker"}]})]
    program = (
        "import os\n"
        "from rewardloop_client import ExperimentManager\n"
        f"manager = ExperimentManager('shop', url={server.url!r}, admin_url={server.url!r})\n"
        "child = os.fork()\n"
        "for _ in range(3): manager.pause_schedule()\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert sum(path.endswith("/pause") for path, _, _ in server.seen) == 6
    assert len(server.connections) == 2
