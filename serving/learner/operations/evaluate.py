"""What other policies would have earned on the log, ranked: as plain values for the commands, as a frame for Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandit.errors import InvalidInput
from evaluation.gate import GateRules
from evaluation.ranking import Ranked, rank
from evaluation.scored import ScoredRows
from joiner.parquet import read_parquet
from joiner.window import window
from serving.learner.catch_up import catch_up
from serving.learner.training.what_if import Answered, Asked, as_table, check_names
from serving.learner.training_step import selected_rows_file
from serving.learner.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def run(
    workspace: Workspace,
    *,
    policies: Sequence[str],
    last: str | None = None,
    since: str | None = None,
    until: str | None = None,
    mode: str | None = None,
    slice: str | None = None,
    model_id: str | None = None,
    origin: str | None = None,
) -> dict[str, Any]:
    """Evaluate each policy on the matured interactions that the window selects, as in `join`; the default is all.

    What is trained here is trained on these alone. Raises `InvalidInput`, `NotFound` for a model or an action that is
    not there, `Busy` while another evaluation is under way or the learner stops, `Refused` for one that takes more
    time or memory than `training.*` allow.
    """
    check_names(policies)
    tables = {name[6:]: _table(Path(name[6:])) for name in policies if name.startswith("table:")}
    asked_for = {"last": last, "since": since, "until": until, "mode": mode, "slice": slice}
    filter_ = window(workspace.clock(), **asked_for, model_id=model_id, origin=origin)
    with workspace.evaluating() as evaluator:
        catch_up(workspace)
        joined_until = workspace.warehouse.joined_until()
        if joined_until is None:
            raise InvalidInput("evaluate", "no interaction has matured yet")
        experiment = workspace.experiment
        with selected_rows_file(workspace, "rows", filter_, after=None, until=joined_until) as (file, count):
            if not count:
                raise InvalidInput("evaluate", "no interaction has matured in this window")
            asked = Asked(experiment.paths.root, experiment.name, file, tuple(dict.fromkeys(policies)), tables)
            answered: Answered = evaluator.score(asked, limits=experiment.settings.training)
    rows = ScoredRows.of(answered.scores)
    ranked = rank(
        {name: _judged(rows, answered, name) for name in answered.pmfs},
        rules=GateRules.of(workspace.experiment.settings.gate),
    )
    return {
        "title": f"{len(rows):,} interactions, logged mean reward {rows.reward.mean():.4f}",
        "interactions": len(rows),
        "logged": float(rows.reward.mean()),
        "policies": [_entry(entry) for entry in ranked],
        "note": (
            f"Doubly-robust values with 95% intervals that hold for all {len(ranked)} at once. A stored model is "
            "judged only on rows it had not learnt from; one that is trained here is scored before it learns each row."
        ),
    }


def evaluate(workspace: Workspace, *, policies: Sequence[str], **window: str | None) -> pd.DataFrame:
    """The same from Python: one row per policy, best first, with the columns of `evaluation.ranking.Ranked`.

    `window` takes last, since, until, mode, slice, model_id and origin, as `run` does. Values, intervals and lifts are
    in reward units per decision; NaN where the log cannot tell (`answered` is false, `answer` says why). A script that
    calls this keeps its own work under `if __name__ == "__main__":`, since the process that scores imports it anew.
    Raises `InvalidInput`.
    """
    import pandas as pd

    ranked = run(workspace, policies=policies, **window)["policies"]
    columns = [field.name for field in fields(Ranked)]
    numbers = [name for name in columns if name not in {"policy", "n", "answered", "answer"}]
    return pd.DataFrame(ranked, columns=columns).astype(dict.fromkeys(numbers, float))


def _judged(rows: ScoredRows, answered: Answered, name: str) -> ScoredRows:
    return replace(rows, candidate=answered.pmfs[name]).where(answered.allowed[name])


def _entry(entry: Ranked) -> dict[str, Any]:
    plain = entry.to_dict()
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in plain.items()
    }


def _table(path: Path) -> dict[str, list[float]]:
    if not path.is_file():
        raise InvalidInput("policy table", "is not a file")
    frame = read_parquet(path)
    if not {"event_id", "pmf"} <= set(frame.columns):
        raise InvalidInput("policy table", "needs the columns event_id and pmf")
    return as_table(list(frame["event_id"]), list(frame["pmf"]))
