"""The gate: may the challenger replace the champion?

`judge` answers promote, hold, or insufficient data, from the paired doubly-robust lift of the challenger over the
champion on rows that neither had learnt from. Its lower bound holds at level α over the champion's whole tenure,
however often it is asked, because the ledger of α travels from one look to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from evaluation.caution import Caution, caution
from evaluation.checks import Check, agreement_note, draws_check, subjects_check, without_support
from evaluation.estimators import Estimate, Hyper, Totals
from evaluation.gathering import Gathered
from evaluation.lift import weighted_lift
from evaluation.scored import ScoredRows
from evaluation.sequential import (
    GROWTH_MIN,
    AlphaLedger,
    Look,
    confidence_sequence_z,
    critical_value,
    spend,
)
from evaluation.weighting import per_decision, stretch_weights

Outcome = Literal["promote", "hold", "insufficient"]

_POWER_Z = NormalDist().inv_cdf(0.8)

_GROWING = frozenset({"rows", "ess_candidate", "ess_champion", "informative_rewards", "telling_draws", "subjects"})
"""Floors on what grows with the rows; the others ask about shares, which more rows may leave as they are."""

_CONTRADICTS_Z = NormalDist().inv_cdf(0.95)

ROWS_TOLD_MAX = 10**9
"""Forecasts of rows are cut to so many."""

RULES_VERSION = 8
"""Raise it when the same rows and rules may lead to another number or verdict than before; certificates carry it."""


@dataclass(frozen=True, slots=True)
class GateRules:
    """The rules of the gate; fields of the same names are settings of an experiment.

    `alpha`: chance of promoting an equal challenger over a tenure. `margin`: in `superiority` the lift the lower
    bound must exceed, in reward units; in `noninferiority` the tolerated loss as a share of the champion's value.
    `looks`: `planned` spends α over looks, `anytime` uses a confidence sequence. `horizon_rows`: rows of an epoch.
    `weighted`: weigh stretches of the log by what they can tell (see `evaluation.weighting`) or take the plain mean, as
    is always taken with a margin.
    `detectable_lift`: the relative lift worth finding, for the forecast of rows that would show it. The others are
    floors below which the bound is not to be trusted at all; above them it reckons with what the log could not
    show (see `evaluation.caution`), which is why they can be low.
    """

    enabled: bool = True
    mode: Literal["superiority", "noninferiority"] = "superiority"
    alpha: float = 0.05
    margin: float = 0.0
    looks: Literal["planned", "anytime"] = "planned"
    horizon_rows: int = 60_000
    weighted: bool = True
    detectable_lift: float = 0.05
    rows_min: int = 200
    ess_min: float = 10.0
    informative_min: int = 5
    top_share_max: float = 0.95
    uncovered_max: float = 0.02
    draws_min: float = 1.5

    @classmethod
    def of(cls, settings: Any) -> GateRules:
        """From any object or mapping that has some of these fields."""
        names = [field.name for field in fields(cls)]
        if isinstance(settings, Mapping):
            return cls(**{name: settings[name] for name in names if name in settings})
        return cls(**{name: getattr(settings, name) for name in names if hasattr(settings, name)})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says, why, and what the next look needs to know.

    `lift` is the paired DR lift with its SE, `weighed` the one that the bounds belong to (the same where every stretch
    of the log tells as much); `lower` and `upper` are its one-sided bounds at the tenure's level (critical value `z`).
    `rejected`: an alarm, or `upper` below 0; the challenger should restart from the champion.
    `keep_rows`: whether the rows judged here belong to the next look too (false after a
    promotion, a rejection and at the end of an epoch). `rows_needed`: further rows until the unmet floors are met, at
    the rates so far; None where none is unmet or nothing foretells it. `rows_to_show`: further rows that would show the
    lift worth finding ("detectable") and the one observed so far ("observed"), each None where no more would be needed
    or nothing foretells it. Neither tells of more than `ROWS_TOLD_MAX`.
    """

    outcome: Outcome
    reason: str
    lift: Estimate
    weighed: Estimate
    lower: float
    upper: float
    z: float
    relative: float | None
    n: int
    excluded: dict[str, int]
    checks: tuple[Check, ...]
    rows_needed: int | None
    rows_to_show: dict[str, int | None]
    rejected: bool
    looked: bool
    keep_rows: bool
    alpha_look: float
    ledger: AlphaLedger
    totals: Totals

    @property
    def promote(self) -> bool:
        """Whether the challenger may become champion."""
        return self.outcome == "promote"


