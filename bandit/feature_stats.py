"""What a fit learns about each feature: how often it is there, as what, and where its numbers are cut.

The cuts are quantiles of the logged values, after each value that is common by itself (a zero, a default, a
code) has been given a bin of its own, so that heavy atoms don't swallow the bins of the rest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec

from bandit.types import Features

EXPECTED_SHARE = 0.25
"""A feature present in at least this share of fitted rows is reported as missing when it is absent."""
TOP_VALUES = 8
NESTING_MAX = 8
"""Objects nested deeper than this (by the dots of their path) are left out."""
NUMBER_MAX = 1e30
DISTINCT_COUNTED_MAX = 10_000
_LEAVES = frozenset((float, int, str, bool, list, type(None)))


class FeatureSpec(msgspec.Struct):
    """The fitted state of one feature; `kinds` counts what its values were."""

    path: str
    present: int = 0
    kinds: dict[str, int] = {}
    edges: list[float] = []
    mean: float = 0.0
    deviation: float = 0.0
    top: dict[str, int] = {}
    distinct: int = 0
    expected: bool = False


@dataclass(slots=True)
class FeatureTally:
    """What a fit has seen of one feature so far; `kinds` counts all but numbers, which are kept.

    Finite numbers within ±1e30, by far the most common values, may be appended to `numbers` as they are.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    numbers: list[float] = field(default_factory=list)
    values: Counter[str] = field(default_factory=Counter)

    def add(self, value: Any) -> None:
        """Count one value, unless it is absent."""
        if is_absent(value):
            return
        if (name := kind_of(value)) == "number":
            self.numbers.append(number_of(value))
        else:
            self.kinds[name] += 1
            for text in [str(item) for item in value] if name == "list" else [str(value)]:
                if text in self.values or len(self.values) < DISTINCT_COUNTED_MAX:
                    self.values[text] += 1


def is_absent(value: Any) -> bool:
    """Whether a value says nothing: null, NaN or an infinity."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def kind_of(value: Any) -> str:
    """`number`, `boolean`, `list` or `category`."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list | tuple):
        return "list"
    return "category"


def number_of(value: float) -> float:
    """A finite float for any int or float that is not NaN, cut to ±1e30."""
    if value >= NUMBER_MAX:
        return NUMBER_MAX
    if value <= -NUMBER_MAX:
        return -NUMBER_MAX
    return float(value)


def flatten(features: Features, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Walk a features object depth first: dotted path and value of each leaf."""
    for name, value in features.items():
        if type(value) in _LEAVES or not isinstance(value, Mapping):  # asking a type is much cheaper than an interface
            yield prefix + name, value
        elif prefix.count(".") < NESTING_MAX:
            yield from flatten(value, f"{prefix}{name}.")


def without(features: Features, below: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    """A features object without the features at some dotted paths, each given with a dot at its end, or below them.

    >>> without({"user": "ann", "shop": {"id": 3, "town": "Ulm"}}, ("user.", "shop.id."))
    {'shop': {'town': 'Ulm'}}
    """
    kept: dict[str, Any] = {}
    for name, value in features.items():
        path = f"{prefix}{name}."
        if path.startswith(below):
            continue
        if type(value) in _LEAVES or not isinstance(value, Mapping):
            kept[name] = value
        elif prefix.count(".") < NESTING_MAX and (inner := without(value, below, path)):
            kept[name] = inner
    return kept


def specify(path: str, tally: FeatureTally, rows: int, bins: int) -> FeatureSpec:
    """The specification of one feature out of what was seen of it in `rows` rows."""
    numbers = list(map(float, tally.numbers))
    mean = math.fsum(numbers) / len(numbers) if numbers else 0.0
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in numbers) / len(numbers)) if numbers else 0.0
    kinds = dict(tally.kinds) | ({"number": len(numbers)} if numbers else {})
    present = sum(kinds.values())
    most_common = sorted(tally.values.items(), key=lambda item: (-item[1], item[0]))
    return FeatureSpec(
        path=_storable(path),
        present=present,
        kinds=dict(sorted(kinds.items())),
        edges=cut_points(numbers, bins),
        mean=mean,
        deviation=deviation,
        top={_storable(text): count for text, count in most_common[:TOP_VALUES]},
        distinct=len(tally.values) + len(set(numbers)),
        expected=present >= EXPECTED_SHARE * rows,
    )


def describe(spec: FeatureSpec, numbers: str, side: str, rows: int | None) -> dict[str, Any]:
    """How one feature is encoded, in words; `rows` is how many rows were fitted (None: not known)."""
    ways = []
    if "number" in spec.kinds:
        if numbers == "zscore":
            ways.append(f"number, scaled by mean {spec.mean:.4g} and deviation {spec.deviation:.4g}")
        elif spec.edges:
            ways.append(f"number in {len(spec.edges) + 1} bins, cut at {_some(spec.edges)}")
        else:
            ways.append("number that was always the same: one bin")
    if "category" in spec.kinds:
        ways.append(f"category, {len(spec.top)} most common of {spec.distinct} values: {', '.join(spec.top)}")
    if "boolean" in spec.kinds:
        ways.append("boolean")
    if "list" in spec.kinds:
        ways.append(f"set of {spec.distinct} values, one feature each; most common: {', '.join(spec.top)}")
    if spec.expected:
        ways.append("absence is a feature of its own")
    return {
        "feature": spec.path,
        "of": side,
        "present": spec.present,
        "share": None if not rows else spec.present / rows,
        "kinds": dict(spec.kinds),
        "edges": list(spec.edges),
        "encoding": "; ".join(ways) or "never seen with a value",
    }


def _some(edges: Sequence[float]) -> str:
    shown = [f"{edge:.4g}" for edge in edges]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "…", *shown[-3:]])


def cut_points(numbers: Sequence[float], bins: int) -> list[float]:
    """At most `bins` − 1 increasing cuts; a value as common as a whole bin gets a bin of its own.

    >>> cut_points([0, 0, 0, 1, 2, 3], 3)
    [0.5, 2.5]
    """
    counts = Counter(numbers)
    values = sorted(counts)
    if len(values) <= bins:
        return [_between(low, high) for low, high in pairwise(values)]
    cuts: set[float] = set()
    share = len(numbers) / bins
    rest = 0
    atoms = 0
    for position, value in enumerate(values):
        if counts[value] >= share:
            atoms += 1
            if position > 0:
                cuts.add(_between(values[position - 1], value))
            if position + 1 < len(values):
                cuts.add(_between(value, values[position + 1]))
        else:
            rest += counts[value]
    free = max(bins - atoms, 1)
    passed = 0.0
    bin_now = 0
    previous: float | None = None
    for value in values:
        if counts[value] >= share:
            continue
        middle = int((passed + counts[value] / 2) * free / rest)
        if previous is not None and middle > bin_now:
            cuts.add(_between(previous, value))
        bin_now = max(bin_now, middle)
        passed += counts[value]
        previous = value
    return sorted(cuts)


def _storable(text: str) -> str:
    """`text` without lone surrogates, which no JSON file can hold."""
    return text.encode("utf-8", "replace").decode()


def _between(low: float, high: float) -> float:
    middle = low / 2 + high / 2
    return middle if low < middle <= high else high
