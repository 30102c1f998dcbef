"""Our estimators against Open Bandit Pipeline on the same rows: values, standard errors, paired lift, and speed.

Runs in an environment of its own that has obp 0.5.7 (which declares Python < 3.11, so:
`pip install numpy==1.26.4 pandas scikit-learn scipy tqdm pyyaml matplotlib seaborn` and
`pip install --no-deps --ignore-requires-python obp==0.5.7`), from this repository's root:
`OMP_NUM_THREADS=1 python benchmarks/obp_agreement.py`. It takes 6 GB of memory. The
bundled Open Bandit Dataset sample (ZOZO, CC BY 4.0) is read from the installed package. Only obp's estimators are
loaded; they need no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from evaluation.estimators import ROLES, Hyper, totals
from evaluation.lift import paired_lift
from evaluation.scored import ScoredRows

PLAIN_SE = ("dm", "ips", "clipped_ips", "dr", "switch_dr", "dros")
"""SNIPS and SNDR are left out: obp holds the mean weight fixed, ours is linearised (see docs/evaluation.md)."""


RUNS = 15


def load_obp() -> Any:
    """obp's estimators without the rest of the package, which imports torch."""
    spec = importlib.util.find_spec("obp")
    assert spec is not None and spec.submodule_search_locations is not None, "obp is not installed here"
    root = Path(next(iter(spec.submodule_search_locations)))
    for name, folder in (("obp", ""), ("obp.ope", "ope"), ("obp.dataset", "dataset"), ("obp.policy", "policy")):
        package = types.ModuleType(name)
        package.__path__ = [str(root / folder)]
        sys.modules[name] = package
    for name in ("torch", "torch.nn", "torch.nn.functional", "torch.optim", "torch.utils", "torch.utils.data"):
        sys.modules.setdefault(name, _Hollow(name))
    return root, importlib.import_module("obp.ope.estimators")


class _Hollow(types.ModuleType):
    """A module whose every name is an empty class: enough for annotations."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def theirs(obp: Any, columns: dict[str, np.ndarray], hyper: Hyper) -> tuple[dict[Any, Any], dict[str, float]]:
    """obp's value and SE per estimator and role, and the paired DR lift."""
    made = {
        "dm": obp.DirectMethod(),
        "ips": obp.InverseProbabilityWeighting(),
        "snips": obp.SelfNormalizedInverseProbabilityWeighting(),
        "clipped_ips": obp.InverseProbabilityWeighting(lambda_=hyper.clip),
        "dr": obp.DoublyRobust(),
        "sndr": obp.SelfNormalizedDoublyRobust(),
        "switch_dr": obp.SwitchDoublyRobust(lambda_=hyper.switch),
        "dros": obp.DoublyRobustWithShrinkage(lambda_=hyper.shrinkage),
    }
    n = len(columns["reward"])
    rounds, found = {}, {}
    for name, estimator in made.items():
        for role in ROLES:
            given = {
                "reward": columns["reward"],
                "action": columns["action"],
                "position": np.zeros(n, int),
                "action_dist": columns[role][:, :, None],
                "pscore": columns["propensity"],
                "estimated_rewards_by_reg_model": columns["q"][:, :, None],
            }
            if name == "dm":
                given.pop("pscore")
            if name in ("ips", "snips", "clipped_ips"):
                given.pop("estimated_rewards_by_reg_model")
            terms = estimator._estimate_round_rewards(**given)
            rounds[name, role] = terms
            found[name, role] = (
                float(estimator.estimate_policy_value(**given)),
                float(terms.std(ddof=1) / math.sqrt(n)),
            )
    d = rounds["dr", "candidate"] - rounds["dr", "champion"]
    return found, {"lift": float(d.mean()), "se": float(d.std(ddof=1) / math.sqrt(n))}


def compare(obp: Any, title: str, columns: dict[str, np.ndarray], hyper: Hyper) -> float:
    """Print and return the largest difference."""
    found, paired = theirs(obp, columns, hyper)
    rows = ScoredRows.from_matrices(**columns)
    ours, lift = totals(rows, hyper), paired_lift(rows)
    value = max(abs(ours.estimate(name, role).value - found[name, role][0]) for name, role in found)
    se = max(abs(ours.estimate(name, role).se - found[name, role][1]) for name in PLAIN_SE for role in ROLES)
    both = max(abs(lift.value - paired["lift"]), abs(lift.se - paired["se"]))
    print(
        f"{title}: {len(rows):,} rows, largest difference in values {value:.1e}, in SEs {se:.1e}, "
        f"in the paired lift {both:.1e}"
    )
    return max(value, se, both)


def open_bandit(root: Path) -> dict[str, np.ndarray]:
    """The bundled sample of the random policy, first position; the candidate is the other log's popularity."""
    import pandas as pd

    random = pd.read_csv(root / "dataset/obd/random/all/all.csv", index_col=0)
    random = random[random.position == random.position.min()]
    other = pd.read_csv(root / "dataset/obd/bts/all/all.csv", index_col=0)
    shown = np.bincount(other.item_id, minlength=80) + 1.0
    rate = (np.bincount(other.item_id, other.click, 80) + 0.5) / (shown + 100)
    n = len(random)
    return {
        "candidate": np.tile(shown / shown.sum(), (n, 1)),
        "champion": np.full((n, 80), 1 / 80),
        "q": np.tile(rate, (n, 1)),
        "action": random.item_id.to_numpy(),
        "reward": random.click.to_numpy(float),
        "propensity": random.propensity_score.to_numpy(float),
    }


def synthetic(n: int, k: int, seed: int) -> dict[str, np.ndarray]:
    """Rows with known truth."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(size=(n, k))
    mu, candidate, champion = (np.exp(s * truth + 0.3 * rng.normal(size=(n, k))) for s in (1.0, 3.0, 0.5))
    mu, candidate, champion = (p / p.sum(axis=1, keepdims=True) for p in (mu, candidate, champion))
    action = np.minimum((mu.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), k - 1)
    at = np.arange(n), action
    return {
        "candidate": candidate,
        "champion": champion,
        "q": np.clip(truth * 0.8 + 0.1, 0, 1),
        "action": action,
        "reward": (rng.random(n) < truth[at]).astype(float),
        "propensity": mu[at],
    }


def speed(obp: Any, n: int, k: int) -> None:
    """Our paired DR with variance, ESS and weights for both policies, against obp's DR value of one."""
    from evaluation.fast import paired_summary

    columns = synthetic(n, k, 3)
    rows = ScoredRows.from_matrices(**columns)
    dr = obp.DoublyRobust()
    given = {
        "reward": columns["reward"],
        "action": columns["action"],
        "position": np.zeros(n, int),
        "action_dist": columns["candidate"][:, :, None],
        "pscore": columns["propensity"],
        "estimated_rewards_by_reg_model": columns["q"][:, :, None],
    }
    work = {
        "ours": lambda: paired_summary(rows),
        "obp": lambda: dr.estimate_policy_value(**given),
        "read": lambda: (rows.candidate.sum(), rows.champion.sum(), rows.q.sum()),
    }
    # in turn, so that whatever else the machine does meets all three alike; the median of each
    taken = {name: [] for name in work}
    for _ in range(RUNS):
        for name, task in work.items():
            taken[name].append(_cpu_seconds(task))
    ours, other, read = (float(np.median(taken[name])) for name in ("ours", "obp", "read"))
    print(
        f"{n:,} rows, k = {k}: ours {ours:.4f} s, obp's DR of one policy {other:.4f} s, ratio {ours / other:.3f} "
        f"(reading the three arrays once: {read / other:.3f}); CPU time, medians of {RUNS} runs in turn"
    )


def _cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Compare and time; exit 1 when a difference exceeds 1e-9."""
    root, obp = load_obp()
    worst = compare(obp, "Open Bandit Dataset sample", open_bandit(root), Hyper(1.5, 1.2, 5.0))
    worst = max(worst, compare(obp, "synthetic", synthetic(20_000, 10, 1), Hyper(3.0, 2.0, 10.0)))
    speed(obp, 1_000_000, 5)
    speed(obp, 1_000_000, 100)
    sys.exit(worst > 1e-9)


if __name__ == "__main__":
    main()
