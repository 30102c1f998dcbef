"""`rewardloop erase`: a person's or an event's data leaves the directory; without --yes it only says what would go."""

from __future__ import annotations

from collections.abc import Sequence

import click

from serving.cli.access import operate
from serving.cli.common import Common, common, print_json, say


@click.command()
@click.option("--subject", default=None, help="A value of the context field declared as serving.subject_field.")
@click.option("--event-id", "event_ids", multiple=True, help="An event; may be given several times.")
@click.option("--yes", is_flag=True, help="Really erase.")
@common
def command(common: Common, *, subject: str | None, event_ids: Sequence[str], yes: bool) -> None:
    """Delete all that is kept about a subject or about events, and make the database anew.

    Works beside a running service. Stored models keep what they learnt; see the page on keys, checks and backups.
    """
    answer = operate(common, "erase", subject=subject, event_ids=list(event_ids), confirmed=yes)
    if common.as_json:
        print_json(answer)
        return
    found = f"{answer['records']:,} record(s) of {answer['events']:,} event(s) in {answer['segments']:,} segment(s)"
    if not yes:
        say(f"{found} would be erased; --yes does it.")
        return
    say(
        f"{found} are erased; {answer['evaluations']} evaluation(s) can no longer be verified, "
        f"{answer['canaries']} canary question(s) are gone."
    )
