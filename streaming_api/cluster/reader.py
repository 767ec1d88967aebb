"""Reader: fills mirrors from the store. What a hint names is read with the wait for the next one.

Hints may be lost, doubled or late: once a second everything watched counts as dirty. Whether the
inbox can be read is tested end to end: each process writes itself a mark and must read it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from streaming_api.background import Backoff
from streaming_api.cluster.connection import READ_ENTRIES, Message, StoreError
from streaming_api.cluster.entries import Entry
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.mirror import Mirror
from streaming_api.cluster.store import LISTEN_ENTRIES, Found, Store

_SLICE: Final = 100
"""Number of answers that are read together."""
_MOST: Final = 500
"""Number of answers that are read together with a wait for messages."""


class Source(Protocol):
    """Streams of messages that go to every process. A type: nothing inherits it."""

    @property
    def streams(self) -> Mapping[str, str]:
        """The streams to read now, and after which id."""

    def receive(self, key: str, number: str, fields: Message) -> None:
        """Take a message of one of them."""


class Reader:
    """Reads the inbox and the mirrors of this process.

    Args:
        topics: what else is read with the inbox.
        receive: called with each message in the inbox.
        on_hole: called with a mirror that has a hole.
    """

    def __init__(
        self,
        store: Store,
        instance: str,
        figures: Figures,
        topics: Source,
        receive: Callable[[Message], None],
        on_hole: Callable[[Mirror], None],
    ) -> None:
        self._store = store
        self._instance = instance
        self._figures = figures
        self._topics = topics
        self._receive = receive
        self._on_hole = on_hole
        self._dirty: dict[str, Mirror] = {}
        self._wake = asyncio.Event()
        self._lost_place = False
        self._inbox = store.key("x", instance)
        self._place = "0-0"
        self.marked = time.monotonic()

    def soil(self, ref: str, mirror: Mirror, *, soon: bool = True) -> None:
        """Mark a mirror as dirty: there may be news of it, to be read now or with the next wait."""
        if not mirror.channel.ended:
            self._dirty[ref] = mirror
            if soon:
                self._wake.set()

    async def keep_listening(self) -> None:
        """Read messages forever; what they say is dirty is read with the next wait for them."""
        backoff = Backoff(0.05, 1.0)
        while True:
            try:
                if self._lost_place:
                    await self._find_place()
                messages = await self._listen()
            except StoreError as error:
                self._figures.failed(str(error))
                await asyncio.sleep(backoff.pause())
                continue
            backoff.reset()
            for key, number, message in messages:
                if key != self._inbox:
                    self._topics.receive(key, number, message)
                    continue
                self._place = number
                if message.get(b"t") == b"mark":
                    self.marked = time.monotonic()
                else:
                    self._receive(message)

    async def _listen(self) -> list[tuple[str, str, Message]]:
        """Wait for messages; where trips are made anyway, ask with these instead."""
        taken = self._take(_MOST)
        streams = {self._inbox: self._place, **self._topics.streams}
        if not taken and self._store.busy:
            return await self._store.poll(streams)
        take = partial(self._fill, taken, LISTEN_ENTRIES)
        try:
            return await self._store.listen(streams, self._inbox, _cursors(taken), take)
        except StoreError:
            self._dirty = taken | self._dirty
            self._wake.set()
            raise

    def _take(self, most: int) -> dict[str, Mirror]:
        """Return what is dirty and has room, up to so many mirrors: whoever takes it reads it."""
        taken: dict[str, Mirror] = {}
        for ref, mirror in tuple(self._dirty.items()):
            if len(taken) == most:
                break
            del self._dirty[ref]
            if not mirror.channel.full:
                taken[ref] = mirror
        return taken

    def restart(self) -> None:
        """Find the place in the inbox again: the store is another one, or its ids begin anew."""
        self._lost_place = True

    async def _find_place(self) -> None:
        """Go on from the newest message.

        Older ones are hints, which may be lost, and those that have been followed must not be
        followed again: a store may come back with what it had long ago.
        """
        self._place = await self._store.inbox_end(self._instance)
        self._lost_place = False

    async def keep_reading(self) -> None:
        """Read what is dirty forever."""
        backoff = Backoff(0.05, 1.0)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while taken := self._take(_SLICE):
                try:
                    found = await self._store.read(_cursors(taken))
                    await self._fill(taken, READ_ENTRIES, found)
                    backoff.reset()
                except StoreError as error:
                    self._figures.failed(str(error))
                    self._dirty = taken | self._dirty
                    await asyncio.sleep(backoff.pause())

    async def _fill(self, taken: dict[str, Mirror], most: int, found: Found) -> None:
        """Show what was found, of each mirror up to so many entries."""
        for ref, entries in found.items():
            self._show(ref, taken[ref], entries, most)
        await asyncio.sleep(0)  # all else has its turn before the next ones are shown

    def _show(self, ref: str, mirror: Mirror, entries: Sequence[Entry | None], most: int) -> None:
        for entry in entries:
            if entry is None and mirror.owner_lost:
                continue  # the next one shows what is missing
            if entry is None or not mirror.take(entry):
                self._figures.holes += 1
                self._on_hole(mirror)
                break
        else:
            if len(entries) >= most:
                self.soil(ref, mirror)
                return
            if mirror.orphaned:
                mirror.lost()
        mirror.loaded.set()


def _cursors(mirrors: Mapping[str, Mirror]) -> dict[str, int]:
    return {ref: mirror.channel.number for ref, mirror in mirrors.items()}
