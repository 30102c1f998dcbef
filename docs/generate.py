"""Writes the reference pages that come out of the code: `python docs/generate.py` (a test compares them)."""

from __future__ import annotations

import json
from pathlib import Path

from bandit.settings.reference import settings_reference
from benchmarks.bench import BENCHES
from benchmarks.claims import MARK, read

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"

INTRODUCTION = """# Settings of an experiment

Every setting, its default and its limit. In the TOML file (`rewardloop init` writes one with these comments) they stand
at the top level, `[rewards]`, or, where several experiments are declared, under `[experiments.<name>.rewards]`; over
the admin API they are the JSON object of the same shape. A key that is not in this table is refused by name. This page
is written by `python docs/generate.py`.

| setting | default | values | meaning |
|---|---|---|---|
"""


def settings_page() -> str:
    """The Markdown text of docs/settings.md."""
    rows = []
    for setting in settings_reference():
        default = "none" if setting.default is None else f"`{json.dumps(setting.default)}`"
        limit = f" {setting.limit}" if setting.limit else ""
        meaning = setting.meaning.replace("|", "&#124;")
        rows.append(f"| `{setting.key}` | {default} | {setting.kind}{limit} | {meaning} |")
    return INTRODUCTION + "\n".join(rows) + "\n"


BENCHMARKS = """# Benchmarks

`make bench` measures every promise about speed beside a yardstick that runs in the same minutes on the same machine,
and ends with the table below; `python -m benchmarks.bench --only api_bench` runs one of its parts. What each printed is
kept in [benchmarks/results](../benchmarks/results), headed by the command, the machine and what its disk takes to sync,
and this page quotes it (`python docs/generate.py` writes it, a test compares them). The figures were measured on a
shared virtual machine, whose speed drifts by half within minutes; the ratios drift less.
"""

MEASURES = {
    "event_log": """The log that decisions and rewards are acknowledged from, beside a bare loop that appends and syncs
ready-made lines on the same disk.""",
    "api_bench": """The decision API beside FastAPI's hello world, POST, on the same server (uvicorn with uvloop).
Server and load generator (wrk, where it is installed) have a core each; runs alternate, and each ratio is the median of
the rounds' own. Every decision is drawn by a trained VW policy and acknowledged once it is on disk. A request asks over
a catalogue of seven actions with nine context features, or brings ten actions of ten features each. The two workers
share two cores with the generator.""",
    "sdk_bench": """The Python client in the host application: beside a raw httpx call, and with a service that refuses
connections, takes them and says nothing, has a full queue, or answers a byte at a time.""",
    "memory_bench": """What a worker holds over a million requests, one in a hundred of them bad, and a client over a
hundred thousand decisions with a reward each. The growth is the slope over the run as a share of what is held.""",
    "policy_bench": """One policy inside its process beside VW's own predict call, which parses the same context and
reuses the same parsed actions; ours encodes, explores and normalises besides.""",
    "draws": """Chi-square of 20,000 drawn actions against their logged probabilities, for every exploration algorithm,
with exclusions, slots, a control slice and a challenger's share; and of the control slice against its fraction.""",
    "actions_bench": """Ten, a hundred and a thousand actions of three features, given with every request or once in a
catalogue: a decision inside its process, a training row that is scored and learnt by both models, and what a row takes
in a file and in memory.""",
    "training_bench": """From the joined log to trained models, beside Vowpal Wabbit reading a ready text file of the
policy's examples alone.""",
    "cycle_bench": """One turn of the loop with much stored: a full retrain with its evaluation, beside a decision
worker that answers a hundred questions a second meanwhile, with one core for training and with two; and runs over 500
new interactions, from trigger to champion and reload.""",
    "joins": """Ingest beside DuckDB's own `read_json`, the join beside polars, and a window of 60,000 decisions with
few and with many stored.""",
    "evaluation_bench": """The gate's arithmetic beside reading its arrays, and a whole evaluation beside one pass
of VW over the same rows.""",
    "simulation_bench": """Whole simulated runs in one process (Statlog also with a second one for the challengers),
through the same functions as the service: the Statlog protocol, and a table of 26 classes at its defaults.""",
}
"""What each bench compares; the keys are `benchmarks.bench.BENCHES`."""


def benchmarks_page() -> str:
    """The Markdown text of docs/benchmarks.md, out of the results that are kept."""
    kept = {name: RESULTS / f"{name}.txt" for name in BENCHES}
    results = {name: path.read_text("utf-8") for name, path in kept.items() if path.exists()}
    lines = ["| claim | wanted | measured | holds |", "|---|---|---|---|"]
    for text in results.values():
        lines += ["| " + " | ".join(cell.replace("|", "&#124;") for cell in claim) + " |" for claim in read(text)]
    parts = [BENCHMARKS, "\n".join(lines) + "\n"]
    for name, text in results.items():
        told = "\n".join(line for line in text.splitlines() if not line.startswith(MARK)).rstrip()
        parts.append(f"## {name}\n\n{MEASURES[name]}\n\n```\n{told}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    (HERE / "benchmarks.md").write_text(benchmarks_page(), "utf-8")
    (HERE / "settings.md").write_text(settings_page(), "utf-8")
