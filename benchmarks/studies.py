"""`make studies`: every study, one after the other, each in a process of its own; what they print is kept.

A study plays simulated worlds with known answers (or real labelled tables) against the loop. Results land in
`benchmarks/results/`, headed by the command and the machine, pictures in `docs/images/`; the docs quote them. What
`--quick` plays is shown, and replaces neither.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec

from benchmarks.bench import run

STUDIES = ("simulation_studies", "gate_study", "caution_study", "coverage_study", "datasets_study")


def main() -> int:
    """Run all studies, or those named; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", help=f"which modules to run (default: {', '.join(STUDIES)})")
    parser.add_argument("--quick", action="store_true", help="few seeds and short runs, to see that they work")
    arguments = parser.parse_args()
    names = arguments.studies or [name for name in STUDIES if find_spec(f"benchmarks.{name}") is not None]
    short = ["--quick"] if arguments.quick else []
    return sum(run(name, short, kept=not short)[0] != 0 for name in names)


if __name__ == "__main__":
    sys.exit(main())
