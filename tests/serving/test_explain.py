"""The two sentences: what happens next as far as it is known, and why nothing changed, by what really serves."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from bandit.registry import Champion
from serving.learner import reports
from serving.learner.explain import why_nothing_changed
from serving.learner.reports import RunReport
from serving.learner.status import experiment_status
from tests.serving.learner_support import world

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def said(champion_since: datetime | None, mode: str = "online") -> str:
    held = RunReport(at=AT, trigger="rows", outcome=reports.HOLD, reason="Not proven better.")
    return why_nothing_changed(
        mode=mode, running=None, runs=4, last_run=held, champion_since=champion_since, waiting=0, new_rows=0
    )


def test_a_held_challenger_leaves_the_champion_or_the_cold_start_whichever_serves() -> None:
    assert said(AT) == (
        "The champion stands since 2026-01-02 03:04:05 UTC; run 4 (2026-01-02 03:04:05 UTC) held its challenger: "
        "Not proven better."
    )
    assert said(None).startswith("The cold start still serves; run 4 ")


def test_missing_evidence_is_said_once() -> None:
    lacking = RunReport(
        at=AT, trigger="rows", outcome=reports.INSUFFICIENT, reason="Not enough evidence: 90 rows, 200 are needed."
    )
    assert why_nothing_changed(
        mode="online", running=None, runs=4, last_run=lacking, champion_since=AT, waiting=0, new_rows=0
    ).endswith("run 4 (2026-01-02 03:04:05 UTC) lacked evidence: 90 rows, 200 are needed.")


def test_an_apprentice_is_not_told_to_wait_for_rows_that_can_never_come() -> None:
    told = said(None, "apprentice")
    assert "apprentice" in told and "report apprentice" in told and "Not proven better" not in told


def test_a_champion_that_did_not_come_from_the_last_run_is_told_with_its_own_reason() -> None:
    promoted = RunReport(at=AT, trigger="rows", outcome=reports.PROMOTE, reason="Better.", model_id="m2")

    def why(champion: Champion, run: RunReport = promoted) -> str:
        return why_nothing_changed(
            mode="online",
            running=None,
            runs=4,
            last_run=run,
            champion_since=champion.since,
            waiting=0,
            new_rows=0,
            champion=champion,
        )

    later = AT + timedelta(seconds=9)
    assert "promoted m2: Better." in why(Champion(model_id="m2", since=later, generation=2, reason="Better."))
    by_hand = why(Champion(model_id="m1", since=later, generation=3, reason="rolled back by hand", restored=True))
    assert by_hand.startswith("m1 became the champion after the last run") and "rolled back by hand" in by_hand
    back = RunReport(at=AT, trigger="rows", outcome=reports.ROLLBACK, reason="The champion before was better.")
    back.model_id = "m1"
    said_of_it = why(Champion(model_id="m1", since=later, generation=3, restored=True), back)
    assert "brought m1 back: The champion before was better." in said_of_it


def test_decisions_that_are_not_read_yet_are_not_denied(tmp_path: Path) -> None:
    with world(tmp_path) as here:
        cycle, server = here.transport.cycle, here.transport.server
        server.heartbeat()
        cycle.tick()
        until = here.transport.clock()
        here.play(3)
        assert experiment_status(cycle)["counts"]["decisions"] == 0
        assert experiment_status(cycle)["next"] == (
            f"It serves the cold start and waits for more: no decision made until {until:%Y-%m-%d %H:%M:%S} UTC is "
            "left to learn, and newer ones are read within 6 s."
        )
        server.writer.seal()
        server.heartbeat()
        cycle.tick()
        assert experiment_status(cycle)["next"].startswith("3 decisions wait for their reward window")
        here.transport.settle()
        cycle.intake.live = []  # without a worker there is nothing newer
        assert experiment_status(cycle)["next"].endswith("waits for more: no decision is left to learn.")
