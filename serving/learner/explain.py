"""What happens next, and why nothing changed yet, in one sentence each: the answers people look for first."""

from __future__ import annotations

from datetime import datetime

from bandit.registry import Champion
from serving.learner import reports
from serving.learner.reports import RunReport


def next_sentence(
    *,
    now: datetime,
    running: str | None,
    paused: bool,
    mode: str,
    new_rows: int,
    ready_rows: int,
    rows_wanted: int,
    next_run_at: datetime,
    waiting: int,
    first_matures_at: datetime | None,
    has_champion: bool,
    unknown: list[str],
    first_model: bool = False,
    owed_rows: int = 0,
    retry_at: datetime | None = None,
    read_until: datetime | None = None,
    newer_within_s: float = 0.0,
) -> str:
    """One sentence about what the learner does next.

    Of the new rows only those that are ready start a run; the others wait for the end of an import. Where workers live
    the log is read only `read_until` a moment ago, and what is newer `newer_within_s`.
    """
    if running is not None:
        return f"A run is under way ({running})."
    if paused:
        return "The schedule is paused: nothing runs until you resume it or start a run yourself."
    if mode == "logging_only":
        return "The mode is logging_only: decisions and rewards are logged and joined, nothing is learnt."
    if mode == "frozen":
        return "The mode is frozen: the champion stays, and nothing runs by itself."
    if unknown:
        return f"The log cannot be read up to now ({unknown[0]}); the learner looks again at the next poll."
    if new_rows:
        new, left = _count(new_rows, "new interaction"), max(rows_wanted - ready_rows, 0)
        if ready_rows and (first_model or left == 0 or next_run_at <= now):
            return f"The next run starts at the next poll, with {new}."
        if ready_rows == 0:
            return f"An import is under way, and the next run waits for its end, with {new} so far."
        return (
            f"The next run starts {_when(next_run_at, now)} with {new}, or after {left:,} more, whichever comes first."
        )
    if owed_rows and retry_at is not None:
        when = "at the next poll" if retry_at <= now else _when(retry_at, now)
        rows = _count(owed_rows, "interaction")
        return (
            f"The last run failed; it is tried again {when}, or with the next interaction, for {rows} not learnt yet."
        )
    if waiting:
        matures = f" (the first at {_clock(first_matures_at)})" if first_matures_at else ""
        if waiting == 1:
            return f"1 decision waits for its reward window to close{matures}; then it counts."
        return f"{_count(waiting, 'decision')} wait for their reward window to close{matures}; then they count."
    start = "It serves the champion" if has_champion else "It serves the cold start"
    if mode == "apprentice":
        start = "It answers the baseline"
    if read_until is None:
        return f"{start} and waits for more: no decision is left to learn."
    return (
        f"{start} and waits for more: no decision made until {_clock(read_until)} is left to learn, and newer ones are "
        f"read within {newer_within_s:.0f} s."
    )


def why_nothing_changed(
    *,
    mode: str,
    running: str | None,
    runs: int,
    last_run: RunReport | None,
    champion_since: datetime | None,
    waiting: int,
    new_rows: int,
    champion: Champion | None = None,
) -> str:
    """One sentence about why the champion is still the one it is."""
    if last_run is None and running is not None:
        return "Nothing was promoted yet, because the first run is still under way."
    if last_run is None:
        if waiting or new_rows:
            return "Nothing was promoted yet, because no run has taken place."
        return "Nothing was promoted yet, because there were no interactions to learn from."
    at = _clock(last_run.at)
    if champion is not None and champion.since > last_run.at and champion.model_id != last_run.model_id:
        return (
            f"{champion.model_id} became the champion after the last run ({_clock(champion.since)}): {champion.reason}"
        )
    if last_run.outcome == reports.ROLLBACK:
        return f"The last run ({at}) brought {last_run.model_id} back: {last_run.reason}"
    if last_run.outcome == reports.PROMOTE:
        return f"The last run ({at}) promoted {last_run.model_id}: {last_run.reason}"
    if last_run.outcome == reports.INITIAL:
        return f"The last run ({at}) published the first model: {last_run.reason}"
    if last_run.outcome == reports.FAILED:
        return f"The last run ({at}) failed and changed nothing: {last_run.error}"
    if last_run.outcome == reports.STOPPED:
        return (
            f"The last run ({at}) was stopped with the learner and changed nothing; the next one learns the same rows."
        )
    if mode == "apprentice" and last_run.outcome != reports.NOTHING:
        return (
            "The mode is apprentice: every answer is the baseline, which tells nothing of other actions, so nothing is "
            f"promoted on it (run {runs}, {at}); `rewardloop report apprentice` says how the model would have done."
        )
    serves = f"The champion stands since {_clock(champion_since)}" if champion_since else "The cold start still serves"
    verdict = {reports.HOLD: "held its challenger", reports.INSUFFICIENT: "lacked evidence"}.get(last_run.outcome)
    if verdict is None:
        found = "had nothing to weigh" if last_run.unscored else "found nothing new"
        return f"The last run ({at}) {found}: {last_run.reason}"
    return f"{serves}; run {runs} ({at}) {verdict}: {last_run.reason.removeprefix('Not enough evidence: ')}"


def what_is_set_aside(names: list[str]) -> str | None:
    """One sentence about what of the log is kept out of learning, None where nothing is."""
    if not names:
        return None
    are, those = ("is", "it holds") if len(names) == 1 else ("are", "they hold")
    shown = f"{names[0]}, …" if names[1:] else names[0]
    return (
        f"{_count(len(names), 'part')} of the log {are} damaged or cannot be read ({shown}) and {are} set aside: "
        f"nothing is learnt from what {those}; `rewardloop doctor` says what can be saved."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _when(moment: datetime, now: datetime) -> str:
    seconds = (moment - now).total_seconds()
    return f"in {seconds:.0f} s" if seconds < 120 else f"at {_clock(moment)}"


def _clock(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
