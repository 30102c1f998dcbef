"""The service around the decisions: swaps, fallback, lost disks, draining, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from bandit.eventlog import live_heartbeats, survey
from bandit.eventlog.heartbeat import DAMAGED, UNREADABLE
from bandit.experiment import Experiment
from bandit.registry import ModelRegistry
from bandit.settings import merge_settings
from serving.api.decider import ExperimentServer
from serving.api.metrics import render
from serving.api.requests import RecommendRequest
from tests.serving.api.support import (
    JSON,
    SEVEN,
    T0,
    Clock,
    decisions,
    free_port,
    make_experiment,
    publish_model,
    replays,
    run,
    served,
    wait_for,
    worker,
)

QUESTION = {"context": {"x": 0.4, "device": "desk"}}
URL = "/v1/experiments/default/recommend"


async def until(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


def test_an_answer_is_given_only_after_its_decision_is_in_the_log(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, app):
            answer = (await client.post(URL, json=QUESTION)).json()
            server = app.api.hosting.get("default").server
            (segment,) = server.experiment.paths.events.glob("*.open")
            assert answer["event_id"].encode() in segment.read_bytes()
            assert server.writer.counters.events == 1

    run(scenario())


def test_many_at_once_share_syncs_and_all_are_logged_once(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    publish_model(experiment)

    async def scenario() -> list[str]:
        async with served(tmp_path) as (client, app):
            responses = await asyncio.gather(*[client.post(URL, json=QUESTION) for _ in range(200)])
            assert {response.status_code for response in responses} == {200}
            assert app.api.hosting.get("default").server.writer.counters.commits < 200
            return [response.json()["event_id"] for response in responses]

    answered = run(scenario())
    events = decisions(tmp_path)
    assert sorted(event.event_id for event in events) == sorted(answered)
    assert all(replays(experiment, event) for event in events)
    stamps = [event.decided_at for event in events]
    assert stamps == sorted(stamps) and len(set(stamps)) == len(stamps)


def test_a_new_champion_takes_over_between_two_requests_and_none_fails(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    first = publish_model(experiment, seed=1)

    async def scenario() -> str:
        async with served(tmp_path) as (client, app):
            server = app.api.hosting.get("default").server
            seen: list[str] = []
            stop = False

            async def keep_asking() -> None:
                while not stop:
                    response = await client.post(URL, json=QUESTION)
                    assert response.status_code == 200
                    seen.append(response.json()["model_id"])

            asking = [asyncio.ensure_future(keep_asking()) for _ in range(4)]
            await until(lambda: len(seen) > 50)
            second = await asyncio.to_thread(publish_model, experiment, seed=2)
            await until(lambda: seen[-1] == second)
            (heartbeat,) = live_heartbeats(experiment.paths)
            assert heartbeat.model_id == second and heartbeat.canary_digest
            stop = True
            await asyncio.gather(*asking)
            assert seen[0] == first and set(seen) == {first, second}
            assert server.counters.counts["model_swaps"] == 1
            return second

    run(scenario())
    assert all(replays(experiment, event) for event in decisions(tmp_path))


def test_a_damaged_champion_is_never_served_and_the_newest_sound_one_stands_in(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    models = [publish_model(experiment, seed=seed) for seed in range(3)]
    for broken, damage in ((models[2], b""), (models[1], None)):
        path = experiment.paths.models / broken / "policy.vw"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage is None else damage)

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            assert (await client.post(URL, json=QUESTION)).json()["model_id"] == models[0]
            ready = await client.get("/readyz")
            state = ready.json()["experiments"]["default"]
            assert ready.status_code == 200 and state["serving"] == "fallback"
            assert state["champion"] == models[2] and state["model_id"] == models[0]
            assert models[2] in state["fallback"] and models[1] in state["fallback"]
            metrics = (await client.get("/metrics")).text
            assert 'rewardloop_fallback_decisions_total{experiment="default",worker="w0"} 1' in metrics
            assert 'rewardloop_fallback{experiment="default",worker="w0"} 1' in metrics
            # a sound champion ends the fallback
            sound = await asyncio.to_thread(publish_model, experiment, seed=7)
            for _ in range(200):
                answer = (await client.post(URL, json=QUESTION)).json()
                if answer["model_id"] == sound:
                    break
                await asyncio.sleep(0.05)
            assert (await client.get("/readyz")).json()["experiments"]["default"]["serving"] == "champion"

    run(scenario())


@pytest.mark.parametrize(
    ("by", "unusable"), [("a file that is gone", DAMAGED), ("a file that cannot be read", UNREADABLE)]
)
def test_a_champion_that_could_not_be_loaded_is_tried_again_ever_more_rarely_until_it_can(
    tmp_path: Path, by: str, unusable: str, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    earlier, champion = publish_model(experiment), publish_model(experiment, seed=1)
    file = experiment.paths.models / champion / "policy.vw"
    aside = file.with_suffix(".aside")
    file.rename(aside)
    if by == "a file that cannot be read":
        file.mkdir()
    clock = Clock()
    server = ExperimentServer(tmp_path, "default", writer_id="w0", clock=clock, durable=False)
    with contextlib.closing(server):
        assert (server.state.model.model_id, server.heartbeat().unusable) == (earlier, unusable)
        tried = []
        for second in range(200):
            clock.advance(1)
            if server.refresh():
                tried.append(second + 1)
        assert tried == [1, 3, 7, 15, 31, 63, 123, 183]
        assert len([record for record in caplog.records if champion in record.getMessage()]) == 1
        if by == "a file that cannot be read":
            file.rmdir()
        aside.rename(file)
        clock.advance(-3600)  # a clock that was set back puts nothing off
        assert server.refresh() and server.state.model.status == "champion"
        beat = server.heartbeat()
        assert (beat.model_id, beat.generation, beat.unusable) == (champion, 2, None)
        clock.advance(60)
        assert not server.refresh()


def test_another_champion_that_cannot_be_loaded_is_tried_again_as_soon_as_the_first_was(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    publish_model(experiment)
    clock = Clock()
    server = ExperimentServer(tmp_path, "default", writer_id="w0", clock=clock, durable=False)
    with contextlib.closing(server):
        for seed in (1, 2):
            champion = publish_model(experiment, seed=seed)
            file = experiment.paths.models / champion / "policy.vw"
            content = file.read_bytes()
            file.write_bytes(b"")
            tried = [clock.advance(1) or server.refresh() for _ in range(20)]
            assert [second for second, again in enumerate(tried) if again] == [0, 1, 3, 7, 15]
        file.write_bytes(content)
        clock.advance(16)
        assert server.refresh() and server.state.model.model_id == champion


def test_when_no_model_verifies_the_declared_cold_start_answers(tmp_path: Path) -> None:
    experiment = make_experiment(
        tmp_path, actions=SEVEN, serving={"cold_start": "baseline", "cold_start_exploration": 0.0}
    )
    model_id = publish_model(experiment)
    (experiment.paths.models / model_id / "encoder.json").unlink()

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            answer = (await client.post(URL, json=QUESTION)).json()
            assert (answer["action"], answer["model_id"], answer["probability"]) == ("a0", "cold-start", 1.0)
            assert (await client.get("/readyz")).json()["experiments"]["default"]["serving"] == "fallback"

    run(scenario())


def test_an_unreadable_pointer_does_not_stop_a_worker_from_starting_or_serving(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    model_id = publish_model(experiment)

    async def scenario() -> None:
        async with served(tmp_path) as (client, app):
            experiment.paths.champion.write_bytes(b"{")
            await asyncio.sleep(0.3)
            assert (await client.post(URL, json=QUESTION)).json()["model_id"] == model_id
            assert app.api.hosting.get("default").server.counters.counts["poll_errors"] > 0
        async with served(tmp_path) as (client, _):
            answer = await client.post(URL, json=QUESTION)
            assert answer.status_code == 200 and answer.json()["model_id"] == "cold-start"

    run(scenario())


def test_a_worker_that_starts_without_the_pointer_says_that_the_champion_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    model_id = publish_model(experiment)
    ModelRegistry(experiment.paths).history.record("initial", now=datetime.now(UTC), model_id=model_id)
    experiment.paths.champion.unlink()

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            assert (await client.post(URL, json=QUESTION)).json()["model_id"] == "cold-start"
            told = (await client.get("/readyz")).json()["experiments"]["default"]
            lost = f"champion.json is lost, and by history {model_id} is champion; restore it from a backup, or"
            assert told["serving"] == "fallback"
            assert told["fallback"].startswith(f"the champion is not known: {lost}")
            assert 'rewardloop_fallback{experiment="default",worker="w0"} 1' in (await client.get("/metrics")).text
            await until(lambda: any(lost in record.getMessage() for record in caplog.records))
            ModelRegistry(experiment.paths).remake_pointer(now=datetime.now(UTC))
            for _ in range(100):
                if (await client.post(URL, json=QUESTION)).json()["model_id"] == model_id:
                    return
                await asyncio.sleep(0.05)
            pytest.fail("the champion is not served again")

    run(scenario())


def test_new_experiments_and_settings_are_noticed_while_serving(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)

    async def scenario() -> None:
        async with served(tmp_path) as (client, app):
            assert (await client.post("/v1/experiments/later/recommend", json=QUESTION)).status_code == 404
            make_experiment(tmp_path, "later", actions=SEVEN)
            experiment.change(
                merge_settings(experiment.settings, {"serving": {"mode": "frozen"}}), now=datetime.now(UTC)
            )
            await until(lambda: "later" in app.api.hosting.hosted)
            assert (await client.post("/v1/experiments/later/recommend", json=QUESTION)).status_code == 200
            server = app.api.hosting.get("default").server
            await until(lambda: server.state.settings_version == 2)
            await client.post(URL, json=QUESTION)

    run(scenario())
    (event,) = decisions(tmp_path)
    assert (event.mode, event.settings_version) == ("frozen", 2)


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], lambda whole: whole.replace(b"a1", b"\xff")],
    ids=["cut off", "not UTF-8"],
)
def test_an_experiment_that_cannot_be_opened_does_not_keep_the_others_from_being_served(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    broken = make_experiment(tmp_path, "broken", actions=SEVEN)
    whole = broken.paths.settings.read_bytes()
    broken.paths.settings.write_bytes(damage(whole))

    async def scenario() -> None:
        async with served(tmp_path) as (client, app):
            assert (await client.post(URL, json=QUESTION)).status_code == 200
            refused = await client.post("/v1/experiments/broken/recommend", json=QUESTION)
            assert refused.status_code == 503 and refused.json()["type"].endswith("unavailable")
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            told = ready.json()["experiments"]["broken"]
            assert told["ready"] is False
            assert told["reason"].startswith("the experiment cannot be opened: experiment.json: cannot be read (")
            broken.paths.settings.write_bytes(whole)
            await until(lambda: "broken" in app.api.hosting.hosted)
            assert (await client.post("/v1/experiments/broken/recommend", json=QUESTION)).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            # and one that becomes unreadable while it is served goes on under the settings it had
            broken.paths.settings.write_bytes(b"{")
            server = app.api.hosting.get("broken").server
            await until(lambda: server.counters.counts["poll_errors"] > 0)
            assert (await client.post("/v1/experiments/broken/recommend", json=QUESTION)).status_code == 200

    run(scenario())


@pytest.mark.parametrize("held", [b"", b"000", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 64, None])
def test_without_its_whole_secret_no_decision_is_made_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, held: bytes | None
) -> None:
    path = make_experiment(tmp_path, actions=SEVEN).paths.secret
    whole = path.read_bytes()
    path.unlink() if held is None else path.write_bytes(held)

    async def scenario() -> None:
        async with served(tmp_path) as (client, app):
            for _ in range(3):
                await app.api.hosting.look()
            refused = await client.post(URL, json=QUESTION)
            assert refused.status_code == 503 and refused.json()["type"].endswith("unavailable")
            ready = await client.get("/readyz")
            assert ready.status_code == 503
            reason = ready.json()["experiments"]["default"]["reason"]
            assert reason.startswith("the experiment cannot be opened: the file `secret` ")
            assert reason.endswith("decisions so far cannot be made again then")
            (line,) = caplog.records
            assert "the file `secret` " in line.getMessage() and line.exc_info is None
            path.write_bytes(whole)
            await until(lambda: "default" in app.api.hosting.hosted)
            assert (await client.post(URL, json=QUESTION)).status_code == 200
            path.write_bytes(b"")  # a worker that runs knows it, and goes on
            assert (await client.post(URL, json=QUESTION)).status_code == 200

    run(scenario())


def test_the_workers_of_two_services_on_one_directory_are_series_of_their_own(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    earlier, later = (
        ExperimentServer(tmp_path, "default", writer_id=name, clock=lambda: datetime.now(UTC), durable=False)
        for name in ("w0-18c9a-1", "w0-18c9b-2")
    )
    earlier.count_decisions(earlier.decide(RecommendRequest(context={}))[0])
    for server in (earlier, later):
        server.heartbeat()
    text = render({"default": live_heartbeats(experiment.paths)}, datetime.now(UTC)).decode()
    earlier.close()
    later.close()
    assert 'rewardloop_decisions_total{experiment="default",worker="w0"} 1' in text
    assert 'rewardloop_decisions_total{experiment="default",worker="w0-2"} 0' in text
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_a_living_worker_that_writes_no_heartbeat_any_more_counts_as_not_ready(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    server = ExperimentServer(tmp_path, "default", writer_id="w0", clock=Clock(), durable=False)
    server.heartbeat()
    beats = {"default": live_heartbeats(experiment.paths)}
    server.close()
    for silent_s, ready in ((0, 1), (4, 1), (6, 0)):
        text = render(beats, T0 + timedelta(seconds=silent_s)).decode()
        assert f'rewardloop_ready{{experiment="default",worker="w0"}} {ready}\n' in text


def test_metrics_add_up_over_the_workers(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    publish_model(experiment)
    port = free_port()
    with worker(tmp_path, port, "--worker", "1"):

        async def scenario() -> str:
            async with served(tmp_path) as (client, _), httpx.AsyncClient(trust_env=False) as other:
                for _ in range(3):
                    await client.post(URL, json=QUESTION)
                for _ in range(2):
                    response = await other.post(f"http://127.0.0.1:{port}{URL}", json=QUESTION)
                    assert response.status_code == 200
                await client.post(URL, content=b"{", headers=JSON)
                await other.get(f"http://127.0.0.1:{port}/metrics")
                return (await client.get("/metrics")).text

        metrics = run(scenario())
    assert 'rewardloop_decisions_total{experiment="default",worker="w0"} 3' in metrics
    assert 'rewardloop_decisions_total{experiment="default",worker="w1"} 2' in metrics
    assert 'rewardloop_errors_total{experiment="default",worker="w0",kind="malformed-body"} 1' in metrics
    assert 'rewardloop_request_seconds_count{experiment="default",worker="w1",route="recommend"} 2' in metrics
    assert "rewardloop_champion_age_seconds{" in metrics and "rewardloop_log_fsync_seconds_total{" in metrics
    names = {line.split("{")[0] for line in metrics.splitlines() if not line.startswith("#")}
    assert all(name.startswith("rewardloop_") for name in names)


def test_sigterm_answers_what_has_arrived_seals_and_ends_with_zero(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN)
    port = free_port()
    with worker(tmp_path, port) as process:
        with httpx.Client(trust_env=False) as client:
            for _ in range(5):
                assert client.post(f"http://127.0.0.1:{port}{URL}", json=QUESTION).status_code == 200
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
        assert time.monotonic() - started < 10
    assert not list(experiment.paths.events.glob("*.open"))
    assert len(decisions(tmp_path)) == 5


def test_sigterm_in_the_middle_of_traffic_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    port = free_port()
    answered: list[str] = []

    def keep_asking() -> None:
        with httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client:
            while True:
                try:
                    response = client.post(URL, json=QUESTION)
                except httpx.HTTPError:
                    return  # the worker has gone
                assert response.status_code == 200
                answered.append(response.json()["event_id"])

    with worker(tmp_path, port) as process, ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(keep_asking) for _ in range(4)]
        wait_for(lambda: len(answered) > 100, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        for future in asking:
            future.result(timeout=10)
    logged_ids = [event.event_id for event in decisions(tmp_path)]
    assert set(answered) <= set(logged_ids) and len(logged_ids) == len(set(logged_ids))


def test_a_full_disk_means_503_and_unready_until_there_is_room_and_nothing_acknowledged_is_missing(
    tmp_path: Path,
) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN, serving={"seal_interval_s": 60})
    port = free_port()

    acknowledged: list[str] = []
    with worker(tmp_path, port) as process:
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))
        with httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client:
            while (response := client.post(URL, json=QUESTION)).status_code == 200:
                acknowledged.append(response.json()["event_id"])
            assert response.status_code == 503 and len(acknowledged) > 10
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["retry-after"]
            until = time.monotonic() + 1.3  # long enough for a new log to be tried, whose first bytes would fit
            while time.monotonic() < until:
                assert client.get("/readyz").status_code == 503
                time.sleep(0.02)
            assert client.post(URL, json=QUESTION).status_code == 503
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
            wait_for(lambda: client.get("/readyz").status_code == 200, process)
            response = client.post(URL, json=QUESTION)
            assert response.status_code == 200
            acknowledged.append(response.json()["event_id"])
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)
    survey(Experiment.open(tmp_path, "default").paths, now=datetime.now(UTC))
    kept = [event.event_id for event in decisions(tmp_path)]
    assert set(acknowledged) <= set(kept) and len(kept) == len(set(kept))
    assert experiment.name == "default"


def metrics_of(client: httpx.Client) -> str:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return answer.text


def test_metrics_are_told_while_the_disk_is_full_by_workers_that_could_and_that_could_not_log(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN, serving={"seal_interval_s": 60})
    port = free_port()
    with (
        worker(tmp_path, port, stderr=subprocess.PIPE) as process,
        httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for _ in range(3):
            assert client.post(URL, json=QUESTION).status_code == 200
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        wait_for(lambda: client.get("/readyz").status_code == 503, process)  # it has been logged, too
        metrics_of(client)
        assert client.post(URL, json=QUESTION).status_code == 503
        wait_for(lambda: not live_heartbeats(experiment.paths), process)
        lost = metrics_of(client)
        assert 'rewardloop_decisions_total{experiment="default",worker="w0"} 3' in lost
        assert 'rewardloop_ready{experiment="default",worker="w0"} 0' in lost
        experiment.paths.workers.rename(tmp_path / "gone")
        assert 'rewardloop_decisions_total{experiment="default",worker="w0"} 3' in metrics_of(client)
        (tmp_path / "gone").rename(experiment.paths.workers)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        wait_for(lambda: client.get("/readyz").status_code == 200, process)
        found = metrics_of(client)
        assert 'rewardloop_decisions_total{experiment="default",worker="w0"} 3' in found
        assert 'rewardloop_ready{experiment="default",worker="w0"} 1' in found
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=10)[1]
    assert b"the heartbeat cannot be written: File too large" in told and b"Traceback" not in told


def test_a_worker_that_nobody_asks_notices_a_full_disk_and_that_there_is_room_again(tmp_path: Path) -> None:
    make_experiment(tmp_path, actions=SEVEN)
    port = free_port()
    with (
        worker(tmp_path, port) as process,
        httpx.Client(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert client.get("/readyz").status_code == 200
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        wait_for(lambda: client.get("/readyz").status_code == 503, process, 5)
        told = client.get("/readyz").json()["experiments"]["default"]
        assert 'rewardloop_ready{experiment="default",worker="w0"} 0' in metrics_of(client)
        assert told["ready"] is False
        assert (
            told["reason"] == "the disk takes no heartbeat (File too large); nothing may be acknowledged until it does"
        )
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        wait_for(lambda: client.get("/readyz").status_code == 200, process, 5)
        assert 'rewardloop_ready{experiment="default",worker="w0"} 1' in metrics_of(client)
        assert client.post(URL, json=QUESTION).status_code == 200


@pytest.mark.parametrize("broken", ["prepare", "heartbeat"])
def test_an_experiment_with_a_fault_that_nobody_foresaw_stops_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    seldom = {"poll_s": 30}  # the test looks itself
    make_experiment(tmp_path, "faulty", actions=SEVEN, schedule=seldom)
    sound = make_experiment(tmp_path, "sound", actions=SEVEN, schedule=seldom)

    async def scenario() -> None:
        async with served(tmp_path) as (client, app):
            hosted = app.api.hosting.hosted
            monkeypatch.setattr(hosted["faulty"].server, broken, b"\xff".decode)
            for name in hosted:
                assert (await client.post(f"/v1/experiments/{name}/recommend", json=QUESTION)).status_code == 200
            sound.change(merge_settings(sound.settings, {"rewards": {"window_s": 77}}), now=datetime.now(UTC))
            hosted["faulty"].beaten_s = 0.0
            await app.api.hosting.look()
            assert hosted["sound"].server.state.settings_version == 2

    run(scenario())
    assert len(decisions(tmp_path, "sound")) == len(decisions(tmp_path, "faulty")) == 1, "both are sealed"
    told = {record.getMessage().split(":")[0] for record in caplog.records if record.exc_info}
    closing = {"experiment faulty could not be closed well"} if broken == "heartbeat" else set()
    assert told == {"experiment faulty", *closing}


def test_heartbeats_follow_each_seal_at_once(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, actions=SEVEN, serving={"seal_interval_s": 0.2}, schedule={"poll_s": 30})

    async def scenario() -> None:
        async with served(tmp_path) as (client, _):
            await client.post(URL, json=QUESTION)
            await until(lambda: list(experiment.paths.events.glob("*.jsonl")), seconds=2)
            sealed = time.monotonic()
            (event,) = decisions(tmp_path)
            await until(lambda: live_heartbeats(experiment.paths)[0].complete_until > event.decided_at, seconds=2)
            assert time.monotonic() - sealed < 0.5

    run(scenario())
