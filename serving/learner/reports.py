"""What a run of the cycle says about itself: one line of history, and the answer of `models/train`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from evaluation.change import Stretch

INITIAL = "initial"
PROMOTE = "promote"
HOLD = "hold"
ROLLBACK = "rollback"
INSUFFICIENT = "insufficient"
NOTHING = "nothing"
FAILED = "failed"
STOPPED = "stopped"

OUTCOMES = (INITIAL, PROMOTE, HOLD, ROLLBACK, INSUFFICIENT, NOTHING, FAILED, STOPPED)

FIGURES = ("lift", "weighed", "lower", "upper")
"""What a verdict says in numbers: see `Judgement`."""

RUN = "run"
"""The kind in history of a run."""

EVALUATION = "evaluation"
"""The kind in history of a step's verdict."""

FALL = "fall"
"""The kind in history of a fall of what the champion earns, with the challenger that starts anew."""

SETTINGS = "settings"
"""The kind in history of a change of the settings."""


class Judgement(msgspec.Struct, kw_only=True):
    """The verdict on one challenger at one look.

    `lift` is per decision, in units of reward, every row weighing the same; `weighed` is the one that the bounds belong
    to, where stretches of the log weigh what they tell (None where an older version wrote the line). `value` and
    `champion_value` are what both policies are worth, doubly robust (beside an initial model, uniform choice is the
    champion). `rows` were scored in this tenure; `rows_needed` are estimated to be missing until the floors are met,
    `rows_to_show` until a lift is seen (see `evaluation.gate.Verdict`). `model_id` is set once the challenger is
    published. `rejected` means it starts anew. `ledger` is what of α it goes on with (an `AlphaLedger` without its
    looks), on rows matured after `scored_after`; empty where nothing of it is carried on. `former` is what the champion
    earned at last (`evaluation.change.Stretch`), of a challenger that is proven to earn no less.
    """

    challenger: str
    outcome: str
    reason: str
    lift: float | None = None
    weighed: float | None = None
    lower: float | None = None
    upper: float | None = None
    value: float | None = None
    champion_value: float | None = None
    rows: int = 0
    rows_needed: int | None = None
    rows_to_show: dict[str, int | None] = {}
    rejected: bool = False
    evaluation_id: str | None = None
    model_id: str | None = None
    ledger: dict[str, Any] = {}
    scored_after: datetime | None = None
    former: Stretch | None = None


class RunReport(msgspec.Struct, kw_only=True):
    """One run: why it started, what each step took (seconds), rows learnt, and the verdict that counts.

    `rows` are new ones, scored before the standing challenger learnt them; `unscored` ones it learnt besides, which
    are not weighed: from before the champion came back or was set, or learnt anew under other settings.

    The outcome is `initial`, `promote`, `rollback`, `hold`, `insufficient`, `nothing` (no new row, or another champion
    meanwhile), `failed` (see `error`) or `stopped` (with the learner, before its end); `errors` are those of single
    challengers beside the standing one, by name.
    """

    at: datetime
    trigger: str
    outcome: str
    reason: str
    rows: int = 0
    unscored: int = 0
    seconds: float = 0.0
    steps: dict[str, float] = {}
    lift: float | None = None
    weighed: float | None = None
    lower: float | None = None
    upper: float | None = None
    model_id: str | None = None
    champion: str | None = None
    evaluation_id: str | None = None
    verdicts: list[Judgement] = []
    error: str | None = None
    errors: dict[str, str] = {}


def bounded(entry: Mapping[str, Any]) -> float | None:
    """The lift that the bounds of a run or a verdict belong to; lines of older versions have the plain one alone."""
    weighed: float | None = entry.get("weighed")
    return entry.get("lift") if weighed is None else weighed


def to_plain(value: msgspec.Struct) -> dict[str, Any]:
    """The JSON object of a report."""
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain
