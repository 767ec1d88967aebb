"""Telemetry: what this process knows about itself. Plain counters; read out on a scrape.

Nothing here costs anything per token beyond an addition: Prometheus' own objects are made when
somebody asks (`Collector`).
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from streaming_api.answer_record import AnswerRecord
from streaming_api.telemetry.answer_figures import AnswerFigures
from streaming_api.telemetry.recent import RecentRows

if TYPE_CHECKING:
    from streaming_api.engine.observer import Writes
    from streaming_api.engine.sink import Sink, Watcher
    from streaming_api.wire.messages import Message

WINDOW: Final = 300.0
"""Seconds that "performance" and "stability" look back."""
IN_TIME: Final = 0.1
"""Seconds within which a delivery counts as in time."""
BOUNDS: Final[tuple[float, ...]] = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 60.0,
)  # fmt: skip
"""Upper bounds of the delivery latency histogram, seconds."""
_FIRST_BOUND: Final = 0.0001
"""The bound that most deliveries are within."""
_KINDS: Final = ("websocket", "sse")
_SLICE: Final = 5.0
_SLICES: Final = int(WINDOW / _SLICE) + 1
_RATES: Final = 120
_MOST_FIRST_TOKENS: Final = 2_000
"""Number of answers whose time to the first token is kept, which bounds a percentile's cost."""
OUTCOMES: Final = (
    "stop", "length", "tool_calls", "content_filter", "cancelled", "abandoned", "incomplete",
    "error", "other",
)  # fmt: skip

RELAYED: Final = ("2xx", "3xx", "4xx", "5xx", "failed")
"""How requests that are passed on to the gateway end: with its status, or without one."""


