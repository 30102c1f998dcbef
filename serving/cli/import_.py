"""`rewardloop import`: history for a warm start, or rewards that were collected elsewhere, into the event log."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bandit.errors import CorruptModel, InvalidInput, NotFound
from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from serving.cli.common import Common, common, now, print_json, print_table, say
from serving.cli.start import prepare_experiments


@click.command()
@click.argument("file")
@click.option("--what", type=click.Choice(["history", "rewards"]), default="history", show_default=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["ndjson", "parquet", "csv", "dsjson"]),
    help="[default: by the file's ending]",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=NAME",
    help="Which column of a table is what: context, action, probability, reward, time, event_id, actions, pmf, "
    "rewarded.",
)
@click.option(
    "--logging-policy",
    type=click.Choice(["uniform"]),
    help="State that rows without a probability were drawn uniformly over the offered actions.",
)
@common
def command(
    common: Common,
    *,
    file: str,
    what: str,
    form: str | None,
    columns: tuple[str, ...],
    logging_policy: str | None,
) -> None:
    """Bring history or rewards from FILE (`-` is stdin) into the log; the learner takes it up from there."""
    from joiner.importing import guess_format, import_file, import_rewards, parse_columns
    from serving.learner.initial import INITIAL_ROWS_MIN

    source = Path(file)
    if file != "-" and not source.is_file():
        raise InvalidInput("FILE", f"there is no file {source.name}")
    form = form or ("ndjson" if file == "-" else guess_format(source))
    roles = parse_columns(dict(_pair(column) for column in columns))
    stream = sys.stdin.buffer if file == "-" else source
    experiment = _experiment(common)

    def progress(rows: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{rows:,} rows …", err=True, nl=False)

    if what == "rewards":
        report = import_rewards(experiment, stream, form=form, clock=now, progress=progress)
    else:
        report = import_file(
            experiment,
            stream,
            form=form,
            clock=now,
            columns=roles,
            logging_policy="uniform" if logging_policy else None,
            progress=progress,
        )
    if common.as_json:
        print_json(report.as_dict())
    else:
        rows = [("rows", report.rows), ("imported", report.imported)]
        if what == "history":
            rows.append(("  with a reward", report.rewards))
            rows.append(("  without event_id", report.without_event_id))
        rows += [(f"refused: {reason}", count) for reason, count in report.refused.most_common()]
        print_table(None, ("what", "count"), [(name, f"{count:,}") for name, count in rows])
        for example in report.examples:
            say(example)
        if report.imported:
            once = "Rows that were in the log before count once"
            if report.without_event_id:
                once += ", and so do rows without event_id with which a file imported before began as well"
            say(f"{once}.")
            say("It is in the log; the learner takes it in at its next poll, or when it starts.")
            if what == "history" and report.imported < INITIAL_ROWS_MIN and not _has_champion(experiment):
                say(f"A first model is made of {INITIAL_ROWS_MIN} rows of history or more; see `rewardloop status`.")
    if report.rows and not report.imported:
        click.get_current_context().exit(1)


def _experiment(common: Common) -> Experiment:
    """The experiment asked for; made as `up` would make it, where the data directory has none yet."""
    try:
        return common.open_experiment()
    except NotFound:
        common.make_data_dir()
        prepare_experiments(common, common.configuration())
        return common.open_experiment()


def _has_champion(experiment: Experiment) -> bool:
    try:
        return ModelRegistry(experiment.paths).champion() is not None
    except CorruptModel:  # it has one, which `status` and `doctor` tell of
        return True


def _pair(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    if not equals or not role or not name:
        raise InvalidInput("--column", "is not of the form ROLE=NAME")
    return role, name
