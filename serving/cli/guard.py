"""Makes sure that the generic package names really are ours before anything is imported through them.

`bandit` is also the name of a linter and `serving`, `joiner`, `evaluation`, `simulator` are words that other
code may own. A clash would show as a strange ImportError much later; here it is one sentence with the cure.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("bandit", "joiner", "evaluation", "serving", "simulator")
CURE = (
    "install rewardloop in an environment of its own "
    "(python3 -m venv .venv && .venv/bin/pip install rewardloop) and run it from there"
)


def foreign_package(root: Path) -> tuple[str, str] | None:
    """The first of our packages that is missing or lives outside `root`, with where it was found instead."""
    for name in PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # something already put a module without a spec under this name
            spec = None
        if spec is None or spec.origin is None:
            return name, "nowhere"
        if Path(spec.origin).resolve().parent.parent != root:
            return name, spec.origin
    return None


def check_packages() -> None:
    """Exit with code 2 and one sentence when an imported package is not ours."""
    found = foreign_package(Path(__file__).resolve().parent.parent.parent)
    if found is not None:
        name, where = found
        sys.stderr.write(f"rewardloop: the package '{name}' comes from {where}, not from rewardloop; {CURE}\n")
        sys.exit(2)
