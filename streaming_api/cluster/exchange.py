"""Exchange: sends and receives what all processes count together, every 250 ms.

Each part says what is due and takes the replies. When the store does not answer, every process
goes on with what it counts itself; nothing here is ever waited for by a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from streaming_api.cluster.connection import Command, StoreError, reason_of
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.store import TOGETHER_SECONDS, Store

logger = logging.getLogger(__name__)

EXCHANGE_SECONDS: Final = 0.25
"""How much later, at most, a process learns what the others have counted."""


class Part(Protocol):
    """Something that all processes count together. A type: nothing inherits it."""

    def due(self) -> list[Command]:
        """Return the commands of the next exchange."""

    def took(self, replies: Sequence[Any]) -> None:
        """Take the replies to these commands, one for each."""

    def failed(self) -> None:
        """Note that it is unknown what came of these commands."""


class Exchange:
    """Exchanges what the parts count.

    Args:
        parts: what is counted.
    """

    def __init__(self, store: Store, figures: Figures, parts: Sequence[Part]) -> None:
        self._store = store
        self._figures = figures
        self._parts = parts
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[bool]] = []
        self._refusal = ""

    def hurry(self) -> None:
        """Exchange now: what has just been counted decides on what others ask for next."""
        self._wake.set()
        self._store.depart()

    async def fresh(self) -> bool:
        """Wait for an exchange that begins after this call; return whether it succeeded."""
        if not self._figures.up:
            return False
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.hurry()
        return bool(await waiter)

    async def complete(self) -> bool:
        """Wait until what any process has counted before this call is known here, if it can be."""
        if not self._figures.up:
            return False
        await asyncio.sleep(1.2 * EXCHANGE_SECONDS)  # the others' turn, and a little for the trip
        return await self.fresh()

    async def keep_exchanging(self) -> None:
        """Exchange forever."""
        while True:
            ask = self._store.run if self._wake.is_set() else self._store.along
            self._wake.clear()
            waiters, self._waiters = self._waiters, []
            done = await self._exchange(ask)
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(done)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXCHANGE_SECONDS - TOGETHER_SECONDS):
                    await self._wake.wait()

    async def _exchange(self, ask: Callable[..., Awaitable[list[Any]]]) -> bool:
        commands = [part.due() for part in self._parts]
        try:
            replies = await ask(*(one for due in commands for one in due))
        except StoreError as error:
            self._figures.failed(str(error))
            for part in self._parts:
                part.failed()
            return False
        at = 0
        refused = False
        for part, due in zip(self._parts, commands, strict=True):
            mine = replies[at : at + len(due)]
            at += len(due)
            refusal = next((reply for reply in mine if isinstance(reply, Exception)), None)
            if refusal is None:
                part.took(mine)
            else:
                refused = True
                part.failed()
                self._report(reason_of(refusal))
        return not refused

    def _report(self, refusal: str) -> None:
        """Log once what the store refuses; limits hold in each process by itself meanwhile."""
        if refusal != self._refusal:
            self._refusal = refusal
            logger.warning("limits and usage hold in each process alone: %s", refusal)
