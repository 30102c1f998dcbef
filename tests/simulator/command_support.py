"""The commands of simulated worlds as they are typed, run in this process."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from serving.cli import cli

SMALL = ("--interactions", "100", "--batch", "50", "--warm-start", "40", "--jobs", "1")
BRIEF = ("--interactions", "20", "--batch", "20", "--warm-start", "0", "--jobs", "1")
"""For claims that hold before anything is learnt."""


def rewardloop(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), standalone_mode=False, catch_exceptions=True)


def said(result: Result) -> dict[str, Any]:
    assert result.exception is None, result.exception
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer
