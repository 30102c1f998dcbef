"""Critical values keep the level over all looks together; the schedule depends on row counts alone."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from evaluation.sequential import AlphaLedger, Look, confidence_sequence_z, critical_value, spend


def bounds(rows: list[int], *, alpha: float, horizon: int) -> np.ndarray:
    ledger, out = AlphaLedger(), []
    for n in rows:
        share = spend(ledger, n, alpha=alpha, horizon_rows=horizon)
        if share <= 0:
            out.append(np.inf)
            continue
        z = critical_value(ledger.looks, float(n), share)
        ledger = ledger.looked(Look(n, float(n), share, z))
        out.append(z)
    assert ledger.spent == pytest.approx(alpha)
    return np.array(out)


def walks(rng: np.random.Generator, rows: list[int], runs: int, drift: float = 0.0) -> np.ndarray:
    """z-scores of sums with unit variance per row and a final expectation of `drift`."""
    n = np.array(rows, float)
    steps = np.diff(np.concatenate([[0.0], n]))
    return (np.cumsum(rng.normal(size=(runs, len(n))) * np.sqrt(steps), axis=1) + drift * n / np.sqrt(n[-1])) / np.sqrt(
        n
    )


def test_a_single_look_is_the_fixed_sample_test() -> None:
    assert critical_value((), 100.0, 0.05) == pytest.approx(NormalDist().inv_cdf(0.95))


@pytest.mark.parametrize("batch", [500, 2000])
def test_thirty_and_more_looks_together_cost_alpha(batch: int) -> None:
    rows = list(range(batch, 60_001, batch))
    z = walks(np.random.default_rng(1), rows, 20_000)
    crossed = (z > bounds(rows, alpha=0.05, horizon=60_000)).any(axis=1).mean()
    assert crossed == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 20_000))


def test_a_lift_that_obrien_fleming_finds_in_two_runs_of_three_is_found_in_sixty_percent() -> None:
    rows = list(range(2000, 60_001, 2000))
    z = walks(np.random.default_rng(2), rows, 20_000, drift=2.15)
    assert (z > bounds(rows, alpha=0.05, horizon=60_000)).any(axis=1).mean() >= 0.59


def test_the_first_look_is_not_hopeless_and_the_last_not_wasted() -> None:
    z = bounds(list(range(500, 60_001, 500)), alpha=0.05, horizon=60_000)
    assert z[0] < 2.8
    assert z[-1] < 2.2


def test_rejected_challengers_use_up_the_tenure_alpha() -> None:
    ledger = AlphaLedger()
    for _ in range(50):
        share = spend(ledger, 500, alpha=0.05, horizon_rows=60_000)
        ledger = ledger.looked(Look(500, 500.0, share, 2.0)).rejected(500)
    assert 0.0 < ledger.spent <= 0.05
    assert ledger.looks == ()
    assert ledger.taken == 50


def test_too_little_new_evidence_is_no_look() -> None:
    ledger = AlphaLedger().looked(Look(1000, 1000.0, 0.01, 2.3))
    assert spend(ledger, 1010, alpha=0.05, horizon_rows=60_000) == 0.0
    with pytest.raises(ValueError, match="clock"):
        critical_value(ledger.looks, 1001.0, 0.01)


def test_alpha_is_never_overspent() -> None:
    ledger = replace(AlphaLedger(), spent=0.05)
    assert spend(ledger, 70_000, alpha=0.05, horizon_rows=60_000) == 0.0


@pytest.mark.parametrize("alpha", [1e-9, 0.05, 0.3, 0.43, 0.45, 0.499999])
def test_the_confidence_sequence_holds_at_all_times(alpha: float) -> None:
    rows = list(range(200, 40_001, 200))
    z = walks(np.random.default_rng(3), rows, 5000)
    limits = np.array([confidence_sequence_z(n, alpha=alpha, tuned_at=5000) for n in rows])
    assert np.isfinite(limits).all() and (limits > 0).all()
    assert (z > limits).any(axis=1).mean() <= alpha
