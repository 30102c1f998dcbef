"""`rewardloop restore`: a backup becomes a data directory again, every byte checked."""

from __future__ import annotations

from pathlib import Path

import click

from bandit.backup import restore_backup
from serving.cli.common import Common, common_with, print_json, say


@click.command()
@click.argument("backup", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@common_with(experiment=None)
def command(common: Common, backup: Path) -> None:
    """Bring the file BACKUP back into --data-dir, which must be empty or absent."""
    report = restore_backup(backup, common.data_dir)
    if common.as_json:
        print_json(
            {
                "data_dir": str(report.path),
                "experiments": report.experiments,
                "files": report.files,
                "bytes": report.bytes,
                "created_at": report.created_at,
            }
        )
        return
    say(
        f"{', '.join(report.experiments)}: as of {report.created_at:%Y-%m-%d %H:%M:%S} UTC, {report.files:,} files. "
        f"`rewardloop up --data-dir {report.path}` goes on from there; `rewardloop doctor` looks it over."
    )
