"""Recorder: what of an answer is in the store, and what has to be done next. Pure; asks nobody.

The log is the outbox here, too: a recorder is a cursor that reads on from it. Whoever talks to the
store asks for `due`, does it, and says how it went. Every step may be repeated, and every answer of
the store may be lost: an append that may have arrived is not guessed at but asked for.
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
    """Add an entry behind the others.

    Attributes:
        create: whether the stream is new; otherwise it must be there.
        keep_from: the number below which the store may forget messages, as the log has.
    """

    entry: Entry
    create: bool
    keep_from: int


@attrs.frozen
class Rewrite:
    """Replace the whole stream by these, unless it has been sealed."""

    entries: tuple[Entry, ...]


@attrs.frozen
class Ask:
    """Ask which entry is the last."""


Step = Append | Rewrite | Ask


class _State(enum.Enum):
    KNOWN = "known"
    """What the store has is known: ``recorded``."""
    UNSURE = "unsure"
    """It is not, because an answer was lost, or the store may be another one."""
    BROKEN = "broken"
    """The store has lost something in between, or all of it."""
    SEALED = "sealed"
    """Others hold this process for dead: the answer is not ours any more."""


class Recorder:
    """The cursor of the store on one answer.

    Args:
        channel: of an answer.
        stream: its one stream.
        wake: called when there is something to do: `due`.

    Attributes:
        recorded: the number up to which the store is known to have it.
        store_is_up: while it is not, the log need not keep what is not recorded.
    """

    __slots__ = ("_channel", "_in_flight", "_state", "_stream", "_wake", "recorded", "store_is_up")

    def __init__(self, channel: Channel, stream: Stream, wake: Callable[[Recorder], None]) -> None:
        self._channel = channel
        self._stream = stream
        self._wake = wake
        self._state = _State.KNOWN
        self._in_flight: Step | None = None
        self.recorded = 0
        self.store_is_up = True

    def __repr__(self) -> str:
        return f"<Recorder {self._stream.name} {self._state.value} at {self.recorded}>"

    # For the channel

    def flushed(self) -> None:
        """There is more to record."""
        self._wake(self)

    def needed(self) -> int:
        """What is not recorded is still needed, if there is hope to record it soon."""
        if not self.store_is_up or self.sealed:
            return self._channel.number + 1
        return self.recorded + 1

    # For whoever talks to the store

    @property
    def urgent(self) -> bool:
        """Whether it must not wait: the first message, and the end."""
        return not self.recorded or self._channel.ended

    @property
    def sealed(self) -> bool:
        """Whether the answer has been taken from us."""
        return self._state is _State.SEALED

    @property
    def disturbed(self) -> bool:
        """Whether it is to be found out, or repaired, what the store has."""
        return self._state in {_State.UNSURE, _State.BROKEN}

    @property
    def lag(self) -> int:
        """Messages that viewers have seen and the store has not."""
        return 0 if self.sealed else self._channel.flushed - self.recorded

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        if self.sealed:
            return True
        return self._state is _State.KNOWN and not self.lag

    def due(self) -> Step | None:
        """The next step, which is then in flight until one of the methods below is called."""
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
        """What follows a number on the log, up to `MOST_BYTES`."""
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
        """The store has taken the step."""
        step, self._in_flight = self._in_flight, None
        if isinstance(step, Append):
            self.recorded = step.entry.last
        elif isinstance(step, Rewrite):
            self.recorded = step.entries[-1].last if step.entries else 0
            self._state = _State.KNOWN

    def unsure(self) -> None:
        """Nobody knows what came of the step, or what the store has now."""
        self._in_flight = None
        if self._state is _State.KNOWN:
            self._state = _State.UNSURE

    def missing(self) -> None:
        """The store lacks the stream, or something in it."""
        self._in_flight = None
        if self._state is not _State.SEALED:
            self._state = _State.BROKEN

    def seal(self) -> None:
        """The store refuses everything: the answer has been sealed."""
        self._in_flight = None
        self._state = _State.SEALED

    def found(self, last: int | None) -> None:
        """The number of the last entry that the store has; None if there is no stream."""
        self._in_flight = None
        if last == SEALED:
            self.seal()
        elif last is None or last > self._channel.flushed:
            self._state = _State.BROKEN if self.recorded or last else _State.KNOWN
        else:
            self._state = _State.KNOWN
            self.recorded = last
