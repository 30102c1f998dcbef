"""Contexts and actions as VW features: the same code in training, in serving and in evaluation.

Raw or z-scored numbers hold a linear learner back, so by default a number becomes the quantile bin it falls
into, learnt from logged rows, with its place among the bins as one number, so that a few rows teach a slope; and
(where that stays affordable) features are crossed pairwise with the action.
Everything is total: outliers fall into the outermost bin, categories never seen before get weights of their
own, features that are missing where they are usually present say so, new features get a scale-free code until
the next fit. What `encoding.ignore` names is left out before anything else sees it. Fitted state is small, readable
JSON, stored with each model.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bandit.decoding import Undecodable, decode
from bandit.errors import CorruptModel
from bandit.feature_stats import (
    NESTING_MAX,
    NUMBER_MAX,
    FeatureSpec,
    FeatureTally,
    describe,
    flatten,
    is_absent,
    number_of,
    specify,
    without,
)
from bandit.names import encode_name
from bandit.settings import Encoding, encoding_to_dict
from bandit.types import Action, Context, Features

ENCODER_VERSION = 3
TERMS_MAX = 5000
"""Most feature products per request that `interactions = "auto"` spends on pairs."""
COARSE_BINS = 4
FINE_PAIR_ROWS = 200
"""Fewer rows leave nearly all pairs of fine bins empty, and those they fill are learnt by heart."""
ZSCORE_MAX = 1e3
SET_ITEMS_MAX = 1000
NUMBERED_ACTIONS_MAX = 1000
"""So many of the actions that a fit sees, the last ones, go by number."""


class _EncoderFile(msgspec.Struct):
    version: int
    encoding: Encoding
    rows: int
    pairs: bool
    action_pairs: bool
    context: list[FeatureSpec]
    action: list[FeatureSpec]
    numbered: list[str]


@dataclass(slots=True)
class _Coded:
    """One fitted feature, ready to encode: numbers by `edges` and `bins`, or by mean and deviation (`zscore`).

    A bin is a token, that of its coarse bin, and that of its place; the latter two where the feature has any.
    """

    token: str
    edges: list[float]
    bins: list[tuple[str, str | None, str | None]] | None
    doubled: bool
    zscore: tuple[float, float] | None
    crossed: bool
    expected: bool


class FeatureEncoder:
    """Turns contexts and actions into lines of VW text, by specifications fitted on logged rows."""

    def __init__(
        self,
        encoding: Encoding,
        context: Sequence[FeatureSpec] = (),
        action: Sequence[FeatureSpec] = (),
        *,
        rows: int = 0,
        pairs: bool = False,
        action_pairs: bool = False,
        numbered: Sequence[str] = (),
    ) -> None:
        self.encoding = encoding
        self.context_specs = tuple(context)
        self.action_specs = tuple(action)
        self.rows = rows
        self.pairs = pairs
        self.action_pairs = action_pairs
        self.numbered = tuple(numbered)
        self._ignored = tuple(f"{path}." for path in encoding.ignore)
        # VW takes a number as a feature's place: what is crossed with actions of consecutive numbers lies side by side
        # in memory, so that asking for all actions touches fewer cache lines
        self._id_tokens = {action_id: str(number) for number, action_id in enumerate(self.numbered)}
        coarse = any(_has_levels(spec, encoding) for spec in context)
        self._fine_pairs = pairs and (rows >= FINE_PAIR_ROWS or not coarse)
        # categories take part in the pairs of coarse bins too, where there are any
        doubled = pairs and coarse
        self._context = {spec.path: _code(spec, encoding, doubled, placed=True) for spec in context}
        self._action = {spec.path: _code(spec, encoding, False, placed=False) for spec in action}
        self._context_expected = [(s.path, encode_name(s.path) + "@missing") for s in context if s.expected]
        self._action_expected = [(s.path, encode_name(s.path) + "@missing") for s in action if s.expected]

    # -- fitting and storing -----------------------------------------------------------------------------

    @classmethod
    def fit(
        cls, contexts: Iterable[Context], action_sets: Iterable[Sequence[Action]], encoding: Encoding
    ) -> FeatureEncoder:
        """Learn bins, scales and frequencies from logged rows; with no rows, an encoder that knows no feature."""
        ignored = tuple(f"{path}." for path in encoding.ignore)
        context_tallies: dict[str, FeatureTally] = {}
        action_tallies: dict[str, FeatureTally] = {}
        rows = sets = offered = described = 0
        numbered: dict[str, None] = {}
        for context in contexts:
            rows += 1
            _tally(context_tallies, without(context, ignored) if ignored else context)
        previous: Sequence[Action] | None = None
        for actions in action_sets:
            sets += 1
            offered += len(actions)
            if actions is previous:  # a catalogue says the same in every row
                continue
            previous = actions
            described += len(actions)
            for action in actions:
                _tally(action_tallies, without(action.features, ignored) if ignored else action.features)
                numbered.pop(action.id, None)
                numbered[action.id] = None  # in the order in which they were last seen
        bins = bins_for(rows, encoding.bins)
        context_specs = [specify(path, tally, rows, bins) for path, tally in sorted(context_tallies.items())]
        action_specs = [specify(path, tally, described, bins) for path, tally in sorted(action_tallies.items())]
        k = max(offered / sets if sets else 0.0, 1.0)
        crossed = [spec for spec in context_specs if _is_crossed(spec)]
        choice = encoding.interactions
        coarse = sum(1 for spec in crossed if _has_levels(spec, encoding)) * len(crossed)
        products = (_pairs_of(len(crossed)) + coarse) * k
        pairs = choice == "pairs" or (choice == "auto" and products <= TERMS_MAX)
        action_products = products * (1 + len(action_specs))
        action_pairs = pairs and bool(action_specs) and (choice == "pairs" or action_products <= TERMS_MAX)
        return cls(
            encoding,
            context_specs,
            action_specs,
            rows=rows,
            pairs=pairs,
            action_pairs=action_pairs,
            numbered=list(numbered)[-NUMBERED_ACTIONS_MAX:],
        )

    def to_json(self) -> bytes:
        """The fitted state as readable JSON; equal states give equal bytes."""
        file = _EncoderFile(
            version=ENCODER_VERSION,
            encoding=self.encoding,
            rows=self.rows,
            pairs=self.pairs,
            action_pairs=self.action_pairs,
            context=list(self.context_specs),
            action=list(self.action_specs),
            numbered=list(self.numbered),
        )
        plain = msgspec.to_builtins(file) | {"encoding": encoding_to_dict(self.encoding)}
        return msgspec.json.format(msgspec.json.encode(plain), indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> FeatureEncoder:
        """Read `to_json`'s output; raises `CorruptModel` when it is not that, or of a later version."""
        try:
            file = decode(data, _EncoderFile)
        except Undecodable as error:
            raise CorruptModel(f"encoder.json cannot be read: {error}") from None
        if file.version != ENCODER_VERSION:
            raise CorruptModel.of_another_release("encoder.json", file.version, ENCODER_VERSION)
        return cls(
            file.encoding,
            file.context,
            file.action,
            rows=file.rows,
            pairs=file.pairs,
            action_pairs=file.action_pairs,
            numbered=file.numbered,
        )

    def explain(self) -> list[dict[str, Any]]:
        """One row per feature, for people: where, what it was, how often, and how it is encoded."""
        rows = [describe(spec, self.encoding.numbers, "context", self.rows) for spec in self.context_specs]
        rows += [describe(spec, self.encoding.numbers, "action", None) for spec in self.action_specs]
        return rows

    # -- encoding ----------------------------------------------------------------------------------------

    @property
    def interactions(self) -> tuple[str, ...]:
        """VW's interactions between namespaces.

        c: context, d: its coarse bins, r: its numbers' places, n: features new since the fit, s: sets, i: action id,
        f: action features.
        """
        crossed = ["ci", "di", "ri", "ni", "si", "cf", "df", "rf", "nf", "sf"]
        if self.pairs:
            crossed += ["rdi", "cci"] if self._fine_pairs else ["rdi"]
        if self.action_pairs:
            crossed += ["rdf", "ccf"] if self._fine_pairs else ["rdf"]
        return tuple(crossed)

    def describes(self, action: Action) -> bool:
        """Whether anything of an action but its id is learnt."""
        return bool(without(action.features, self._ignored) if self._ignored else action.features)

    def context_line(self, context: Context) -> str:
        """The shared line of one request: `shared |c … |d … |r … |n … |s …`; one line, whatever the context holds."""
        known: list[str] = []
        coarse: list[str] = []
        places: list[str] = []
        new: list[str] = []
        sets: list[str] = []
        if self._ignored:
            context = without(context, self._ignored)
        present = _encode(context, "", self._context, known, coarse, places, new, sets)
        if present < len(self._context_expected):
            known += _missing(context, self._context_expected)
        known.sort()
        line = "shared |c " + " ".join(known)
        if coarse:
            coarse.sort()
            line += " |d " + " ".join(coarse)
        if places:
            places.sort()
            line += " |r " + " ".join(places)
        if new:
            new.sort()
            line += " |n " + " ".join(new)
        if sets:
            sets.sort()
            line += " |s " + " ".join(sets)
        return line

    def action_line(self, action: Action) -> str:
        """The line of one action: `|i 7 |f …`, or `|i id=…` where its id has no number; one line, whatever it holds."""
        line = "|i " + (self._id_tokens.get(action.id) or "id=" + encode_name(action.id))
        features = without(action.features, self._ignored) if self._ignored else action.features
        if features or self._action_expected:
            tokens: list[str] = []
            present = _encode(features, "", self._action, tokens, tokens, tokens, tokens, tokens)
            if present < len(self._action_expected):
                tokens += _missing(features, self._action_expected)
            tokens.sort()
            line += " |f " + " ".join(tokens)
        return line


