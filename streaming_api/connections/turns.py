"""Turns: whoever has used up its part of a turn of the event loop goes on here, one at a time.

All other work of the loop comes in between, and as much time as the work took is left free after
it: however many connections wait here, together they get half of the process.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

T = TypeVar("T")

TURN_BYTES: Final = 64 * 2**10
"""Bytes, decompressed, that are read of one client in one turn, rounded up to a whole frame."""


class Turns:
    """A queue of work to continue, first come, first served."""

    __slots__ = ("_scheduled", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._waiting)

    def later(self, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` when its turn comes; it does one turn's worth of work."""
        self._waiting.append(go_on)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    async def run(self, work: Callable[[], T]) -> T:
        """Do work when its turn comes, and return what comes of it."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.later(partial(_do, work, [done]))
        try:
            return await done
        finally:
            del done  # its error would keep this frame, and the frame all that the work knows

    async def pause(self) -> None:
        """Go on when the turn comes; its work is done by whoever waits, and not measured."""
        await self.run(_nothing)

    def _next(self) -> None:
        begun = time.monotonic()
        go_on = self._waiting.popleft()
        try:
            go_on()
        finally:
            self._scheduled = bool(self._waiting)
            if self._waiting:
                used = time.monotonic() - begun
                asyncio.get_running_loop().call_later(used, self._next)


def _nothing() -> None:
    """Only take a turn."""


def _do(work: Callable[[], T], waiting: list[asyncio.Future[T]]) -> None:
    """Do work, and hand over what comes of it; the future is kept by no frame of an error."""
    done = waiting.pop()
    try:
        if not done.cancelled():  # whoever wants it is still there
            done.set_result(work())
    except Exception as error:  # noqa: BLE001 (raised where it is awaited)
        done.set_exception(error)
    finally:
        del done
