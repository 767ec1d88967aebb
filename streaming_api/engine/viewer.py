"""Viewer: a cursor into a line's streams, plus the connection that it is shown on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from streaming_api.engine.stream import Group, Line, Policy, Stream
from streaming_api.wire.checksum import Checksum
from streaming_api.wire.messages import Message, notice

if TYPE_CHECKING:
    from streaming_api.connections.connection import Connection

_NO_SUM: Final = Checksum()
_READS_IN_A_ROW: Final = 4
"""Reads of the log after which a viewer who catches up lets others have the event loop."""


class Viewer:
    """One connection's place on one line.

    Live: in a group of the line, written by its flush, ``cursor`` is the line's ``flushed``.
    Lagging: the connection is over its high-water mark, or new here; reads on from ``cursor``.

    Args:
        connection: what it is shown on.
        line: what it watches.
        watched: the names of the streams on it; all of them for a chat.

    Attributes:
        since: monotonic seconds; what is older was due to this viewer only when it came.
    """

    __slots__ = (
        "_cursor", "_floors", "_group", "_joined", "_summed", "connection", "framing", "gone",
        "line", "since", "watched", "write",
    )  # fmt: skip

    def __init__(self, connection: Connection, line: Line, watched: frozenset[str]) -> None:
        self.connection = connection
        self.framing = connection.framing
        self.write = connection.transport.write
        self.line = line
        self.watched = watched
        self.gone = False
        self.since = time.monotonic()
        self._cursor = 0
        self._floors: dict[str, int] | None = None
        self._group: Group | None = None
        self._joined = (0, 0)  # messages and bytes that the group had been sent
        self._summed = _NO_SUM  # what of the group's checksum its connection has, or need not have

    def __repr__(self) -> str:
        state = "gone" if self.gone else "live" if self._group else "lagging"
        return f"<Viewer {state} at {self.cursor} of {self.line.epoch}>"

    @property
    def cursor(self) -> int:
        """The number up to which this viewer has been written."""
        return self._cursor if self._group is None else self.line.flushed

    @property
    def lag(self) -> int:
        """Messages on the line that this viewer has not been written."""
        return self.line.number - self.cursor

    @property
    def last_write(self) -> float:
        """Monotonic seconds of the last flush to it; 0 if it is not live."""
        return 0.0 if self._group is None else self._group.last_write

    def sent(self) -> tuple[int, int]:
        """Messages and bytes written while live, since it last became so."""
        if self._group is None:
            return 0, 0
        messages, size = self._joined
        return self._group.messages - messages, self._group.bytes - size

    # Joining and leaving

    def attach(self, cursor: int) -> None:
        """Be counted as a viewer, at ``cursor``; nothing is written before `catch_up`."""
        self._cursor = cursor
        self.connection.viewers.add(self)
        self.line.lag(self)

    def resume(self, cursor: int) -> None:
        """Watch from strictly after ``cursor``."""
        if cursor > self.line.flushed:
            self.line.flush()
        self.attach(cursor)
        self.catch_up()

    def join(self) -> None:
        """Watch from now: a snapshot of each stream that has one, then what comes.

        Until the last snapshot is shown the client is where it was: at 0, the cursor of those who
        have seen nothing. Cut off before, it joins again and misses none.
        """
        self.line.flush()
        *others, last = self._streams()
        for stream in others:
            self._show_snapshot(stream, 0)
        self._show_snapshot(last, self.line.flushed)
        self.resume(self.line.flushed)

    def leave(self) -> None:
        """Stop watching; harmless when already gone."""
        if self.gone:
            return
        self._settle()
        self.gone = True
        self.connection.viewers.discard(self)
        self.line.leave(self)

    def caught_up(self) -> None:
        """The line has ended; if this viewer has been written all of it, it is done."""
        if not self.gone and self.cursor >= self.line.number:
            self.leave()
            self.connection.finished(self)

    # Falling behind and catching up

    def fall_behind(self) -> None:
        """The connection is over its high-water mark: the log is the outbox from here on."""
        if self._group is not None:
            self._settle()
            self.line.lag(self)

    def _settle(self) -> None:
        """Leave the live group's book-keeping: what it counted becomes the connection's."""
        if self._group is not None:
            self._cursor = self.line.flushed
            self.connection.count(*self.sent(), self._group.last_write)
            self.settle_checksum()
            self._group = None

    def settle_checksum(self) -> None:
        """Tell its connection the checksum of what it was written while live."""
        if self._group is not None and self._group.checksum is not self._summed:
            self.connection.add_checksum(self._group.checksum.since(self._summed))
            self._summed = self._group.checksum

    def catch_up(self) -> None:
        """Read on from the log until caught up, or until the connection is over its mark again."""
        for _ in range(_READS_IN_A_ROW):
            if self.gone or self._group is not None or self.connection.paused:
                return
            if self._cursor >= self.line.flushed:
                if self.line.ended:
                    self.caught_up()
                else:
                    self._group = self.line.go_live(self)
                    self._joined = (self._group.messages, self._group.bytes)
                    self._summed = self._group.checksum
                return
            self._read_on()
        asyncio.get_running_loop().call_soon(self.catch_up)

    def _read_on(self) -> None:
        line = self.line
        for stream in self._streams():
            seen = max(self._cursor, self._floor(stream.name))
            if stream.evicted > seen and not self._miss(stream, seen):
                return
        messages = line.read(self.watched, self._cursor)
        self._cursor = messages[-1].number if messages else line.flushed
        if self._floors is not None:
            messages = [m for m in messages if m.number > self._floor(m.stream)]
        if messages:
            self._write_late(messages)
        line.progressed()

    def _write_late(self, messages: list[Message]) -> None:
        data = self.framing.batch(messages)
        self.write(data)
        if self.framing.has_checksum:
            self.connection.add_plain(self.framing.plain(messages))
        self.connection.count(len(messages), len(data), time.monotonic())
        self.connection.manager.telemetry.delivered_late(self, messages)

    def _miss(self, stream: Stream, seen: int) -> bool:
        """What follows ``seen`` on the stream is gone. Returns whether this viewer may go on."""
        if stream.policy is Policy.LATEST:
            self.line.flush()
            alone = len(self.watched) == 1  # else its other streams are still where they were
            self._show_snapshot(stream, self.line.flushed if alone else self._cursor)
            return True
        self.tell_gap(stream, "evicted", seen + 1, stream.evicted)
        self._set_floor(stream.name, stream.evicted)
        if stream.policy is Policy.LOSSLESS:
            self.leave()
            self.connection.too_slow()
            return False
        return True

    def _streams(self) -> list[Stream]:
        return [stream for name, stream in self.line.streams.items() if name in self.watched]

    def _show_snapshot(self, stream: Stream, cursor: int) -> None:
        message = stream.state(cursor)
        if message is not None:
            self._set_floor(stream.name, message.number)
            self._write_late([message])

    def tell_gap(self, stream: Stream, reason: str, first: int | None, last: int | None) -> None:
        """Say what is missing, before what is not."""
        data: dict[str, object] = {"event": "gap", "reason": reason}
        if first is not None and last is not None:
            data |= {"from": first, "to": last}
        self.connection.send(
            notice(stream.message_type, data, stream=stream.name, request_id=stream.request_id),
            stream.message_type,
        )

    def _floor(self, name: str) -> int:
        return 0 if self._floors is None else self._floors.get(name, 0)

    def _set_floor(self, name: str, number: int) -> None:
        if self._floors is None:
            self._floors = {}
        self._floors[name] = number