def _encode(  # noqa: PLR0917 (the hottest loop of serving: positional, and it fills lists given to it)
    features: Features,
    prefix: str,
    coded: Mapping[str, _Coded],
    known: list[str],
    coarse: list[str],
    places: list[str],
    new: list[str],
    sets: list[str],
) -> int:
    """Append the tokens of each feature to the list it belongs to; returns how many expected ones were there."""
    present = 0
    for name, value in features.items():
        kind = type(value)
        path = prefix + name if prefix else name
        code = coded.get(path)
        if kind is float or kind is int:
            if value - value != 0:  # NaN or infinite
                continue
            if code is None or code.bins is None:
                if code is None or code.zscore is None:
                    new.append(_magnitude_token(encode_name(path), value))
                    continue
                present += code.expected
                (known if code.crossed else new).append(_scaled(code, value))
                continue
            present += code.expected
            token, broad, place = code.bins[bisect_right(code.edges, value)]
            (known if code.crossed else new).append(token)
            if broad is not None:
                coarse.append(broad)
            if place is not None:
                places.append(place)
            continue
        elif value is None:
            continue
        elif kind is str:
            token = f"{encode_name(path)}={encode_name(value)}"
        elif kind is bool:
            token = encode_name(path) + ("=true" if value else "=false")
        elif kind is list or kind is tuple:
            token = encode_name(path)
            sets.extend([f"{token}~{encode_name(str(item))}" for item in value[:SET_ITEMS_MAX]])
            present += code is not None and code.expected
            continue
        elif isinstance(value, Mapping):
            if prefix.count(".") < NESTING_MAX:
                present += _encode(value, path + ".", coded, known, coarse, places, new, sets)
            continue
        else:
            token = f"{encode_name(path)}={encode_name(str(value))}"
        if code is None:
            new.append(token)
        else:
            present += code.expected
            (known if code.crossed else new).append(token)
            if code.doubled:
                coarse.append(token)
    return present


