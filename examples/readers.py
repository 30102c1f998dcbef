"""Readers of a front page, the running example of docs/tour.md: each is shown news or sport, and clicks or not.

With a phone in hand they like sport (6 of 10 click on it, 2 of 10 on news), at a desk news; `changed` turns their taste
around. Start a service (`rewardloop up --quick`) and run `python examples/readers.py 1000`. How many clicked goes to
stderr, the event_id of the last decision to stdout.
"""

from __future__ import annotations

import random
import sys

from rewardloop_client import Client


def main(readers: str = "1000", taste: str = "", url: str = "http://127.0.0.1:8000") -> None:
    likes = {"phone": "news", "desk": "sport"} if taste == "changed" else {"phone": "sport", "desk": "news"}
    clicks, event_id = 0, ""
    with Client(url, "default") as client:
        for _ in range(int(readers)):
            device, hour = random.choice(["phone", "desk"]), random.randrange(24)
            shown = client.recommend({"device": device, "hour": hour}, ["news", "sport"])
            clicked = random.random() < (0.6 if shown.action == likes[device] else 0.2)
            client.reward(shown.event_id, float(clicked))
            clicks, event_id = clicks + clicked, shown.event_id
    print(f"{clicks} of {readers} clicked", file=sys.stderr)
    print(event_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
