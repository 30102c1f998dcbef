"""An experiment's settings change whole or not at all, and whoever has it open sees the change."""

from __future__ import annotations

import errno
import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bandit import experiment as experiments
from bandit.errors import CorruptSecret
from bandit.experiment import Experiment
from bandit.settings import ExperimentSettings, merge_settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def with_window(experiment: Experiment, window_s: float) -> ExperimentSettings:
    return merge_settings(experiment.settings, {"rewards": {"window_s": window_s}})


def test_settings_that_could_not_be_written_are_not_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment.create(tmp_path, "test", ExperimentSettings(), now=NOW)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(experiments, "write_atomically", full)
        with pytest.raises(OSError, match="No space"):
            experiment.change(with_window(experiment, 1.0), now=NOW)
    assert (experiment.settings_version, experiment.settings.rewards.window_s) == (1, 600.0)
    assert experiment.change(with_window(experiment, 20.0), now=NOW) == 2
    assert experiment.settings.rewards.window_s == experiment.settings_of(2).rewards.window_s == 20.0
    assert Experiment.open(tmp_path, "test").settings == experiment.settings


def test_a_change_that_lands_while_an_experiment_is_opened_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Experiment.create(tmp_path, "test", ExperimentSettings(), now=NOW)
    read = Experiment._read

    def read_and_wait(self: Experiment) -> Any:
        file = read(self)
        monkeypatch.setattr(Experiment, "_read", read)
        writer.change(with_window(writer, 7.0), now=NOW)
        return file

    monkeypatch.setattr(Experiment, "_read", read_and_wait)
    opened = Experiment.open(tmp_path, "test")
    assert opened.settings_version == 1
    assert opened.refresh()
    assert opened.settings.rewards.window_s == 7.0
    assert not opened.refresh()


def test_settings_that_ignore_nothing_are_written_as_the_release_before_could_read_them(tmp_path: Path) -> None:
    challengers = {"plain": {}, "other": {"encoding": {"bins": 4}}, "blind": {"encoding": {"ignore": ["user"]}}}
    settings = merge_settings(ExperimentSettings(), {"challengers": challengers})
    experiment = Experiment.create(tmp_path, "test", settings, now=NOW)
    written = json.loads(experiment.paths.settings.read_bytes())["versions"][0]["settings"]
    assert "ignore" not in written["encoding"] and "ignore" not in written["challengers"]["other"]["encoding"]
    assert written["challengers"]["blind"]["encoding"]["ignore"] == ["user"]
    assert Experiment.open(tmp_path, "test").settings == settings


def test_a_change_is_not_undone_in_memory_by_a_look_at_the_file_that_began_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.create(tmp_path, "test", ExperimentSettings(), now=NOW)
    other = Experiment.open(tmp_path, "test")
    other.change(with_window(other, 20.0), now=NOW)
    read, may_go_on, has_read = Experiment._read, threading.Event(), threading.Event()

    def slowly(self: Experiment) -> Any:
        file = read(self)
        if threading.current_thread() is looking:
            has_read.set()
            assert may_go_on.wait(10)
        return file

    monkeypatch.setattr(Experiment, "_read", slowly)
    looking = threading.Thread(target=experiment.refresh)
    looking.start()
    assert has_read.wait(10)
    threading.Timer(0.2, may_go_on.set).start()
    experiment.update(lambda settings: merge_settings(settings, {"rewards": {"window_s": 30.0}}), now=NOW)
    looking.join()
    assert experiment.settings.rewards.window_s == 30.0


@pytest.mark.parametrize("held", ["", "abc", "00" * 31, "00" * 33, "0" * 63 + "g", "00" * 31 + "é0", None])
def test_a_secret_is_as_long_as_it_is_made_or_none(tmp_path: Path, held: str | None) -> None:
    experiment = Experiment.create(tmp_path, "test", ExperimentSettings(), now=NOW)
    assert len(experiment.secret) == experiments.SECRET_BYTES
    path = experiment.paths.secret
    path.unlink() if held is None else path.write_text(held)
    with pytest.raises(CorruptSecret, match="restore it from a backup"):
        experiment.secret  # noqa: B018
    for other in (b"", b"0" * 31):
        with pytest.raises(ValueError, match="32 bytes"):
            Experiment.create(tmp_path, "other", ExperimentSettings(), now=NOW, secret=other)
