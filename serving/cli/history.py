"""`rewardloop history`: what was done to an experiment, by whom, and what each run came to."""

from __future__ import annotations

from itertools import islice

import click

from serving.cli.common import Common, common, print_json, print_table


@click.command()
@click.option("--kind", "kinds", multiple=True, help="Only this kind (settings, pin, run …); may be repeated.")
@click.option("--newest", type=click.IntRange(1), default=20, show_default=True, help="So many entries at most.")
@common
def command(common: Common, *, kinds: tuple[str, ...], newest: int) -> None:
    """The newest entries of history, oldest first: runs, champions, changed settings, with the key that was shown."""
    from bandit.registry import ModelRegistry
    from serving.learner.told import in_words

    history = ModelRegistry(common.open_experiment().paths).history
    entries = list(islice(history.newest(*kinds), newest))[::-1]
    if common.as_json:
        print_json({"history": entries})
        return
    rows = [(entry["at"], entry["kind"], entry.get("key"), in_words(entry)) for entry in entries]
    print_table("History", ("at", "what", "key", "said"), rows)
