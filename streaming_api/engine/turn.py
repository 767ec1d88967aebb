"""Turn: what one turn of the event loop has read, shown when all is read, written together; ends.

A write wakes the process that reads, and what is done between two writes is time in which that
process falls asleep again: writes that follow each other at once wake it once. A reply may be
complete before its turn has ended, so whoever ends an answer ends the turn first.

What is read counts as memory once it is taken, and whoever takes it may stop reading. So a read of
many chunks, which another one may follow in the same turn, ends the turn: else an upstream as
quick as this machine would be read to the last byte of what the kernel holds.

The end of an answer is as much work as ten tokens. Of many that are complete at once, few end in
each turn, so that the tokens of all others do not wait for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from streaming_api.engine.channel import Flushed

AT_ONCE: Final = 32 * 2**10
"""Bytes of one read above which they are taken at once."""
ENDS: Final = 2
"""Answers that end in one turn."""


class Taker(Protocol):
    """Who takes chunks. A type."""

    def take(self, chunks: list[bytes]) -> None:
        """Append chunks; it must not raise."""


class Turn:
    """What has been read in this turn and is not shown yet; shown, and not written yet.

    Attributes:
        flushed: what is to be written.
    """

    __slots__ = ("_due", "_ending", "_read", "_writing", "flushed")

    def __init__(self) -> None:
        self._due = False  # its end is scheduled
        self._ending: deque[asyncio.Future[None]] = deque()
        self._writing = False
        self._read: list[tuple[Taker, list[bytes]]] = []
        self.flushed: list[Flushed] = []

    def add(self, taker: Taker, chunks: list[bytes]) -> None:
        """Let ``taker`` take these chunks, of which there is one, at the end of this turn."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._end_due)
        self._read.append((taker, chunks))
        if len(chunks) * len(chunks[-1]) > AT_ONCE:
            self.end()

    def _end_due(self) -> None:
        self._due = False
        self.end()

    def end(self) -> None:
        """Show what has been read, then write."""
        read, self._read = self._read, []
        for taker, chunks in read:
            taker.take(chunks)
        self.write()

    def write(self) -> None:
        """Write what has been shown so far."""
        self._writing = True
        try:
            while self.flushed:
                flushed, self.flushed = self.flushed, []
                for channel, part, data, viewers in flushed:
                    channel.write(part, data, viewers)
        finally:
            self._writing = False

    @property
    def later(self) -> list[Flushed] | None:
        """What is written next, while this turn is being written; else None."""
        return self.flushed if self._writing else None

    async def to_end(self) -> None:
        """Wait for a turn in which an answer may end."""
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        self._ending.append(mine)
        if len(self._ending) == 1:
            loop.call_soon(self._let_end)
        await mine

    def _let_end(self) -> None:
        for _ in range(min(ENDS, len(self._ending))):
            waiting = self._ending.popleft()
            if not waiting.done():
                waiting.set_result(None)
        if self._ending:
            asyncio.get_running_loop().call_soon(self._let_end)