def judge(
    rows: ScoredRows,
    rules: GateRules,
    *,
    ledger: AlphaLedger | None = None,
    challengers: int = 1,
    checks: Sequence[Check] = (),
    hyper: Hyper | None = None,
) -> Verdict:
    """Judge all scored rows of the present challenger in this tenure (and epoch).

    `ledger` is the one of the previous verdict (None at the start of a tenure); `checks` are further ones that the
    caller made, such as replayed decisions; with several `challengers` each gets its share of α (Bonferroni).
    """
    gathered = Gathered.of(rows, hyper)
    used = rows.where(~without_support(rows))
    if not rules.weighted or rules.margin > 0 or len(used) == 0:  # weighing tells whether, the plain mean by how much
        return judge_gathered(gathered, rules, ledger=ledger, challengers=challengers, checks=checks)
    weights = stretch_weights(used)
    scale = per_decision(used, weights)
    weighed = weighted_lift(used, used.reduce(), weights / scale)
    care = caution(used, weighed, weights=weights / scale)
    evidence = _Weighed(weighed, care, scale, weighted=True)
    return _verdict(gathered, evidence, rules, ledger=ledger, alpha=rules.alpha / challengers, checks=checks)


def judge_gathered(
    gathered: Gathered,
    rules: GateRules,
    *,
    ledger: AlphaLedger | None = None,
    challengers: int = 1,
    checks: Sequence[Check] = (),
) -> Verdict:
    """The same for rows gathered before, every row weighing the same whatever the rules say."""
    evidence = _Weighed(gathered.lift(), gathered.caution(), 1.0, weighted=False)
    return _verdict(gathered, evidence, rules, ledger=ledger, alpha=rules.alpha / challengers, checks=checks)


@dataclass(frozen=True, slots=True)
class _Weighed:
    """The lift that the bounds belong to, the caution due to it, and what weights it has were divided by."""

    lift: Estimate
    caution: Caution
    scale: float
    weighted: bool


