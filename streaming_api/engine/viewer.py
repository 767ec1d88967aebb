"""Viewer: a cursor into a channel's streams, plus the connection that it is shown on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mypy_extensions import mypyc_attr

from streaming_api.engine.audience import Audience
from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Policy, Stream
from streaming_api.wire.checksum import NO_SUM
from streaming_api.wire.messages import Message, notice

if TYPE_CHECKING:
    from streaming_api.engine.sink import Sink

_READS_IN_A_ROW: Final = 4
"""Reads of the backlog after which a viewer who catches up yields to the event loop."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Viewer:
    """One connection's place on one channel.

    Live: in an audience of the channel and written by its flush; ``cursor`` is ``flushed``.
    Lagging: the connection is over its high-water mark, or new here; reads on from ``cursor``.

    Args:
        connection: what it is shown on.
        channel: what it watches.
        watched: the names of the streams on it; all of them for a chat.

    Attributes:
        since: monotonic time in seconds; an older message counts as due only when the viewer came.
    """

    __slots__ = (
        "_audience",
        "_cursor",
        "_joined",
        "_shown_to",
        "_summed",
        "channel",
        "connection",
        "framing",
        "gone",
        "kind",
        "since",
        "unsent",
        "watched",
        "write",
    )  # fmt: skip

    def __init__(self, connection: Sink, channel: Channel, watched: frozenset[str]) -> None:
        self.connection = connection
        self.framing = connection.framing
        self.kind = connection.kind
        self.write: Callable[[bytes], None] = connection.transport.write
        self.unsent = connection.transport.get_write_buffer_size
        self.channel = channel
        self.watched = watched
        self.gone = False
        self.since = time.monotonic()
        self._cursor = 0
        self._shown_to: dict[str, int] | None = None
        self._audience: Audience | None = None
        self._joined = (0, 0)  # what the audience had been sent before: messages and bytes
        self._summed = (
            NO_SUM  # what of the audience's checksum its connection has, or need not have
        )

    def __repr__(self) -> str:
        state = "gone" if self.gone else "live" if self._audience else "lagging"
        return f"<Viewer {state} at {self.cursor} of {self.channel.epoch}>"

    @property
    def cursor(self) -> int:
        """The number up to which everything has been written to this viewer."""
        return self._cursor if self._audience is None else self.channel.flushed

    @property
    def lag(self) -> int:
        """Number of messages on the channel that have not been written to this viewer."""
        return self.channel.number - self.cursor

    @property
    def last_write(self) -> float:
        """Monotonic time in seconds of the last flush to it; 0 if it is not live."""
        return 0.0 if self._audience is None else self._audience.last_write

    def sent(self) -> tuple[int, int]:
        """Return the messages and bytes written while live, since it last became live."""
        if self._audience is None:
            return 0, 0
        messages, size = self._joined
        return self._audience.messages - messages, self._audience.bytes - size

    # Joining and leaving

    def attach(self, cursor: int) -> None:
        """Register as a viewer at ``cursor``; nothing is written before `catch_up`."""
        self._cursor = cursor
        self.connection.viewers.add(self)
        self.channel.lag(self)

    def resume(self, cursor: int) -> None:
        """Watch from strictly after ``cursor``."""
        if cursor > self.channel.flushed:
            self.channel.flush()
        self.attach(cursor)
        self.catch_up()

    def join(self) -> None:
        """Watch from now on: a snapshot of each stream that has one, then what comes.

        Until the last snapshot is shown the client's cursor stays at 0, the cursor of a client that
        has seen nothing. If it is cut off before that, it joins again and misses none.
        """
        self.channel.flush()
        *others, last = self._streams()
        for stream in others:
            self._show_snapshot(stream, 0)
        self._show_snapshot(last, self.channel.flushed)
        self.resume(self.channel.flushed)

    def begin_again(self, reason: str) -> None:
        """Say that the numbers seen so far mean nothing any more, and why; then join."""
        for stream in self._streams():
            self.report_gap(stream, reason, None, None)
        if not self.gone:
            self.join()

    def leave(self) -> None:
        """Stop watching; harmless when it has already left."""
        if self.gone:
            return
        self._leave_audience()
        self.gone = True
        self.connection.viewers.discard(self)
        self.channel.leave(self)

    def caught_up(self) -> None:
        """Finish if the channel has ended and all of it has been written to this viewer."""
        if not self.gone and self.cursor >= self.channel.number:
            self.leave()
            self.connection.finished(self)

    # Falling behind and catching up

    def fall_behind(self) -> None:
        """Read on from the backlog: the connection is over its high-water mark."""
        if self._audience is not None:
            self._leave_audience()
            self.channel.lag(self)

    def _leave_audience(self) -> None:
        """Stop being live, if it is: the connection is credited with what the audience counted."""
        if self._audience is not None:
            self._cursor = self.channel.flushed
            self.connection.count(*self.sent(), self._audience.last_write)
            self.pass_checksum()
            self._audience = None

    def pass_checksum(self) -> None:
        """Pass to its connection the checksum of what was written to it while live."""
        if self._audience is not None and self._audience.checksum is not self._summed:
            self.connection.add_checksum(self._audience.checksum.since(self._summed))
            self._summed = self._audience.checksum

    def spoil(self) -> None:
        """Note that its client has been sent, compressed, what others of its audience have not."""
        if self._audience is not None and self._audience.window is not None:
            self._audience.window.spoiled = True

    def catch_up(self) -> None:
        """Read on from the backlog until caught up, or until over the high-water mark again."""
        for _ in range(_READS_IN_A_ROW):
            if self.gone or self._audience is not None or self.connection.paused:
                return
            if self._cursor >= self.channel.flushed:
                if self.channel.ended:
                    self.caught_up()
                elif self._cursor == self.channel.flushed:  # else it waits for the channel
                    self._audience = self.channel.go_live(self)
                    self._joined = (self._audience.messages, self._audience.bytes)
                    self._summed = self._audience.checksum
                return
            self._read_on()
        asyncio.get_running_loop().call_soon(self.catch_up)

    def _read_on(self) -> None:
        channel = self.channel
        for stream in self._streams():
            seen = max(self._cursor, self._shown(stream.name))
            if stream.evicted > seen and not self._miss(stream, seen):
                return
        messages = channel.read(self.watched, self._cursor)
        self._cursor = messages[-1].number if messages else channel.flushed
        if self._shown_to is not None:
            messages = [m for m in messages if m.number > self._shown(m.stream)]
        if messages:
            self._write_late(messages)
        channel.progressed()

    def _put(self, messages: int, data: bytes) -> None:
        """Write so many messages, after what goes ahead of whatever is written first."""
        opening = self.connection.opening
        if opening:
            data, self.connection.opening = opening + data, b""
        self.write(data)
        self.connection.count(messages, len(data), time.monotonic())

    def _write_late(self, messages: list[Message]) -> None:
        self._put(len(messages), self.framing.batch(messages))
        if self.framing.has_window:
            self.connection.add_plain(self.framing.plain(messages))
        self.channel.delivered_late(self, messages)

    def _miss(self, stream: Stream, seen: int) -> bool:
        """Handle the loss of what follows ``seen``; return whether this viewer may go on."""
        if stream.policy is Policy.LATEST:
            self.channel.flush()
            alone = len(self.watched) == 1  # else its other streams are still where they were
            self._show_snapshot(stream, self.channel.flushed if alone else self._cursor)
            return True
        self.report_gap(stream, "evicted", seen + 1, stream.evicted)
        self._mark_shown(stream.name, stream.evicted)
        if stream.policy is Policy.LOSSLESS:
            self.leave()
            self.connection.too_slow()
            return False
        return True

    def _streams(self) -> list[Stream]:
        return [stream for name, stream in self.channel.streams.items() if name in self.watched]

    def _show_snapshot(self, stream: Stream, cursor: int) -> None:
        message = stream.state(self.channel.number, cursor)
        if message is not None:
            self._mark_shown(stream.name, message.number)
            self._write_late([message])

    def report_gap(self, stream: Stream, reason: str, first: int | None, last: int | None) -> None:
        """Say what is missing, before showing what is not."""
        data: dict[str, object] = {"event": "gap", "reason": reason}
        if first is not None and last is not None:
            data |= {"from": first, "to": last}
        self.connection.send(
            notice(stream.message_type, data, stream=stream.name, request_id=stream.request_id),
            stream.message_type,
        )

    def _shown(self, name: str) -> int:
        return 0 if self._shown_to is None else self._shown_to.get(name, 0)

    def _mark_shown(self, name: str, number: int) -> None:
        if self._shown_to is None:
            self._shown_to = {}
        self._shown_to[name] = number
