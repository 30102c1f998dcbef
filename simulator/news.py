"""A front page: articles come and go, age, and readers of different kinds like different topics.

At any step `shelf` articles are on offer; every `lifetime / shelf` steps the oldest leaves and a new one comes,
with an id never seen before. A click (reward 1) depends on reader kind × topic, the article's own appeal (which
no feature tells) and its age. What is learnt about topics carries over to new articles; what is learnt about one
article dies with it.
"""

from __future__ import annotations

import math

import numpy as np

from bandit.types import Action
from simulator.environment import Round

TOPICS = ("politics", "sport", "culture", "science", "economy", "travel")
READERS = ("commuter", "student", "manager", "retiree")
DEVICES = ("phone", "desktop", "tablet")
CLICK_MIN, CLICK_MAX = 0.01, 0.95


class NewsWorld:
    """The front page as a world; `world_seed` fixes tastes and articles."""

    name = "news front page"
    catalogue = None
    reward_range = (0.0, 1.0)

    def __init__(self, shelf: int = 10, *, lifetime: int = 4000, world_seed: int = 0) -> None:
        if shelf < 2 or lifetime < shelf:
            raise ValueError("a shelf holds at least two articles, and each stays for at least `shelf` steps")
        self._shelf = shelf
        self._lifetime = lifetime
        self._world_seed = world_seed
        rng = np.random.default_rng([world_seed, shelf])
        self._taste = rng.normal(0.0, 1.1, (len(READERS), len(TOPICS)))
        self._articles: dict[int, tuple[str, int, float]] = {}

    def draw(self, rng: np.random.Generator, step: int) -> Round:
        """A reader at `step`, with the articles that are on the shelf then."""
        reader = int(rng.integers(len(READERS)))
        hour = int(rng.integers(24))
        context = {
            "reader": READERS[reader],
            "device": DEVICES[int(rng.integers(len(DEVICES)))],
            "hour": hour,
        }
        newest = int(step * self._shelf // self._lifetime) + self._shelf - 1
        numbers = range(newest, newest - self._shelf, -1)
        actions, means = [], np.empty(self._shelf)
        for position, number in enumerate(numbers):
            name, topic, appeal = self._article(number)
            born = (number - self._shelf + 1) * self._lifetime / self._shelf
            age = min(1.0, max(0.0, (step - born) / self._lifetime))
            actions.append(Action(name, {"topic": TOPICS[topic], "age": round(age, 3)}))
            means[position] = self._click(reader, topic, appeal, age)
        outcomes = (rng.random(self._shelf) < means).astype(np.float64)
        return Round(context, tuple(actions), means, outcomes)

    def _click(self, reader: int, topic: int, appeal: float, age: float) -> float:
        logit = -1.5 + self._taste[reader, topic] + appeal - 1.5 * age
        return float(np.clip(1 / (1 + math.exp(-logit)), CLICK_MIN, CLICK_MAX))

    def _article(self, number: int) -> tuple[str, int, float]:
        if number not in self._articles:
            rng = np.random.default_rng([self._world_seed, self._shelf, number])
            topic = int(rng.integers(len(TOPICS)))
            self._articles[number] = (f"article-{number}", topic, float(rng.normal(0.0, 0.5)))
        return self._articles[number]