def _verdict(
    gathered: Gathered,
    evidence: _Weighed,
    rules: GateRules,
    *,
    ledger: AlphaLedger | None,
    alpha: float,
    checks: Sequence[Check],
) -> Verdict:
    totals, lift = gathered.totals, gathered.lift()
    everything = [*checks, *gathered.audit.checks()]
    everything += gathered.evidence.checks(
        totals,
        rows_min=rules.rows_min,
        ess_min=rules.ess_min,
        informative_min=rules.informative_min,
        top_share_max=rules.top_share_max,
        uncovered_max=rules.uncovered_max,
    )
    if gathered.clustered and not gathered.identical:
        everything.append(subjects_check(evidence.caution.subjects))
    everything.append(agreement_note(totals))
    if not gathered.identical:
        everything.append(draws_check(evidence.caution.draws, rules.draws_min))
    ledger = ledger or AlphaLedger()
    case = _Case(lift, gathered.caution().se, evidence, totals, rules, ledger, alpha, tuple(everything), gathered.n)
    ruling = _rule(case, identical=gathered.identical)
    return Verdict(
        lift=lift,
        weighed=evidence.lift,
        relative=case.relative,
        n=gathered.n,
        excluded=gathered.excluded,
        checks=tuple(everything),
        totals=totals,
        **{field.name: getattr(ruling, field.name) for field in fields(ruling)},
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything a ruling depends on."""

    lift: Estimate
    plain_se: float
    evidence: _Weighed
    totals: Totals
    rules: GateRules
    ledger: AlphaLedger
    alpha: float
    checks: tuple[Check, ...]
    n: int

    @property
    def weighed(self) -> Estimate:
        return self.evidence.lift

    @property
    def caution(self) -> Caution:
        return self.evidence.caution

    @property
    def champion(self) -> Estimate:
        return self.totals.estimate("dr", "champion") if self.n else Estimate(math.nan, math.nan, 0)

    @property
    def champion_value(self) -> float:
        return self.champion.value

    @property
    def relative(self) -> float | None:
        value = self.champion_value
        return self.lift.value / abs(value) if math.isfinite(value) and value else None

    @property
    def alarms(self) -> list[Check]:
        return [check for check in self.checks if check.kind == "alarm" and check.status == "fail"]

    @property
    def unmet(self) -> list[Check]:
        return [check for check in self.checks if check.kind == "floor" and check.status != "pass"]

    @property
    def vetoes(self) -> list[Check]:
        return [check for check in self.checks if check.kind == "veto" and check.status == "fail"]

    @property
    def upper_of_all(self) -> float:
        """The upper 5% bound of the plain lift, in which every row counts the same."""
        return self.lift.value + _CONTRADICTS_Z * self.plain_se

    @property
    def tolerated(self) -> float:
        """What the lower bound must exceed."""
        if self.rules.mode == "noninferiority":
            return -self.rules.margin * abs(self.champion_value)
        return self.rules.margin

    def rows_needed(self) -> int | None:
        """Rows still to come until all floors are met, at the rates so far; None where a floor follows no such rate."""
        if self.n == 0:
            return self.rules.rows_min
        wanted = [0.0]
        for check in self.unmet:
            if check.name not in _GROWING or not check.value or not check.limit:
                return None
            wanted.append(self.n * check.limit / check.value - self.n)
        return _whole(max(wanted))

    def rows_to_show(self, z: float) -> dict[str, int | None]:
        """Rows still to come until a lift of δ·V_b, or the one observed so far, is seen with power .8."""
        effects = {
            "detectable": self.rules.detectable_lift * abs(self.champion_value),
            "observed": self.weighed.value - max(0.0, self.tolerated),
        }
        return {name: self._rows_for(effect, z) for name, effect in effects.items()}

    def _rows_for(self, effect: float, z: float) -> int | None:
        if self.n == 0 or not effect > 0:
            return None
        return _whole(((z + _POWER_Z) * self.caution.se * math.sqrt(self.n) / effect) ** 2 - self.n)

    def look(self) -> Look | None:
        """Take a look when one is planned and brings new evidence; None otherwise."""
        clock = self.caution.clock * self.evidence.scale**2
        if clock <= 0 or self.caution.se <= 0:
            return None
        weighted = self.evidence.weighted
        if self.rules.looks == "anytime":
            share = self.ledger.sequence or self.alpha - self.ledger.spent
            if share <= 0:
                return None
            z = confidence_sequence_z(self.n, alpha=share, tuned_at=self.rules.horizon_rows / 6)
            return Look(self.n, clock, 0.0 if self.ledger.sequence else share, z, weighted)
        # looks at the other lift tell nothing of how far this one has come: their α is spent, and added up
        before = tuple(look for look in self.ledger.looks if look.weighted == weighted)
        if before and clock < before[-1].clock * GROWTH_MIN:
            return None
        share = spend(self.ledger, self.n, alpha=self.alpha, horizon_rows=self.rules.horizon_rows)
        return Look(self.n, clock, share, critical_value(before, clock, share), weighted) if share > 0 else None

    def standing_z(self) -> float:
        """The critical value to show between looks: the last one taken, or that of a single look at level α."""
        return self.ledger.looks[-1].z if self.ledger.looks else NormalDist().inv_cdf(1 - self.alpha)


@dataclass(frozen=True, slots=True)
class _Ruling:
    outcome: Outcome
    reason: str
    lower: float
    upper: float
    z: float
    rows_needed: int | None
    rows_to_show: dict[str, int | None]
    rejected: bool
    looked: bool
    keep_rows: bool
    alpha_look: float
    ledger: AlphaLedger


def _rule(case: _Case, *, identical: bool) -> _Ruling:
    rules, lift, n = case.rules, case.lift, case.n
    alarms, unmet = case.alarms, case.unmet
    shut = bool(alarms or unmet) or identical or not rules.enabled
    look = None if shut else case.look()
    after = case.ledger.looked(look, sequence=rules.looks == "anytime") if look else case.ledger
    z = look.z if look else case.standing_z()
    lower, upper = case.weighed.value - case.caution.reach(z), case.weighed.value + case.caution.reach_up(z)
    to_show = case.rows_to_show(z)
    alike = identical and rules.enabled and not alarms  # more of such rows would tell no more
    over = rules.looks == "planned" and (alike or not shut) and after.rows_before + n >= rules.horizon_rows
    ended = over and (alike or look is not None or after.spent >= case.alpha)

    def ruling(outcome: Outcome, reason: str, *, rejected: bool = False) -> _Ruling:
        keep, ledger = _carried(after, n, promoted=outcome == "promote", ended=ended, rejected=rejected)
        return _Ruling(
            outcome=outcome,
            reason=reason,
            lower=lower,
            upper=upper,
            z=z,
            rows_needed=case.rows_needed() if outcome == "insufficient" else None,
            rows_to_show=dict.fromkeys(to_show) if outcome == "promote" else to_show,
            rejected=rejected,
            looked=look is not None,
            keep_rows=keep,
            alpha_look=look.alpha if look else 0.0,
            ledger=ledger,
        )

    if not rules.enabled:
        return ruling("promote", "The gate is switched off in the settings: promoted without proof.")
    if alarms:
        return ruling("hold", "Alarm: " + " ".join(check.text for check in alarms), rejected=True)
    if unmet:
        needed = case.rows_needed()
        more = f" At the rates so far that takes {rows_in_words(needed)} more rows." if needed else ""
        if (detectable := to_show["detectable"]) and detectable > (needed or 0):
            more += f" Forecast from these few: to show a lift of {100 * rules.detectable_lift:g}%, "
            more += f"{rows_in_words(detectable)} more."
        return ruling("insufficient", "Not enough evidence: " + " ".join(check.text for check in unmet) + more)
    if identical:
        return ruling("hold", f"Both policies chose alike in all {n:,} rows: there is nothing to promote.")
    told = case.relative is not None and case.champion.apart_from_0  # of next to nothing any lift is many percent
    percent = f" ({case.relative:+.1%})" if told else ""
    numbers = f"lift {lift.value:+.4f} per decision{percent} on {n:,} rows"
    if not math.isclose(case.weighed.value, lift.value, rel_tol=1e-9, abs_tol=1e-12):
        numbers += f" ({case.weighed.value:+.4f} weighed by what each stretch of the log tells)"
    forecast = _forecast(to_show, rules)
    if look is None and after.spent >= case.alpha * (1 - 1e-9):
        return ruling("hold", f"All of its α has been spent: {numbers}.")
    if look is None:
        return ruling("hold", f"Too few new rows since the last look: {numbers}.{forecast}")
    bound = "above 0" if case.tolerated == 0 else f"above {case.tolerated:+.4f}"
    if lower > case.tolerated and (rules.mode == "superiority" or case.weighed.value >= 0):
        if case.upper_of_all < case.tolerated:
            return ruling(
                "hold",
                f"Contradictory: {numbers}. As weighed its lower bound {lower:+.4f} is {bound}, but with rows alike "
                f"even an upper bound of {case.upper_of_all:+.4f} is not: where the policies differ most, it is worse.",
            )
        word = "Better" if rules.mode == "superiority" else "Not worse"
        if case.vetoes:
            doubts = " ".join(check.text for check in case.vetoes)
            return ruling("hold", f"{word}, and held all the same: {numbers}, its lower bound {lower:+.4f}. {doubts}")
        return ruling("promote", f"{word}: {numbers}, and its lower bound {lower:+.4f} is {bound}.")
    if upper < 0:
        return ruling("hold", f"Worse: {numbers}, and even its upper bound {upper:+.4f} is below 0.", rejected=True)
    return ruling("hold", f"Not proven better: {numbers}, and its lower bound {lower:+.4f} is not {bound}.{forecast}")


def rows_in_words(rows: int) -> str:
    """A forecast of rows; one that was cut to `ROWS_TOLD_MAX` is none of any number."""
    return f"about {rows:,}" if rows < ROWS_TOLD_MAX else "more than a billion"


def _forecast(to_show: Mapping[str, int | None], rules: GateRules) -> str:
    """How many more rows would show the lift worth finding, and the one seen so far."""
    parts = []
    if detectable := to_show["detectable"]:
        parts.append(f"{rows_in_words(detectable)} more rows would show a lift of {100 * rules.detectable_lift:g}%")
    if observed := to_show["observed"]:
        more = "" if parts else " more rows would show"
        parts.append(f"{rows_in_words(observed)}{more} the one observed so far, if that is the true one")
    return f" Forecast: {', '.join(parts)}." if parts else ""


def _whole(rows: float) -> int | None:
    return min(math.ceil(rows), ROWS_TOLD_MAX) if rows > 0 and math.isfinite(rows) else None


def _carried(after: AlphaLedger, n: int, *, promoted: bool, ended: bool, rejected: bool) -> tuple[bool, AlphaLedger]:
    """Whether the `n` rows judged belong to the next look too, and the ledger that it goes on with."""
    if promoted:
        return False, AlphaLedger()
    if ended:
        return False, after.next_epoch()
    if rejected:
        return False, after.rejected(n)
    return True, after


def rules_to_dict(rules: GateRules) -> dict[str, Any]:
    """A JSON object that `GateRules.of` reads back."""
    return asdict(rules)


def summary(estimate: Estimate) -> dict[str, float | None]:
    """An estimate as JSON, NaN as null."""
    return {name: None if not np.isfinite(v) else v for name, v in (("value", estimate.value), ("se", estimate.se))}
