"""Streams and the numbering they share: backlog, retention, viewers, flush window. No sockets.

A `Channel` is one numbering: every message on it has a number, and a cursor is the last number
seen. A chat answer is a channel with one stream; the topics are one channel with three streams, so
that one cursor serves any subset of them. The backlog *is* the outbox:

* a **live** viewer has been written everything up to ``channel.flushed``; its cursor is that number
  and costs nothing to keep. A flush frames the batch once per framing and writes once per viewer.
* a **lagging** viewer has a cursor of its own and reads on from the backlog when its transport
  drains.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from streaming_api.engine.audience import Audience
from streaming_api.engine.stream import Policy, Stream
from streaming_api.wire.messages import Message, parse_cursor

if TYPE_CHECKING:
    from streaming_api.engine.observer import DeliveryObserver, Recorder, Writes
    from streaming_api.engine.sink import Watcher
    from streaming_api.wire.framing import Framing

CATCH_UP_BYTES: Final = 65_536
"""How many bytes of the backlog are written to a lagging viewer at a time."""

Flushed = tuple["Channel", list[Message], bytes, "Writes"]
"""What a flush writes to one audience of a channel: messages, their bytes, and to whom."""

_number = attrgetter("number")


class Channel:
    """One numbering: its streams, its viewers, and when a batch goes out.

    Args:
        epoch: names this channel in cursors; a cursor with another epoch means nothing here.
        call_later: the event loop's ``call_later``.
        flush_interval: in seconds; at most ``batch_size`` flushes happen in any such interval.
        observer: notified of what is written to viewers.

    Attributes:
        number: number of the newest message; 0 before the first.
        flushed: the newest number that has been written to live viewers.
        ended: whether the last message has been appended.
        full: whether the backlog exceeds its retention because its fastest viewer needs it.
        on_room: called when a full backlog has room again.
        on_unwatched: called when the last viewer has left.
        recorder: notified of each flush, when the channel is recorded.
    """

    __slots__ = (
        "_batch_size",
        "_call_later",
        "_delivered",
        "_due",
        "_flush_interval",
        "_observer",
        "_recent",
        "_waiting",
        "audiences",
        "delivered_late",
        "ended",
        "epoch",
        "flushed",
        "full",
        "lagging",
        "number",
        "on_room",
        "on_unwatched",
        "recorder",
        "streams",
    )  # fmt: skip

    def __init__(
        self,
        epoch: str,
        *,
        call_later: Callable[[float, Callable[[], None]], object],
        flush_interval: float,
        batch_size: int,
        observer: DeliveryObserver,
    ) -> None:
        self.epoch = epoch
        self.number = 0
        self.flushed = 0
        self.ended = False
        self.full = False
        self.on_room: Callable[[], None] | None = None
        self.on_unwatched: Callable[[], None] | None = None
        self.recorder: Recorder | None = None
        self.streams: dict[str, Stream] = {}
        self.audiences: dict[tuple[Framing, frozenset[str]], Audience] = {}
        self.lagging: set[Watcher] = set()
        self._waiting: list[Message] = []  # appended, not yet flushed
        self._batch_size = batch_size
        self._recent: deque[float] = deque(maxlen=batch_size)  # times of the last flushes
        self._due = False  # a flush is scheduled
        self._flush_interval = flush_interval
        self._call_later = call_later
        self._observer = observer
        self._delivered = observer.delivered
        self.delivered_late = observer.delivered_late

    def __repr__(self) -> str:
        live = sum(len(audience.viewers) for audience in self.audiences.values())
        return (
            f"<Channel {self.epoch} at {self.number}, flushed {self.flushed},"
            f" {live} live, {len(self.lagging)} lagging{', ended' if self.ended else ''}>"
        )

    def sibling(self) -> Channel:
        """Create an empty channel with the same epoch, flush window and observer."""
        return Channel(
            self.epoch,
            call_later=self._call_later,
            flush_interval=self._flush_interval,
            batch_size=self._batch_size,
            observer=self._observer,
        )

    def add(self, stream: Stream) -> Stream:
        """Carry this stream: its messages are numbered by this channel."""
        self.streams[stream.name] = stream
        return stream

    def begin(self, epoch: str, number: int) -> None:
        """Take another numbering, which goes on after a number and has no streams yet.

        Nobody may be live: whoever watches has to be shown the new one.
        """
        self.epoch = epoch
        self.number = self.flushed = number
        self.streams.clear()
        self._waiting = []

    # Producing

    def append(
        self,
        stream: Stream,
        data: Iterable[bytes],
        *,
        urgent: bool = False,
        later: list[Flushed] | None = None,
    ) -> None:
        """Append messages to a stream and flush as the window allows, or now if ``urgent``.

        Args:
            stream: one of this channel's streams.
            data: the JSON of each message's ``data``, without CR or LF.
            urgent: flush now; alerts and the end of an answer never wait.
            later: takes what is to be written, if that is not to be done here (`Turn`).
        """
        now = time.monotonic()
        messages = stream.extend(self.number + 1, data, now)
        if not messages:
            return
        self.number = messages[-1].number
        if self.ended:
            messages[-1].final = True
            stream.last = self.number
        self._waiting += messages
        if stream.overfull(now):
            self._make_room(now)
        if urgent:
            self.flush(now)
        elif not self._due:
            recent = self._recent
            used_up = len(recent) == self._batch_size
            wait = recent[0] + self._flush_interval - now if used_up else 0.0
            if wait > 0:
                self._due = True
                self._call_later(wait, self._flush_due)
            else:
                self.flush(now, later)

    def _flush_due(self) -> None:
        self._due = False
        self.flush()

    def flush(self, now: float | None = None, later: list[Flushed] | None = None) -> None:
        """Write what was appended since the last flush to every live viewer, or let ``later``."""
        batch = self._waiting
        if not batch:
            return
        if now is None:
            now = time.monotonic()
        self._waiting = []
        self._recent.append(now)
        self.flushed = batch[-1].number
        due: list[Flushed] = [] if later is None else later
        for audience in self.audiences.values():
            part = batch if len(audience.watched) == len(self.streams) else audience.part(batch)
            if part:
                due.append((self, part, audience.frame(part, now), audience.writes))
        if later is None:
            for _, part, data, viewers in due:
                self.write(part, data, viewers)
        if self.recorder is not None:
            self.recorder.flushed()
        if self.full:
            self._make_room(now)

    def write(self, part: list[Message], data: bytes, viewers: Writes) -> None:
        """Write to each viewer, on the hot path, with one call of its transport's ``write``.

        A viewer whose transport is over its high-water mark has left its audience (`lag`), so
        nothing is checked here. One that goes over it during a flush leaves with its cursor at
        ``flushed``, and so does every other viewer of its connection, in whatever audience. So all
        viewers of this batch are collected, and the batch is counted as theirs, before any write.
        """
        for _, write in viewers:
            write(data)
        self._delivered(part, viewers)
        if self.ended:
            for viewer, _ in viewers:
                viewer.caught_up()

    def pass_over(self, number: int) -> None:
        """Continue after a number that is on a stream which is not shown here."""
        self.flush()
        self.number = self.flushed = number

    def skip(self, stream: Stream, number: int) -> None:
        """Continue after a number: whatever is missing up to it is lost."""
        self.flush()
        self.number = self.flushed = stream.evicted = number

    def replay(self, stream: Stream, first: int, payloads: Sequence[bytes], *, final: bool) -> None:
        """Append messages to a stream that another process has numbered and encoded.

        Args:
            stream: one of this channel's streams.
            first: the number of the first message, above all numbers on the channel.
            payloads: whole messages, at least one.
            final: whether the last of them ends the channel.
        """
        now = time.monotonic()
        messages = stream.take(first, payloads, now)
        self.number = messages[-1].number
        if final:
            self.ended = messages[-1].final = True
            stream.last = self.number
            messages[-1].cursor = stream.end_cursor or self.number
        self._waiting += messages
        if stream.overfull(now):
            self._make_room(now)
        self.flush(now)

    def end(self, stream: Stream, data: bytes) -> None:
        """Append the last message; viewers leave when it has been written to them."""
        self.ended = True
        self.append(stream, (data,), urgent=True)

    # Retention and backpressure

    def _make_room(self, now: float) -> None:
        """Evict down to the retention; a lossless stream keeps what its fastest viewer needs."""
        was_full = self.full
        self.full = False
        for stream in self.streams.values():
            needed = self.fastest() + 1 if stream.policy is Policy.LOSSLESS else self.number + 1
            if self.recorder is not None:
                needed = min(needed, self.recorder.needed())
            if stream.evict(now, needed):
                self.full = True
        if was_full and not self.full and self.on_room is not None:
            self.on_room()

    def fastest(self) -> int:
        """Return the number up to which the fastest viewer has been written; else the newest."""
        if any(audience.viewers for audience in self.audiences.values()):
            return self.flushed
        return max((viewer.cursor for viewer in self.lagging), default=self.number)

    def slowest(self) -> int:
        """Return the number up to which all viewers have been written; without any, ``flushed``."""
        return min([self.flushed, *(viewer.cursor for viewer in self.lagging)])

    def let_go(self) -> None:
        """Keep what viewers who watch now still need, and nothing for those who may come back."""
        needed = self.slowest() + 1
        if self.recorder is not None:
            needed = min(needed, self.recorder.needed())
        for stream in self.streams.values():
            stream.drop_before(needed)
        self.progressed()

    def cut_lagging(self) -> None:
        """Notify the viewers who lag that they are too slow."""
        for viewer in tuple(self.lagging):
            if viewer.lag > 0:
                viewer.leave()
                viewer.connection.too_slow()

    def progressed(self) -> None:
        """Note that a viewer has moved on or left: a full backlog may have room again."""
        if self.full:
            self._make_room(time.monotonic())

    # Watching

    def locate(self, cursor: str) -> tuple[int, str | None]:
        """Return the number that a client's cursor stands for; or 0, and why the cursor is void."""
        parsed = parse_cursor(cursor)
        if parsed is None:
            return 0, "malformed"
        epoch, number = parsed
        if epoch != self.epoch:
            return 0, "epoch"
        if number > self.number:
            return 0, "future"
        return number, None

    def viewers(self) -> list[Watcher]:
        """Return all viewers, live or lagging."""
        live = [viewer for audience in self.audiences.values() for viewer in audience.viewers]
        return live + list(self.lagging)

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self.lagging) or any(audience.viewers for audience in self.audiences.values())

    def go_live(self, viewer: Watcher) -> Audience:
        """Make a viewer live that has been written everything up to ``flushed``."""
        self.lagging.discard(viewer)
        key = (viewer.framing, viewer.watched)
        audience = self.audiences.get(key)
        if audience is None:
            account = next(iter(self.streams.values())).account
            audience = self.audiences[key] = Audience(*key, account)
        audience.join(viewer)
        return audience

    def lag(self, viewer: Watcher) -> None:
        """Make a viewer read on from the backlog, from its cursor."""
        self._leave_audience(viewer)
        self.lagging.add(viewer)

    def leave(self, viewer: Watcher) -> None:
        """Note that a viewer has left."""
        self._leave_audience(viewer)
        self.lagging.discard(viewer)
        self.progressed()
        if self.on_unwatched is not None and not self.watched:
            self.on_unwatched()

    def _leave_audience(self, viewer: Watcher) -> None:
        key = (viewer.framing, viewer.watched)
        audience = self.audiences.get(key)
        if audience is not None:
            audience.leave(viewer)
            if not audience.viewers:
                del self.audiences[key]

    def read(self, watched: frozenset[str], cursor: int) -> list[Message]:
        """Return what follows ``cursor`` in the backlog, in order, up to ``flushed``."""
        found = [
            stream.after(cursor, self.flushed, CATCH_UP_BYTES)
            for name, stream in self.streams.items()
            if name in watched
        ]
        if len(found) == 1:
            return found[0]
        merged = sorted((message for part in found for message in part), key=_number)
        size = 0
        for count, message in enumerate(merged):
            size += len(message.payload)
            if size >= CATCH_UP_BYTES:
                return merged[: count + 1]
        return merged
