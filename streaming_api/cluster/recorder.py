"""Recorder: what of an answer is in the store, and what has to be done next. Pure; no I/O.

The backlog is the outbox here, too: a recorder is a cursor that reads on from it. Whoever talks
to the store asks for `due`, does it, and reports the result. Every step may be repeated, and
every reply may be lost: whether an append has arrived is never guessed but asked.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import attrs

from streaming_api.cluster.entries import MOST_BYTES, SEALED, Entry
from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Stream


@attrs.frozen
class Append:
    """Add an entry after the others.

    Attributes:
        create: whether the stream is new; otherwise it must exist.
        keep_from: the number below which the store may drop messages, as the backlog has.
    """

    entry: Entry
    create: bool
    keep_from: int


@attrs.frozen
class Rewrite:
    """Replace the whole stream by these entries, unless it has been sealed."""

    entries: tuple[Entry, ...]


@attrs.frozen
class Ask:
    """Ask which entry is the last one."""


Step = Append | Rewrite | Ask


class _State(enum.Enum):
    KNOWN = "known"
    """It is known what the store has: ``recorded``."""
    UNSURE = "unsure"
    """It is unknown, because a reply was lost, or the store may be another one."""
    BROKEN = "broken"
    """The store has lost something in between, or all of it."""
    SEALED = "sealed"
    """Others take this process for dead: the answer is not ours any more."""


class Recorder:
    """The cursor of the store on one answer.

    Args:
        channel: the channel of an answer.
        stream: its only stream.
        wake: called when there is something to do, see `due`.

    Attributes:
        recorded: the number up to which the store is known to have the answer.
        store_is_up: if false, the backlog need not keep what is not recorded.
    """

    __slots__ = (
        "_channel", "_in_flight", "_state", "_stream", "_told", "_wake", "recorded", "store_is_up",
    )  # fmt: skip

    def __init__(self, channel: Channel, stream: Stream, wake: Callable[[Recorder], None]) -> None:
        self._channel = channel
        self._stream = stream
        self._wake = wake
        self._state = _State.KNOWN
        self._in_flight: Step | None = None
        self._told = False  # that there is something to do
        self.recorded = 0
        self.store_is_up = True

    def __repr__(self) -> str:
        return f"<Recorder {self._stream.name} {self._state.value} at {self.recorded}>"

    # For the channel

    def flushed(self) -> None:
        """Note that there is more to record."""
        if not self._told or self._channel.ended:
            self._told = True
            self._wake(self)

    def needed(self) -> int:
        """Return the number from which on the backlog is needed, if recording is likely soon."""
        if not self.store_is_up or self.sealed:
            return self._channel.number + 1
        return self.recorded + 1

    # For whoever talks to the store

    @property
    def urgent(self) -> bool:
        """Whether it must not wait: the first message or the end is due."""
        return not self.recorded or self._channel.ended

    @property
    def sealed(self) -> bool:
        """Whether the answer has been taken from us."""
        return self._state is _State.SEALED

    @property
    def disturbed(self) -> bool:
        """Whether what the store has must be found out or repaired."""
        return self._state in {_State.UNSURE, _State.BROKEN}

    @property
    def lag(self) -> int:
        """Number of messages that viewers have seen and the store does not have."""
        return 0 if self.sealed else self._channel.flushed - self.recorded

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        if self.sealed:
            return True
        return self._state is _State.KNOWN and not self.lag

    def due(self) -> Step | None:
        """Return the next step, which is in flight until one of the methods below is called."""
        self._told = False
        if self._in_flight is not None or self.done:
            return None
        if self._state is _State.UNSURE:
            self._in_flight = Ask()
        elif self._state is _State.BROKEN:
            self._in_flight = Rewrite(tuple(self._kept()))
        else:
            entry = self._entry(self.recorded)
            self._in_flight = Append(entry, self.recorded == 0, self._stream.evicted + 1)
        return self._in_flight

    def _entry(self, cursor: int) -> Entry:
        """Return what follows a number in the backlog, up to `MOST_BYTES`."""
        first, payloads = self._stream.payloads(cursor, self._channel.flushed, MOST_BYTES)
        last = first + len(payloads) - 1
        return Entry(
            first,
            tuple(payloads),
            final=self._channel.ended and last == self._channel.number,
            cut=first > cursor + 1,
        )

    def _kept(self) -> list[Entry]:
        entries = []
        cursor = 0
        while cursor < self._channel.flushed:
            entries.append(entry := self._entry(cursor))
            cursor = entry.last
        return entries

    def accepted(self) -> None:
        """Note that the store has accepted the step."""
        step, self._in_flight = self._in_flight, None
        if isinstance(step, Append):
            self.recorded = step.entry.last
        elif isinstance(step, Rewrite):
            self.recorded = step.entries[-1].last if step.entries else 0
            self._state = _State.KNOWN

    def unsure(self) -> None:
        """Note that the result of the step is unknown, and so is what the store has now."""
        self._in_flight = None
        if self._state is _State.KNOWN:
            self._state = _State.UNSURE

    def missing(self) -> None:
        """Note that the store lacks the stream, or something in it."""
        self._in_flight = None
        if self._state is not _State.SEALED:
            self._state = _State.BROKEN

    def seal(self) -> None:
        """Note that the store refuses everything: the answer has been sealed."""
        self._in_flight = None
        self._state = _State.SEALED

    def found(self, last: int | None) -> None:
        """Note the number of the last entry in the store; None if there is no stream."""
        self._in_flight = None
        if last == SEALED:
            self.seal()
        elif last is None or last > self._channel.flushed:
            self._state = _State.BROKEN if self.recorded or last else _State.KNOWN
        else:
            self._state = _State.KNOWN
            self.recorded = last
