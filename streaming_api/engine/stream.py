"""Streams and the number line they share: log, retention, viewers, flush window. Knows no sockets.

A `Channel` is one number line: every message on it has a number, and a cursor is the last number
seen. A chat answer is a channel with one stream; the topics are one channel with three streams, so
that one cursor serves any subset of them. The log *is* the outbox:

* a **live** viewer has been written everything up to ``channel.flushed``; its cursor is that number
  and costs nothing to keep. A flush frames the batch once per framing and does one write a viewer.
* a **lagging** viewer has a cursor of its own and reads on from the log when its transport drains.
"""

from __future__ import annotations

import enum
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import attrs

from streaming_api.engine.backlog import Backlog
from streaming_api.wire.checksum import Checksum
from streaming_api.wire.messages import Encoder, Message, parse_cursor

if TYPE_CHECKING:
    from streaming_api.engine.observer import DeliveryObserver, Writes
    from streaming_api.engine.viewer import Viewer
    from streaming_api.wire.framing import Framing

CATCH_UP_BYTES: Final = 65_536
"""How much of the log a lagging viewer is written at a time."""

_number = attrgetter("number")


class Policy(enum.Enum):
    """What a viewer is owed whose cursor has fallen off the log."""

    LOSSLESS = "lossless"
    """Every message or an honest end: a gap message, then the connection is closed."""
    HISTORY = "history"
    """A gap message, then the oldest that is retained."""
    LATEST = "latest"
    """The newest snapshot."""


@attrs.frozen
class Retention:
    """How much a stream keeps.

    Attributes:
        bytes: of payload.
        messages: at most.
        seconds: a message of a topic is kept, a chat after its end.
    """

    bytes: int
    messages: int
    seconds: float


class Stream:
    """A bounded, numbered, replayable log of messages.

    Args:
        snapshot: makes the JSON of ``data`` of the whole state now (topics).

    Attributes:
        name: its ``stream_id``.
        total: messages that were ever on it.
        evicted: the highest number that has been dropped; 0 as long as none was.
        request_id: of a chat.
    """

    __slots__ = (
        "_encoder",
        "_log",
        "_snapshot",
        "_state",
        "channel",
        "evicted",
        "message_type",
        "name",
        "policy",
        "request_id",
        "retention",
        "total",
    )  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        name: str,
        message_type: str,
        policy: Policy,
        retention: Retention,
        *,
        request_id: str | None = None,
        snapshot: Callable[[], bytes] | None = None,
    ) -> None:
        self.channel: Channel = weakref.proxy(
            channel
        )  # which has this: without a cycle it goes at once
        self.name = name
        self.message_type = message_type
        self.policy = policy
        self.retention = retention
        self.request_id = request_id
        self._snapshot = snapshot
        self._state: Message | None = None
        self.total = 0
        self.evicted = 0
        self._encoder = Encoder(message_type, name, channel.epoch, request_id)
        self._log = Backlog(self._encoder)
        channel.streams[name] = self

    def __len__(self) -> int:
        return len(self._log)

    @property
    def size(self) -> int:
        """Bytes of payload on the log."""
        return self._log.bytes

    def __repr__(self) -> str:
        return f"<Stream {self.name} {len(self)} messages, {self.size} bytes>"

    def state(self, cursor: int) -> Message | None:
        """The whole state as of the newest message, made once for all who join before the next.

        Args:
            cursor: where a viewer is that has been shown it.
        """
        if self._snapshot is None:
            return None
        number = self.channel.number
        if self._state is None or self._state.number != number:
            self._state = self._encoder.encode(number, self._snapshot(), time.monotonic())
        state = self._state
        if cursor == number:
            return state
        return self._encoder.encode(number, state.data, state.appended, cursor)

    def extend(self, number: int, data: Iterable[bytes], now: float) -> list[Message]:
        """Put messages on the log, numbered from ``number`` on."""
        messages = self._encoder.encode_all(number, data, now)
        self._log.add(messages)
        self.total += len(messages)
        return messages

    def overfull(self, now: float) -> bool:
        """Whether the log holds more than its retention allows."""
        kept, log = self.retention, self._log
        return (
            log.bytes > kept.bytes
            or len(log) > kept.messages
            or (self.policy is not Policy.LOSSLESS and bool(log) and now - log.since > kept.seconds)
        )

    def evict(self, now: float, needed_from: int) -> bool:
        """Drop the oldest messages down to the retention, but none from ``needed_from`` on.

        Returns:
            Whether the log still holds more than its retention: somebody needs it.
        """
        while self.overfull(now):
            if self._log.oldest >= needed_from:
                return True
            self.evicted = self._log.oldest
            self._log.drop()
        return False

    def after(self, cursor: int, until: int, limit: int) -> list[Message]:
        """Messages above ``cursor`` up to ``until``: at least one, then about ``limit`` bytes."""
        messages = self._log.after(cursor, until, limit)
        if self.channel.ended and messages:
            messages[-1].final = messages[-1].number == self.channel.number
        return messages


