"""Slots for upstream connections: a fixed number; the others wait first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from streaming_api.errors import Unavailable


class AnswerQueue:
    """``size`` slots and a bounded queue before them.

    Attributes:
        busy: the number of slots taken.
    """

    def __init__(self, size: int, max_queued: int) -> None:
        self.size = size
        self.max_queued = max_queued
        self.busy = 0
        self._emptied: asyncio.Event | None = None
        self._queue: deque[tuple[asyncio.Future[None], Callable[[int], None]]] = deque()

    def __repr__(self) -> str:
        return f"<AnswerQueue {self.busy} of {self.size} busy, {len(self._queue)} waiting>"

    @property
    def queued(self) -> int:
        """Number of answers that wait for a slot."""
        return len(self._queue)

    def check(self, arriving: int = 0) -> None:
        """Refuse an answer that could not even wait.

        Args:
            arriving: how many have been let in and have not reached `acquire` yet.

        Raises:
            Unavailable: the queue is full.
        """
        if self.busy + len(self._queue) + arriving >= self.size + self.max_queued:
            message = (
                f"All {self.size} upstream connections are busy and {self.max_queued} answers wait"
                " already; try again later."
            )
            raise Unavailable(message, "queue_full", retry_after=5)

    def take(self) -> bool:
        """Take a slot; return False if there is none, or others wait for one."""
        if self._queue or self.busy >= self.size:
            return False
        self.busy += 1
        return True

    async def acquire(self, on_position: Callable[[int], None]) -> None:
        """Take a slot, or wait for one.

        Args:
            on_position: called with the position in the queue (1 is next) whenever it changes.
        """
        if self.take():
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (turn, on_position)
        self._queue.append(entry)
        on_position(len(self._queue))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.release()
            elif entry in self._queue:  # otherwise `release` has passed over it already
                self._queue.remove(entry)
                self._notify()
            raise

    def release(self) -> None:
        """Give a slot back: the first in the queue takes it."""
        while self._queue:
            turn, _ = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                self._notify()
                return
        self.busy -= 1
        if self._emptied is not None and not self.busy:
            self._emptied.set()

    async def emptied(self) -> None:
        """Wait until no slot is taken."""
        while self.busy:
            self._emptied = asyncio.Event()
            await self._emptied.wait()

    def _notify(self) -> None:
        for position, (_, on_position) in enumerate(self._queue, 1):
            on_position(position)