def _missing(features: Features, expected: Sequence[tuple[str, str]]) -> list[str]:
    given = {path for path, value in flatten(features) if not is_absent(value)}
    return [token for path, token in expected if path not in given]


def _tally(tallies: dict[str, FeatureTally], features: Features) -> None:
    for path, value in flatten(features):
        tally = tallies.get(path)
        if tally is None:
            tally = tallies[path] = FeatureTally()
        kind = type(value)
        if (kind is float or kind is int) and -NUMBER_MAX < value < NUMBER_MAX:
            tally.numbers.append(value)
        else:
            tally.add(value)


def _is_crossed(spec: FeatureSpec) -> bool:
    """Whether a feature may take part in pairs: sets may be long, so they may not."""
    return "list" not in spec.kinds


def bins_for(rows: int, bins_max: int) -> int:
    """How many bins `rows` rows can fill: their cube root, at least 8, at most `bins_max`."""
    return min(max(round(math.cbrt(rows)), 8), bins_max)


def _pairs_of(tokens: int) -> float:
    return tokens * (tokens + 1) / 2


def _has_levels(spec: FeatureSpec, encoding: Encoding) -> bool:
    return encoding.numbers == "bins" and len(spec.edges) + 1 > COARSE_BINS


def _code(spec: FeatureSpec, encoding: Encoding, doubled: bool, *, placed: bool) -> _Coded:
    token = encode_name(spec.path)
    numeric = "number" in spec.kinds
    zscore = numeric and encoding.numbers == "zscore"
    return _Coded(
        token=token,
        edges=spec.edges,
        bins=_bins(spec, encoding, token, placed=placed) if numeric and not zscore else None,
        doubled=doubled and _is_crossed(spec),
        zscore=(spec.mean, spec.deviation) if zscore else None,
        crossed=_is_crossed(spec),
        expected=spec.expected,
    )


def _bins(
    spec: FeatureSpec, encoding: Encoding, token: str, *, placed: bool
) -> list[tuple[str, str | None, str | None]]:
    bins, levels = len(spec.edges) + 1, _has_levels(spec, encoding)
    placed = placed and bins > 2 and _is_crossed(spec)
    return [
        (
            f"{token}@b{index}",
            f"{token}@c{index * COARSE_BINS // bins}" if levels else None,
            f"{token}@r:{(2 * index + 1) / bins - 1:.4f}" if placed else None,
        )
        for index in range(bins)
    ]


def _scaled(code: _Coded, value: float) -> str:
    mean, deviation = code.zscore or (0.0, 0.0)
    scaled = (number_of(value) - mean) / deviation if deviation > 0 else 0.0
    return f"{code.token}:{min(max(scaled, -ZSCORE_MAX), ZSCORE_MAX):.6f}"


def _magnitude_token(token: str, value: float) -> str:
    """A feature without fitted bins: sign and power of two, which needs no scale to be known."""
    number = number_of(value)
    if number == 0.0:
        return token + "@z"
    sign = "p" if number > 0 else "m"
    return f"{token}@{sign}{math.frexp(number)[1]}"
