"""The writer: turns submitted events into synced bytes, and only then says that they are kept.

One thread per writer writes whatever has queued up, syncs it once and acknowledges it; the next group gathers
while the sync runs, so one sync serves many requests and no timer adds latency. After the first error of a
write or a sync it stops for good: it acknowledges nothing more, lets go of its lock so that its open segment
can be recovered, and refuses everything until a new writer is made.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from bandit.errors import Busy, Conflict, CorruptLog, DurabilityLost
from bandit.eventlog.heartbeat import Heartbeat, beat, latest_stamp, lock_path, read_clock_floor
from bandit.eventlog.open_segment import OpenSegment, next_sequence, remember_sequence
from bandit.eventlog.recovery import open_segments, recover_segment
from bandit.eventlog.segment import check_writer_id
from bandit.events import Event, encode_event, stamped_at
from bandit.experiment import ExperimentPaths
from bandit.files import FileLock

QUEUE_EVENTS_MAX = 20_000
QUEUE_BYTES_MAX = 64 * 1024 * 1024
COMMIT_BYTES_MAX = 4 * 1024 * 1024
LOCK_WAIT_S = 5.0
STAMP_GRACE_S = 1.0

_TICK = timedelta(microseconds=1)

Done = Callable[[Exception | None], None]


@dataclass(slots=True)
class WriterCounters:
    """What a writer has done since it started; `callback_errors` counts acknowledgements that raised."""

    commits: int = 0
    events: int = 0
    bytes: int = 0
    segments: int = 0
    callback_errors: int = 0
    fsync_s_last: float = 0.0
    fsync_s_total: float = 0.0
    fsync_s_max: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """The counters as they go into a heartbeat."""
        return {name: float(value) for name, value in asdict(self).items()}


@dataclass(slots=True)
class _Batch:
    """What one `submit` brought: `count` lines in `data`; `seal` marks a request to seal what came before."""

    data: bytes
    count: int
    first: datetime | None
    done: Done
    seal: bool = False


class EventLogWriter:
    """Appends events to one writer's segments; one per process and experiment, safe to use from any thread.

    A new writer first takes the writer's lock (raises `Busy` when another process keeps it), recovers what an
    earlier process of the same id left open, and reports a first heartbeat, with what `first` has to tell (as
    `heartbeat` takes it); raises `DurabilityLost` when the disk does not allow that. Segments seal after
    `seal_interval_s` or `segment_bytes_max`; `on_seal` is called on the writer's thread each time. `reused=False` says
    that no other process will ever have this name, so that nothing needs to be remembered of it. `durable=False` leaves
    out all syncs and promises nothing: for simulations.
    """

    def __init__(
        self,
        paths: ExperimentPaths,
        writer_id: str,
        *,
        clock: Callable[[], datetime],
        seal_interval_s: float = 5.0,
        segment_bytes_max: int = 64 * 1024 * 1024,
        durable: bool = True,
        kind: str = "worker",
        queue_events_max: int = QUEUE_EVENTS_MAX,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
        on_seal: Callable[[], None] | None = None,
        reused: bool = True,
        first: Mapping[str, Any] | None = None,
    ) -> None:
        self.paths = paths
        self.writer_id = check_writer_id(writer_id)
        self.kind = kind
        self.durable = durable
        self.reused = reused
        self.counters = WriterCounters()
        self._clock = clock
        self._seal_interval_s = seal_interval_s
        self._segment_bytes_max = segment_bytes_max
        self._queue_events_max = queue_events_max
        self._queue_bytes_max = queue_bytes_max
        self._on_seal = on_seal
        self._mutex = threading.Lock()
        self._wake = threading.Condition(self._mutex)
        self._queue: deque[_Batch] = deque()
        self._queued_events = 0
        self._queued_bytes = 0
        self._queued_first: datetime | None = None
        self._unsealed_first: datetime | None = None
        self._given: dict[datetime, float] = {}
        self._waiting = False
        self._closing = False
        self._error: DurabilityLost | None = None
        self._segment: OpenSegment | None = None
        self._seal_at_s = 0.0
        self._lock = FileLock(lock_path(paths, writer_id))
        paths.events.mkdir(parents=True, exist_ok=True)
        self._acquire()
        try:
            for segment in open_segments(paths.events, writer_id):
                recover_segment(segment, now=clock())
            self._sequence = next_sequence(paths.events, writer_id, self._lock.path)
            surveyed = read_clock_floor(paths)
            self._own = clock() if surveyed is None else max(surveyed, clock())
            followed = latest_stamp(paths, self._own)
            self._last = max((known for known in (surveyed, followed) if known is not None), default=self._own)
            self._announced = self._stamp(clock())
            beat(paths, self.heartbeat(**(first or {})))
        except (OSError, CorruptLog) as error:
            self._lock.release()
            raise DurabilityLost(f"the event log of writer {writer_id} cannot be opened: {error}") from error
        self._thread = threading.Thread(target=self._run, name=f"eventlog-{writer_id}", daemon=True)
        self._thread.start()

    # -- for callers -------------------------------------------------------------------------------------

    @property
    def failed(self) -> bool:
        """Whether durability was lost: nothing is accepted any more."""
        return self._error is not None

    @property
    def queue_depth(self) -> int:
        """Events that wait to be written."""
        return self._queued_events

    def stamp(self) -> datetime:
        """The time of an event: aware UTC, strictly increasing even when the clock is set back.

        Until the event is submitted, but for `STAMP_GRACE_S` at most, `complete_until` stays behind the stamp.
        """
        now = self._clock()
        with self._mutex:
            stamp = self._stamp(now)
            self._given[stamp] = time.monotonic()
            return stamp

    def submit(self, events: Sequence[Event], done: Done) -> None:
        """Queue events; `done(None)` is called from the writer's thread when they are on disk, all in one commit.

        Raises, and then never calls `done`: `DurabilityLost` after a failure or `close`, `Busy` when the queue
        is full, `Conflict` for an event stamped before what `complete_until` has already promised (take the
        stamp from `stamp()` and submit in the same breath). When the write fails, `done(DurabilityLost)`.
        """
        data = b"".join([encode_event(event) + b"\n" for event in events])
        stamps = [stamped_at(event) for event in events]
        first = min(stamps, default=None)
        with self._mutex:
            if self._error is not None:
                raise self._error
            if self._closing:
                raise DurabilityLost(f"the event log of writer {self.writer_id} is closed")
            if self._queue and (
                self._queued_events + len(events) > self._queue_events_max
                or self._queued_bytes + len(data) > self._queue_bytes_max
            ):
                raise Busy(
                    f"the event log has {self._queued_events} events waiting for the disk "
                    f"(limit: {self._queue_events_max} events or {self._queue_bytes_max} bytes); try again"
                )
            if first is not None:
                if first < self._announced:
                    raise Conflict("an event is stamped before the time up to which the log was reported complete")
                if self._queued_first is None or first < self._queued_first:
                    self._queued_first = first
                for stamp in stamps:
                    self._given.pop(stamp, None)
            self._enqueue(_Batch(data, len(events), first, done))

    def append(self, events: Sequence[Event]) -> None:
        """Submit events and wait until they are on disk; raises what `submit` raises, or the write's error."""
        self._wait(lambda done: self.submit(events, done))

    def seal(self) -> None:
        """Seal everything submitted so far and wait for it; does nothing when there is nothing unsealed."""

        def request(done: Done) -> None:
            with self._wake:
                if self._error is not None:
                    raise self._error
                if self._closing:
                    raise DurabilityLost(f"the event log of writer {self.writer_id} is closed")
                self._enqueue(_Batch(b"", 0, None, done, seal=True))

        self._wait(request)

    def complete_until(self) -> datetime:
        """Every event this writer stamped before this instant is in a sealed segment; it never goes back."""
        now = self._clock()
        with self._wake:
            # under a simulated clock nobody waits, however long the process was stopped in between
            overdue_s = time.monotonic() - STAMP_GRACE_S if self.durable else -math.inf
            for stamp in [stamp for stamp, given_s in self._given.items() if given_s < overdue_s]:
                del self._given[stamp]
            firsts = (self._unsealed_first, self._queued_first, next(iter(self._given), None))
            unsealed = [first for first in firsts if first is not None]
            instant = min(unsealed) if unsealed else self._stamp(now)
            self._announced = max(self._announced, instant)
            return self._announced

    def heartbeat(
        self,
        *,
        settings_version: int = 0,
        model_id: str | None = None,
        generation: int | None = None,
        unusable: str | None = None,
        canary_digest: str | None = None,
        manifest_digest: str | None = None,
        counters: dict[str, float] | None = None,
        follow: bool = True,
    ) -> Heartbeat:
        """This writer's heartbeat now, to be handed to `beat`; the log's own counters are added as `log_…`.

        From here on it stamps nothing before what any other writer of the experiment has reported: of two that
        disagree, one would find the rewards of the other's decisions late. It follows none that is more than
        `AHEAD_S_MAX` ahead of its own clock: it would stand still with it, as long as that one's clock had jumped.
        Raises `OSError`. Without `follow` it reads nothing of the others, and must not be handed on to them.
        """
        if follow:
            self._keep_up()
        own = {f"log_{name}": value for name, value in self.counters.as_dict().items()}
        own["log_queue_depth"] = float(self._queued_events)
        complete_until = self.complete_until()
        return Heartbeat(
            writer_id=self.writer_id,
            kind=self.kind,
            pid=os.getpid(),
            at=self._clock(),
            complete_until=complete_until,
            settings_version=settings_version,
            model_id=model_id,
            generation=generation,
            unusable=unusable,
            canary_digest=canary_digest,
            manifest_digest=manifest_digest,
            counters=own | (counters or {}),
            reused=self.reused,
            stamped_until=self._last,
        )

    def close(self) -> None:
        """Seal, stop the thread and give the lock back; safe to call twice, and after a failure."""
        with self._wake:
            if not self._closing:
                self._closing = True
                self._enqueue(_Batch(b"", 0, None, lambda error: None, seal=True))
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._lock.release()

    def _keep_up(self) -> None:
        """Stamp after what the others have stamped from now on, where the clock is behind it.

        How far they are ahead is counted from the latest time that the clock has shown: when it is set back for all
        of them, they share the time at which they stand still.
        """
        now = self._clock()
        with self._mutex:
            self._own = max(self._own, now)
        latest = latest_stamp(self.paths, self._own)
        with self._mutex:
            if latest is not None and latest > now:
                self._last = max(self._last, latest)

    # -- under the condition's lock ----------------------------------------------------------------------

    def _stamp(self, now: datetime) -> datetime:
        self._last = max(now, self._last + _TICK)
        return self._last

    def _enqueue(self, batch: _Batch) -> None:
        self._queue.append(batch)
        self._queued_events += batch.count
        self._queued_bytes += len(batch.data)
        if self._waiting:
            self._wake.notify()

    def _take(self) -> list[_Batch]:
        """The next group: batches up to the commit's size, or one request to seal alone."""
        taken: list[_Batch] = []
        size = 0
        while self._queue and not (
            taken and (self._queue[0].seal or size + len(self._queue[0].data) > COMMIT_BYTES_MAX)
        ):
            batch = self._queue.popleft()
            taken.append(batch)
            size += len(batch.data)
            self._queued_events -= batch.count
            self._queued_bytes -= len(batch.data)
            if batch.first is not None and (self._unsealed_first is None or batch.first < self._unsealed_first):
                self._unsealed_first = batch.first
            if batch.seal:
                break
        self._queued_first = min((batch.first for batch in self._queue if batch.first is not None), default=None)
        return taken

    # -- on the writer's thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    left = None if self._segment is None else self._seal_at_s - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._waiting = True
                    self._wake.wait(left)
                    self._waiting = False
                if self._closing and not self._queue:
                    return
                taken = self._take()
            try:
                if taken and not taken[0].seal:
                    self._commit(taken)
                    taken = []
                due = self._segment is not None and (
                    self._segment.size >= self._segment_bytes_max or time.monotonic() >= self._seal_at_s
                )
                if due or taken:
                    self._seal()
            except Exception as error:  # whatever it was: what is on disk is no longer known, so nothing goes on
                self._fail(error, taken)
                return
            self._acknowledge(taken, None)

    def _commit(self, taken: list[_Batch]) -> None:
        count = sum(batch.count for batch in taken)
        if count:
            if self._segment is None:
                remember_sequence(self._lock.path, self._sequence)
                self._segment = OpenSegment(
                    self.paths.events, self.writer_id, self._sequence, opened_at=self._clock(), durable=self.durable
                )
                self._seal_at_s = time.monotonic() + self._seal_interval_s
            before = self._segment.size
            self._segment.commit(b"".join([batch.data for batch in taken]), count)
            self.counters.commits += 1
            self.counters.events += count
            self._count(self._segment, before)
        self._acknowledge(taken, None)

    def _seal(self) -> None:
        if self._segment is None:
            return
        before = self._segment.size
        self._segment.seal()
        self._count(self._segment, before)
        self._segment = None
        self._sequence += 1
        self.counters.segments += 1
        with self._wake:
            self._unsealed_first = None
        if self._on_seal is not None:
            self._call(self._on_seal)

    def _count(self, segment: OpenSegment, size_before: int) -> None:
        self.counters.bytes += segment.size - size_before
        self.counters.fsync_s_last = segment.sync_s
        self.counters.fsync_s_total += segment.sync_s
        self.counters.fsync_s_max = max(self.counters.fsync_s_max, segment.sync_s)

    def _fail(self, error: Exception, taken: list[_Batch]) -> None:
        lost = DurabilityLost(
            f"the event log of writer {self.writer_id} could not be written ({error}); "
            "free or repair the disk, then restart this worker"
        )
        lost.__cause__ = error
        with self._wake:
            self._error = lost
            pending = [*taken, *self._queue]
            self._queue.clear()
            self._queued_events = self._queued_bytes = 0
        if self._segment is not None:
            self._segment.abandon()
            self._segment = None
        self._lock.release()
        self._acknowledge(pending, lost)

    def _acknowledge(self, batches: list[_Batch], error: Exception | None) -> None:
        for batch in batches:
            self._call(partial(batch.done, error))

    def _call(self, callback: Callable[[], None]) -> None:
        """Run a caller's function; its errors are the caller's and must not stop the log."""
        try:
            callback()
        except Exception:  # whatever a caller raises: counted, and the log goes on
            self.counters.callback_errors += 1

    # -- starting ----------------------------------------------------------------------------------------

    def _acquire(self) -> None:
        """Take the lock, waiting out a survey that holds it for the length of a recovery."""
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                self._lock.acquire()
                return
            except Busy:
                if time.monotonic() > until:
                    raise Busy(f"writer {self.writer_id} is in use by another process") from None
                time.sleep(0.02)

    @staticmethod
    def _wait(start: Callable[[Done], None]) -> None:
        finished = threading.Event()
        failure: list[Exception] = []

        def done(error: Exception | None) -> None:
            if error is not None:
                failure.append(error)
            finished.set()

        start(done)
        finished.wait()
        if failure:
            raise failure[0]
