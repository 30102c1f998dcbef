"""The pmf of the challenger on trial, taken back out of the logged mixture.

A decision with a challenger on trial was drawn from (1 − f)((1 − s) champion + s challenger) + f control, and all but
the challenger is known. What is left is the distribution of the very version that had its share: it had not learnt
from the row, and no weight of it exceeds 1/s. A newer version would be judged by draws that nobody made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bandit.policies import control_policy
from bandit.settings import ExperimentSettings, Serving
from bandit.types import MODE_ONLINE, Interaction

ROUNDING = 1e-6
"""A probability this little below 0 is rounding; anything more, and the mixture was another one than declared."""
ALIKE = 1e-12
"""Probabilities that differ by no more are equal, computed in two ways."""


class Tried:
    """Knows which models stood for one challenger, and under which settings each row was decided.

    `stands_for(model_id)` gives the challenger's name of a model that was on trial (None: unknown), `settings_of` the
    settings of a version. `champion_id` is the champion that the challenger is compared with.
    """

    def __init__(
        self,
        challenger: str,
        champion_id: str | None,
        stands_for: Callable[[str], str | None],
        settings_of: Callable[[int], ExperimentSettings],
    ) -> None:
        self._challenger = challenger
        self._champion_id = champion_id
        self._stands_for = stands_for
        self._settings_of = settings_of
        self._names: dict[str, str | None] = {}
        self._servings: dict[int, Serving] = {}

    def pmf(self, row: Interaction, champion: Sequence[float]) -> list[float] | None:
        """What the challenger had its share in `row` with; None where it was not on trial beside this champion."""
        model_id = row.trial_model_id
        if (
            model_id is None
            or not row.trial_share
            or row.pmf is None
            or row.mode != MODE_ONLINE
            or row.model_id != self._champion_id
        ):
            return None
        if model_id not in self._names:
            self._names[model_id] = self._stands_for(model_id)
        if self._names[model_id] != self._challenger:
            return None
        serving = self._servings.get(row.settings_version)
        if serving is None:
            serving = self._servings[row.settings_version] = self._settings_of(row.settings_version).serving
        mixed: Sequence[float] = row.pmf
        if serving.control_fraction > 0.0:
            control = control_policy(serving).pmf(row.context, row.actions)
            mixed = _without(mixed, control, serving.control_fraction)
        tried = _proper(_without(mixed, champion, 1.0 - row.trial_share))
        if tried is not None and all(abs(own - its) <= ALIKE for own, its in zip(tried, champion, strict=True)):
            return list(champion)  # what is left of a mixture of equal policies is rounding, always to the same side
        return tried


def _without(mixed: Sequence[float], other: Sequence[float], fraction: float) -> list[float]:
    return [(p - fraction * o) / (1.0 - fraction) for p, o in zip(mixed, other, strict=True)]


def _proper(pmf: list[float]) -> list[float] | None:
    if min(pmf) < -ROUNDING or abs(sum(pmf) - 1.0) > ROUNDING:
        return None
    whole = [max(p, 0.0) for p in pmf]
    total = sum(whole)
    return [p / total for p in whole]
