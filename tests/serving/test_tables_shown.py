"""Tables on a terminal: folded where it is narrow, with every number and name whole."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

SHOW = """
from serving.cli.common import print_table
columns = ["algorithm", "mean reward", "last 500", "regret", "insufficient"]
print_table(None, columns, [["rewardloop default", "0.8850 ± 0.0012", "0.9940 ± 0.0011", "1,211.5 ± 12.3", None]])
"""


def shown(columns: int) -> list[str]:
    """The lines that a terminal of this width is given, without what only styles them."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    subprocess.run([sys.executable, "-c", SHOW], stdout=theirs, env=environment | {"TERM": "xterm"}, check=True)
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


@pytest.mark.parametrize("columns", [200, 80, 70, 60, 40])
def test_no_number_and_no_error_is_cut_whatever_the_width(columns: int) -> None:
    lines = shown(columns)
    words = " ".join(lines).split()
    for word in ("0.8850", "0.0012", "0.9940", "0.0011", "1,211.5", "12.3", "mean", "insufficient", "rewardloop"):
        assert word in words
    assert "…" not in " ".join(lines)


def test_a_table_is_folded_to_the_terminal_and_left_alone_where_there_is_room() -> None:
    assert max(map(len, shown(70))) <= 70
    assert len(shown(200)) == 2
