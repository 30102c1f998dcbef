"""A process that logs rewards as fast as it can and reports each on stdout only once it is acknowledged.

Arguments: folder, writer id, prefix of the event ids, events in flight, largest file size in bytes (0: any).
It ends by itself only when durability is lost: exit code 3 if everything was refused from then on.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path

from bandit.errors import DurabilityLost
from bandit.eventlog import EventLogWriter, beat
from bandit.experiment import ExperimentPaths
from tests.bandit.eventlog_support import reward, utc_now


def main() -> int:
    root, writer_id, prefix, in_flight, size_max = sys.argv[1:]
    if int(size_max):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size_max), int(size_max)))
    paths = ExperimentPaths(Path(root))
    writer = EventLogWriter(
        paths, writer_id, clock=utc_now, seal_interval_s=0.05, on_seal=lambda: beat(paths, writer.heartbeat())
    )
    free = threading.Semaphore(int(in_flight))

    def acknowledge(event_id: str, error: Exception | None) -> None:
        if error is None:
            os.write(1, f"{event_id}\n".encode())
        free.release()

    number = 0
    while True:
        free.acquire()
        event_id = f"{prefix}-{number}"
        number += 1
        try:
            writer.submit([reward(writer, event_id)], lambda error, event_id=event_id: acknowledge(event_id, error))
        except DurabilityLost:
            break
    refused = 0
    for attempt in range(10):
        try:
            writer.append([reward(writer, f"{prefix}-after-{attempt}")])
        except DurabilityLost:
            refused += 1
    writer.close()
    return 3 if refused == 10 else 4


if __name__ == "__main__":
    sys.exit(main())
