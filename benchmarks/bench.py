"""`make bench`: every speed measurement, one after the other, each in a process of its own.

Each module named here prints ratios to a yardstick that runs in the same minute on the same machine. What they
print is kept under `benchmarks/results/`, headed by the command and the machine, and the docs quote it.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BENCHES = ("event_log", "api_bench", "policy_bench", "training_bench", "joins", "evaluation_bench")


def machine() -> str:
    """One line about this machine: processor, cores, Python."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def run(module: str, arguments: list[str] | None = None) -> int:
    """Run one module, show what it prints and keep it; returns its exit code."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *(arguments or [])]
    shown = " ".join(["python", *command[1:]])
    sys.stdout.write(f"\n== {shown}\n")
    sys.stdout.flush()
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(done.stdout)
    if done.returncode == 0:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{module}.txt").write_text(f"$ {shown}\n# {machine()}\n\n{done.stdout}", "utf-8")
    return done.returncode


def main() -> int:
    """Run all benches that are there, or those named with `--only`; exit code 1 when one fails."""
    there = [name for name in BENCHES if (HERE / f"{name}.py").exists()]
    parser = argparse.ArgumentParser(description="Measure speed against yardsticks in the same run.")
    parser.add_argument("--only", nargs="+", choices=there, default=there, metavar="BENCH", help=", ".join(there))
    failed = [name for name in parser.parse_args().only if run(name) != 0]
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
