"""`make bench`: every speed measurement, one after the other, each in a process of its own.

Each module named here prints ratios to a yardstick that runs in the same minute on the same machine, and its claims
(`benchmarks.claims`). What they print is kept under `benchmarks/results/`, headed by the command, the machine and
what its disk takes to sync, and the docs quote it. At the end all claims stand in one table: wanted, measured, held.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.claims import Claim, read, table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BENCHES = (
    "event_log",
    "api_bench",
    "sdk_bench",
    "memory_bench",
    "policy_bench",
    "draws",
    "actions_bench",
    "training_bench",
    "cycle_bench",
    "joins",
    "evaluation_bench",
    "simulation_bench",
)


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


def sync_ms(folder: Path, times: int = 200) -> float:
    """The median fdatasync of a 4 KiB append in `folder`, in ms."""
    path = folder / "sync"
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begun)
    return 1000 * statistics.median(took)


def run(module: str, arguments: list[str] | None = None, *, kept: bool = True) -> tuple[int, list[Claim]]:
    """Run one module, show what it prints and, if wanted, keep it; returns its exit code and its claims."""
    with tempfile.TemporaryDirectory(prefix="rewardloop-bench-") as folder:
        disk = f"fdatasync {sync_ms(Path(folder)):.3f} ms"
    command = [sys.executable, "-m", f"benchmarks.{module}", *(arguments or [])]
    shown = " ".join(["python", *command[1:]])
    sys.stdout.write(f"\n== {shown}\n")
    sys.stdout.flush()
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(done.stdout)
    if kept and done.returncode == 0:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{module}.txt").write_text(f"$ {shown}\n# {machine()}, {disk}\n\n{done.stdout}", "utf-8")
    return done.returncode, read(done.stdout)


def main() -> int:
    """Run all benches, or those named with `--only`; exit code 1 when one fails or a claim does not hold."""
    parser = argparse.ArgumentParser(description="Measure speed against yardsticks in the same run.")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=BENCHES, metavar="BENCH", help=", ".join(BENCHES))
    failed: list[str] = []
    claims: list[Claim] = []
    for name in parser.parse_args().only:
        code, made = run(name)
        claims += made
        failed += [name] * (code != 0)
    if claims:
        sys.stdout.write(f"\n{table(claims)}\n")
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed or any(claim.holds != "yes" for claim in claims) else 0


if __name__ == "__main__":
    sys.exit(main())