class Audience:
    """Live viewers who get the same bytes: one framing, one subset of the channel's streams.

    What was sent is counted here, once for all of them; a viewer remembers where it joined.
    """

    __slots__ = ("bytes", "checksum", "framing", "last_write", "messages", "viewers", "watched")

    def __init__(self, framing: Framing, watched: frozenset[str]) -> None:
        self.framing = framing
        self.watched = watched
        self.viewers: dict[Viewer, Callable[[bytes], None]] = {}
        self.messages = 0
        self.bytes = 0
        self.checksum = Checksum()  # of all that was sent here, if the framing has one
        self.last_write = 0.0

    def part(self, batch: list[Message]) -> list[Message]:
        """What of a batch these viewers watch."""
        return [message for message in batch if message.stream in self.watched]

    def frame(self, part: list[Message], now: float) -> bytes:
        """The bytes of a part, counted before any viewer is written: see `Channel._write`."""
        framing = self.framing
        data = framing.message(part[0]) if len(part) == 1 else framing.batch(part)
        self.messages += len(part)
        self.bytes += len(data)
        self.last_write = now
        if framing.has_checksum:
            self.checksum = self.checksum.add(framing.plain(part))
        return data


class Channel:
    """One number line: the streams on it, who watches them, and when a batch goes out.

    Args:
        epoch: names this channel in cursors; another epoch's cursor means nothing here.
        call_later: the event loop's.
        flush_interval: seconds; at most ``batch_size`` flushes in any such time.
        observer: told of what viewers are written.

    Attributes:
        number: of the newest message; 0 before the first.
        flushed: the newest number that live viewers have been written.
        ended: whether the last message has been appended.
        full: whether the log holds more than its retention, because its fastest viewer needs it.
        on_room: called when a full log has room again.
        on_unwatched: called when the last viewer has left.
    """

    __slots__ = (
        "__weakref__",
        "_call_later",
        "_delivered",
        "_due",
        "_flush_interval",
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
        self.streams: dict[str, Stream] = {}
        self.audiences: dict[tuple[Framing, frozenset[str]], Audience] = {}
        self.lagging: set[Viewer] = set()
        self._waiting: list[Message] = []  # appended, not yet flushed
        self._recent: deque[float] = deque(maxlen=batch_size)  # times of the last flushes
        self._due = False  # a flush is scheduled
        self._flush_interval = flush_interval
        self._call_later = call_later
        self._delivered = observer.delivered
        self.delivered_late = observer.delivered_late

    def __repr__(self) -> str:
        live = sum(len(audience.viewers) for audience in self.audiences.values())
        return (
            f"<Channel {self.epoch} at {self.number}, flushed {self.flushed},"
            f" {live} live, {len(self.lagging)} lagging{', ended' if self.ended else ''}>"
        )

    # Producing

    def append(self, stream: Stream, data: Iterable[bytes], *, urgent: bool = False) -> None:
        """Put messages on a stream and flush as the window allows, or now if ``urgent``.

        Args:
            stream: one of this channel's.
            data: the JSON of each message's ``data``, without CR or LF.
            urgent: alerts and the end of an answer never wait.
        """
        now = time.monotonic()
        messages = stream.extend(self.number + 1, data, now)
        if not messages:
            return
        self.number = messages[-1].number
        messages[-1].final = self.ended
        self._waiting += messages
        if stream.overfull(now):
            self._make_room(now)
        if urgent:
            self.flush(now)
        elif not self._due:
            recent = self._recent
            wait = recent[0] + self._flush_interval - now if len(recent) == recent.maxlen else 0.0
            if wait > 0:
                self._due = True
                self._call_later(wait, self._flush_due)
            else:
                self.flush(now)

    def _flush_due(self) -> None:
        self._due = False
        self.flush()

    def flush(self, now: float | None = None) -> None:
        """Write what was appended since the last flush to every live viewer."""
        batch = self._waiting
        if not batch:
            return
        if now is None:
            now = time.monotonic()
        self._waiting = []
        self._recent.append(now)
        self.flushed = batch[-1].number
        due = []
        for audience in self.audiences.values():
            part = batch if len(audience.watched) == len(self.streams) else audience.part(batch)
            if part:
                due.append((part, audience.frame(part, now), tuple(audience.viewers.items())))
        for part, data, viewers in due:
            self._write(part, data, viewers)
        if self.full:
            self._make_room(now)

    def _write(self, part: list[Message], data: bytes, viewers: Writes) -> None:
        """The hot path: everything per viewer is one call of its transport's ``write``.

        A viewer whose transport is over its high-water mark has left its audience (`lag`), so
        nothing is asked of it here. One that goes over it during a flush leaves with its cursor at
        ``flushed``, and so does every other viewer of its connection, in whatever audience. So all
        who are due this batch are noted, and it is counted as theirs, before any is written.
        """
        for _, write in viewers:
            write(data)
        self._delivered(part, viewers)
        if self.ended:
            for viewer, _ in viewers:
                viewer.caught_up()

    def end(self, stream: Stream, data: bytes) -> None:
        """Append the last message; viewers leave when they have been written it."""
        self.ended = True
        self.append(stream, (data,), urgent=True)

    # Retention and backpressure

    def _make_room(self, now: float) -> None:
        """Evict down to the retention; a lossless stream keeps what its fastest viewer needs."""
        was_full = self.full
        self.full = False
        for stream in self.streams.values():
            needed = self.fastest() + 1 if stream.policy is Policy.LOSSLESS else self.number + 1
            if stream.evict(now, needed):
                self.full = True
        if was_full and not self.full and self.on_room is not None:
            self.on_room()

    def fastest(self) -> int:
        """The number up to which the fastest viewer has been written; without any, the newest."""
        if any(audience.viewers for audience in self.audiences.values()):
            return self.flushed
        return max((viewer.cursor for viewer in self.lagging), default=self.number)

    def progressed(self) -> None:
        """A viewer has moved on or left: a full log may have room again."""
        if self.full:
            self._make_room(time.monotonic())

    # Watching

    def locate(self, cursor: str) -> tuple[int, str | None]:
        """The number that a client's cursor stands for; else 0, and why it means nothing here."""
        parsed = parse_cursor(cursor)
        if parsed is None:
            return 0, "malformed"
        epoch, number = parsed
        if epoch != self.epoch:
            return 0, "epoch"
        if number > self.number:
            return 0, "future"
        return number, None

    def viewers(self) -> list[Viewer]:
        """Everybody who watches, live or lagging."""
        live = [viewer for audience in self.audiences.values() for viewer in audience.viewers]
        return live + list(self.lagging)

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self.lagging) or any(audience.viewers for audience in self.audiences.values())

    def go_live(self, viewer: Viewer) -> Audience:
        """A viewer that has been written everything up to ``flushed`` is written what comes."""
        self.lagging.discard(viewer)
        key = (viewer.framing, viewer.watched)
        audience = self.audiences.get(key)
        if audience is None:
            audience = self.audiences[key] = Audience(*key)
        audience.viewers[viewer] = viewer.write
        return audience

    def lag(self, viewer: Viewer) -> None:
        """A viewer will read on from the log, from its cursor."""
        self._leave_audience(viewer)
        self.lagging.add(viewer)

    def leave(self, viewer: Viewer) -> None:
        """A viewer is gone."""
        self._leave_audience(viewer)
        self.lagging.discard(viewer)
        self.progressed()
        if self.on_unwatched is not None and not self.watched:
            self.on_unwatched()

    def _leave_audience(self, viewer: Viewer) -> None:
        key = (viewer.framing, viewer.watched)
        audience = self.audiences.get(key)
        if audience is not None and viewer in audience.viewers:
            del audience.viewers[viewer]
            if not audience.viewers:
                del self.audiences[key]

    def read(self, watched: frozenset[str], cursor: int) -> list[Message]:
        """What follows ``cursor`` on the log, in order, up to ``flushed``."""
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