class Histogram:
    """Delivery latencies, counted by bound: since the start, and over the last minutes."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0
        self._window = RecentRows(_SLICES, len(self.counts))
        self._recent = self._window.values
        self._row = 0
        self._slice_ends = -math.inf

    def observe(self, seconds: float, times: int, now: float | None = None) -> None:
        """Count ``times`` deliveries of ``seconds``; ``now`` is the monotonic time, if known."""
        index = 0 if seconds <= _FIRST_BOUND else bisect_left(BOUNDS, seconds)
        self.counts[index] += times
        self.sum += seconds * times
        if now is None:
            now = time.monotonic()
        if now > self._slice_ends:
            self._begin_slice(now)
        self._recent[self._row + index] += times

    def _begin_slice(self, now: float) -> None:
        self._window.begin(now)
        self._row = self._window.row
        self._slice_ends = now + _SLICE

    def recent(self, seconds: float = WINDOW) -> list[int]:
        """Return the counts by bound over the last ``seconds``, to the precision of a slice."""
        return [int(count) for count in self._window.total(time.monotonic() - seconds)]

    def share_in_time(self) -> float | None:
        """Return the percentage of recent deliveries within `IN_TIME`; None without any."""
        counts = self.recent()
        total = sum(counts)
        return 100 * sum(counts[: BOUNDS.index(IN_TIME) + 1]) / total if total else None

    def quantile(self, share: float, seconds: float = WINDOW) -> float | None:
        """Return an upper bound in seconds for this share of recent deliveries; None without any.

        Infinite above the last of `BOUNDS` (JSON: null).
        """
        counts = self.recent(seconds)
        wanted = share * sum(counts)
        seen = 0
        for count, bound in zip(counts, (*BOUNDS, math.inf), strict=True):
            seen += count
            if count and seen >= wanted:
                return bound
        return None


class Telemetry:
    """The figures of one process.

    Attributes:
        answers: the figures of answers that have ended.
        on_answer: called with each answer that ends.
    """

    def __init__(self) -> None:
        self.latency = {kind: Histogram() for kind in _KINDS}
        self.deliveries = dict.fromkeys(_KINDS, 0)
        self.refusals: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.endings: Counter[tuple[str, str]] = Counter()
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.keyed_requests: Counter[str] = Counter()
        self.relayed: Counter[str] = Counter(dict.fromkeys(RELAYED, 0))
        self.answers = AnswerFigures()
        self.on_answer: list[Callable[[AnswerRecord], None]] = []
        self.chunks = 0
        self.repaired = 0
        self.background_failures: Counter[str] = Counter()
        self.loop_lag = 0.0
        self._rate = RecentRows(_RATES, 1)
        self._ended = RecentRows(_SLICES, 2)  # connections, and how many of them by a fault
        self._open = 0
        self._first_tokens = RecentRows(_MOST_FIRST_TOKENS, 1)
        self._late: dict[Sink, list[tuple[float, int]]] = {}  # not by viewer: that holds the log

    # Deliveries

    def delivered(self, batch: Sequence[Message], writes: Writes) -> None:
        """Note that a flush has written a batch; uvloop sends at once what the kernel takes."""
        if not writes:
            return
        kind = writes[0][0].kind
        if kind not in _KINDS:
            return  # to nobody: a derived stream has read it
        first = batch[0].appended
        count = len(writes)
        for viewer, _ in writes:
            if viewer.unsent():
                count -= 1
                self._wait(viewer.connection, first, len(batch))
        if not count:
            return
        now = time.monotonic()
        self.deliveries[kind] += count * len(batch)
        latency = self.latency[kind]
        if batch[-1].appended == first:
            latency.observe(now - first, count * len(batch), now)
        else:
            for message in batch:
                latency.observe(now - message.appended, count, now)

    def delivered_late(self, viewer: Watcher, messages: Sequence[Message]) -> None:
        """Note a viewer's read of the backlog; older messages count as due when the viewer came."""
        due = max(messages[0].appended, viewer.since)
        if viewer.connection.unsent:
            self._wait(viewer.connection, due, len(messages))
            return
        now = time.monotonic()
        kind = viewer.connection.kind
        self.deliveries[kind] += len(messages)
        for message in messages:
            self.latency[kind].observe(now - max(message.appended, viewer.since), 1)

    def _wait(self, connection: Sink, due: float, count: int) -> None:
        waiting = self._late.setdefault(connection, [])
        waiting.append((due, count))
        if len(waiting) > 64:  # a stuck viewer is late anyway: two numbers say it as well as many
            waiting[:] = [(waiting[0][0], sum(count for _, count in waiting))]

    def check_late(self) -> None:
        """Check the transports that held bytes back; to be called some twenty times a second."""
        now = time.monotonic()
        for connection in tuple(self._late):
            gone = connection.transport.is_closing()
            if gone or not connection.unsent:
                for due, count in self._late.pop(connection):
                    self.latency[connection.kind].observe(WINDOW if gone else now - due, count)
                    self.deliveries[connection.kind] += 0 if gone else count

    # Connections and answers

    def opened(self, kind: str) -> None:
        """Count a connection that has been opened."""
        self.accepted[kind] += 1
        self._open += 1

    def closed(self, kind: str, ending: str, *, fault: bool) -> None:
        """Count a connection that is gone."""
        self.endings[kind, ending] += 1
        self._open -= 1
        now, ended = time.monotonic(), self._ended
        if now - ended.since > _SLICE:
            ended.begin(now)
        ended.values[ended.row] += 1
        ended.values[ended.row + 1] += fault

    def refused(self, reason: str) -> None:
        """Count a connection that was refused."""
        self.refusals[reason] += 1

    def answer_begun(self, seconds: float) -> None:
        """Note that the first token of an answer came after this number of seconds."""
        firsts = self._first_tokens
        firsts.begin(time.monotonic())
        firsts.values[firsts.row] = seconds

    def answer_ended(self, record: AnswerRecord) -> None:
        """Count an answer that has ended."""
        outcome = record.outcome if record.outcome in OUTCOMES else "other"
        self.outcomes[outcome] += 1
        self.chunks += record.chunks
        self.repaired += record.repaired
        self.answers.add(record, outcome)
        for notify in self.on_answer:
            notify(record)

    # What it comes to

    def performance(self, kind: str) -> float | None:
        """Return the percentage of recent messages to this kind within 100 ms; None without any."""
        return self.latency[kind].share_in_time()

    def delivery(self, kind: str) -> float | None:
        """Return the 99th percentile of the last minute's deliveries of this kind, or None.

        This is the only verdict on latency: our alert and the live page use it.
        """
        return self.latency[kind].quantile(0.99, 60)

    def stability(self) -> float | None:
        """Return the percentage of recent connections not ended by a fault; None without any."""
        ended, faults = self._ended.total(time.monotonic() - WINDOW)
        total = self._open + ended
        return 100 * (total - faults) / total if total else None

    def first_token(self, share: float, seconds: float = 60.0) -> float | None:
        """Return the seconds within which this share of recent answers began; None without any."""
        recent = sorted(self._first_tokens.firsts(time.monotonic() - seconds))
        return recent[math.ceil(share * len(recent)) - 1] if recent else None

    def sample_rate(self, chunks: int) -> None:
        """Note the number of chunks so far, including running answers; called once a second."""
        self._rate.begin(time.monotonic())
        self._rate.values[self._rate.row] = chunks

    def tokens_per_second(self, seconds: float = 5.0) -> float:
        """Return the number of chunks relayed per second, over the last ``seconds``."""
        samples = self._rate.rows(self._rate.since - seconds)
        if len(samples) < 2:
            return 0.0
        (start, (oldest,)), (end, (newest,)) = samples[0], samples[-1]
        return (newest - oldest) / (end - start) if end > start else 0.0
