"""`rewardloop backup`: one file with everything that cannot be made anew, taken while the service runs."""

from __future__ import annotations

from pathlib import Path

import click

from bandit.backup import write_backup
from serving.cli.common import Common, common_with, now, print_json, say


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The file to write; compressed if it ends in .gz.  [default: rewardloop-<time>.tar.gz]",
)
@common_with(experiment=None)
def command(common: Common, out: Path | None) -> None:
    """Save all experiments and keys into one file; the DuckDB file is left out, because the log makes it anew."""
    moment = now()
    report = write_backup(common.data_dir, out or Path(f"rewardloop-{moment:%Y%m%dT%H%M%SZ}.tar.gz"), now=moment)
    if common.as_json:
        print_json(
            {
                "file": str(report.path),
                "experiments": report.experiments,
                "files": report.files,
                "bytes": report.bytes,
                "created_at": report.created_at,
            }
        )
        return
    say(
        f"{report.path}: {len(report.experiments)} experiment(s), {report.files:,} files, {report.bytes:,} bytes. "
        "It holds the secrets of the draws: keep it private."
    )
