"""The pmf of a challenger on trial comes back out of the logged mixture, and only where it was really in it."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from bandit.sampling import mix
from bandit.settings import ExperimentSettings, parse_settings
from bandit.tried import Tried
from bandit.types import SLICE_TRIAL, Action, Interaction

CHAMPION, CHALLENGER = [0.9, 0.06, 0.04], [0.02, 0.08, 0.9]
PLAIN = ExperimentSettings()


def row(pmf: list[float], **changes: object) -> Interaction:
    fields: dict[str, object] = {
        "event_id": "e",
        "decided_at": datetime(2026, 1, 1, tzinfo=UTC),
        "model_id": "champion",
        "context": {},
        "actions": tuple(Action(name) for name in "abc"),
        "index": 2,
        "propensity": pmf[2],
        "pmf": tuple(pmf),
        "reward": 1.0,
        "slice": SLICE_TRIAL,
        "trial_model_id": "m1",
        "trial_share": 0.1,
    }
    return Interaction(**(fields | changes))  # type: ignore[arg-type]


def tried(settings: ExperimentSettings = PLAIN, name: str = "standing") -> Tried:
    return Tried(name, "champion", {"m1": "standing"}.get, lambda version: settings)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("control", ["baseline", "uniform", None])
def test_the_version_on_trial_is_what_is_left_of_the_mixture(share: float, control: str | None) -> None:
    pmf, settings = mix(CHAMPION, CHALLENGER, share), PLAIN
    if control is not None:
        settings = parse_settings({"serving": {"control_fraction": 0.2, "control_policy": control}})
        pmf = mix(pmf, [1.0, 0.0, 0.0] if control == "baseline" else [1 / 3] * 3, 0.2)
    found = tried(settings).pmf(row(pmf, trial_share=share), CHAMPION)
    assert found == pytest.approx(CHALLENGER, abs=1e-12)
    assert found is not None and max(a / b for a, b in zip(found, pmf, strict=True)) <= 1 / share / 0.8 + 1e-9


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("k", [3, 7, 10])
def test_a_challenger_that_chooses_as_the_champion_does_has_its_very_probabilities(share: float, k: int) -> None:
    same = [1 / k] * k
    logged = row(mix(same, same, share), trial_share=share, actions=tuple(Action(str(place)) for place in range(k)))
    assert tried().pmf(logged, same) == same


def test_a_row_is_left_alone_unless_this_challenger_was_on_trial_beside_this_champion() -> None:
    pmf = mix(CHAMPION, CHALLENGER, 0.1)
    assert tried().pmf(row(pmf), CHAMPION) is not None
    for changes in (
        {"trial_model_id": None},
        {"trial_model_id": "unknown"},
        {"trial_share": None},
        {"model_id": "another"},
        {"mode": "apprentice"},
    ):
        assert tried().pmf(row(pmf, **changes), CHAMPION) is None
    assert tried().pmf(replace(row(pmf), pmf=None), CHAMPION) is None
    assert tried(name="recent").pmf(row(pmf), CHAMPION) is None


def test_a_mixture_that_cannot_have_been_this_one_is_not_believed() -> None:
    assert tried().pmf(row([0.5, 0.3, 0.2]), CHAMPION) is None
