"""Reader: fills mirrors from the store. One blocking read of its own inbox, then what is dirty.

Hints may be lost, doubled or late: once a second everything watched counts as dirty. Whether the
inbox can be read is tested end to end: each process writes itself a mark and must read it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from streaming_api.background import Backoff
from streaming_api.cluster.connection import READ_ENTRIES, Message, StoreError
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.mirror import Mirror
from streaming_api.cluster.store import Store

_SLICE: Final = 100
"""Number of answers that are read together."""


class Reader:
    """Reads the inbox and the mirrors of this process.

    Args:
        receive: called with each message in the inbox.
        on_hole: called with a mirror that has a hole.
    """

    def __init__(
        self,
        store: Store,
        instance: str,
        figures: Figures,
        receive: Callable[[Message], None],
        on_hole: Callable[[Mirror], None],
    ) -> None:
        self._store = store
        self._instance = instance
        self._figures = figures
        self._receive = receive
        self._on_hole = on_hole
        self._dirty: dict[str, Mirror] = {}
        self._wake = asyncio.Event()
        self._lost_place = False
        self._after = {store.key("x", instance): "0-0"}
        self.marked = time.monotonic()

    def soil(self, ref: str, mirror: Mirror) -> None:
        """Mark a mirror as dirty: there may be news of it."""
        if not mirror.channel.ended:
            self._dirty[ref] = mirror
            self._wake.set()

    async def keep_listening(self) -> None:
        """Read the inbox forever."""
        backoff = Backoff(0.05, 1.0)
        while True:
            try:
                if self._lost_place:
                    await self._find_place()
                messages = await self._store.inbox(self._after)
            except StoreError as error:
                self._figures.failed(str(error))
                await asyncio.sleep(backoff.pause())
                continue
            backoff.reset()
            for key, number, message in messages:
                self._after[key] = number
                if message.get(b"t") == b"mark":
                    self.marked = time.monotonic()
                else:
                    self._receive(message)

    def restart(self) -> None:
        """Find the place in the inbox again: the store is another one, or its ids begin anew."""
        self._lost_place = True

    async def _find_place(self) -> None:
        """Go on from the newest message.

        Older ones are hints, which may be lost, and those that have been followed must not be
        followed again: a store may come back with what it had long ago.
        """
        newest = await self._store.inbox_end(self._instance)
        self._after = dict.fromkeys(self._after, "0-0")
        self._after[self._store.key("x", self._instance)] = newest
        self._lost_place = False

    async def keep_reading(self) -> None:
        """Read what is dirty forever."""
        backoff = Backoff(0.05, 1.0)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty:
                taken = dict(list(self._dirty.items())[:_SLICE])
                for ref in taken:
                    del self._dirty[ref]
                try:
                    await self._read(taken)
                    backoff.reset()
                except StoreError as error:
                    self._figures.failed(str(error))
                    self._dirty = taken | self._dirty
                    await asyncio.sleep(backoff.pause())

    async def _read(self, taken: dict[str, Mirror]) -> None:
        cursors = {
            ref: mirror.channel.number for ref, mirror in taken.items() if not mirror.channel.full
        }
        found = await self._store.read(cursors)
        for ref in cursors:
            entries = found.get(ref, [])
            mirror = taken[ref]
            for entry in entries:
                if entry is None and mirror.owner_lost:
                    continue  # the next one shows what is missing
                if entry is None or not mirror.take(entry):
                    self._figures.holes += 1
                    self._on_hole(mirror)
                    break
            else:
                if len(entries) >= READ_ENTRIES:
                    self.soil(ref, mirror)
                    continue
                if mirror.orphaned:
                    mirror.lost()
            mirror.loaded.set()
