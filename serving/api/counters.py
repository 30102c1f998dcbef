"""What one worker counts for one experiment: flat numbers that fit into a heartbeat.

Each worker writes its counters with its heartbeat, so that whichever worker is asked for `/metrics` can
tell those of all. Latency goes into a histogram with fixed edges; its sums add up over workers.
"""

from __future__ import annotations

from bisect import bisect_left

LATENCY_EDGES_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Counters:
    """Counts by name, errors by kind, and a latency histogram per route."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {
            "decisions": 0,
            "rewards": 0,
            "activations": 0,
            "retries": 0,
            "fallback_decisions": 0,
            "control_decisions": 0,
            "apprentice_agreements": 0,
            "policy_errors": 0,
            "trial_errors": 0,
            "poll_errors": 0,
            "model_swaps": 0,
        }
        self.errors: dict[str, int] = {}
        self.latency: dict[str, list[float]] = {}

    def add(self, name: str, amount: float = 1) -> None:
        """Add to a count."""
        self.counts[name] += amount

    def refuse(self, kind: str) -> None:
        """Count one refused request or item by the kind of its problem."""
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def observe(self, route: str, seconds: float) -> None:
        """Put the time of one answered request into its route's histogram."""
        histogram = self.latency.get(route)
        if histogram is None:
            histogram = self.latency[route] = [0.0] * (len(LATENCY_EDGES_S) + 2)
        histogram[bisect_left(LATENCY_EDGES_S, seconds)] += 1
        histogram[-1] += seconds

    def flat(self) -> dict[str, float]:
        """Everything as `name`, `error:<kind>`, `latency:<route>:<edge index>` and `latency:<route>:sum`."""
        flat = dict(self.counts)
        flat.update({f"error:{kind}": count for kind, count in list(self.errors.items())})
        for route, histogram in list(self.latency.items()):
            for index, count in enumerate(histogram[:-1]):
                flat[f"latency:{route}:{index}"] = count
            flat[f"latency:{route}:sum"] = histogram[-1]
        return flat
