"""Ask which action to show and report what came of it; the page goes on whatever happens to the service.

Start a service (`rewardloop up --quick`) and run `python examples/ask_and_report.py`.
"""

from __future__ import annotations

import sys

from rewardloop_client import Recommender


def main(url: str = "http://127.0.0.1:8000") -> None:
    with Recommender(url) as recommender:
        choice = recommender.recommend({"hour": 20, "device": "phone"}, ["news", "sport"], default="news")
        print(choice.action, "learnable" if choice.learnable else "the default")
        recommender.reward(choice, 1.0)  # queued, sent in the background, flushed at exit
    print(f"{recommender.counters.rewards_sent} reward on disk")


if __name__ == "__main__":
    main(*sys.argv[1:])
