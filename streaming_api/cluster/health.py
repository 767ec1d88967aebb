"""Health: once a second, which processes live and how the store is; and what follows from that."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from streaming_api.cluster.connection import Command, StoreError, reason_of
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.membership import Membership, Missing
from streaming_api.cluster.mirrors import Mirrors
from streaming_api.cluster.reader import Reader
from streaming_api.cluster.store import Store
from streaming_api.cluster.writer import Writer

logger = logging.getLogger(__name__)

MARK_SECONDS: Final = 3.0
"""How long it may take until this process receives what it sends itself through the store."""


class Health:
    """What this process knows of the others and of the store.

    Args:
        instance: the name of this process, new at each start.
        lease: seconds after which a process that is silent counts as dead.
        reader: restarted when it hangs, or the store is another one.
        writer: verifies what the store has when it may have lost something.
        mirrors: are ended when their owners are dead.
    """

    def __init__(
        self,
        store: Store,
        instance: str,
        lease: float,
        figures: Figures,
        reader: Reader,
        writer: Writer,
        mirrors: Mirrors,
    ) -> None:
        self._store = store
        self._instance = instance
        self._figures = figures
        self._reader = reader
        self._writer = writer
        self._mirrors = mirrors
        self._missing = Missing(figures, lease)
        self._membership = Membership(
            store, instance, lease, self._in_loop(self._other_store), self._in_loop(self._lost)
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to send heartbeats."""
        self._loop = asyncio.get_running_loop()
        self._membership.start()

    async def stop(self) -> None:
        """Send no more heartbeats; the others learn of that at once."""
        if self._loop is not None:
            await asyncio.to_thread(self._membership.stop)

    @property
    def beats(self) -> int:
        """How many heartbeats were sent."""
        return self._membership.beats

    async def keep_turning(self) -> None:
        """Show that the event loop turns, as long as it does."""
        while True:
            self._membership.turned()
            await asyncio.sleep(0.5)

    # Once a second

    async def look(self, *due: Command) -> None:
        """Find out who lives and whether the store answers, and do what follows.

        Args:
            due: commands that go in the same round trip.
        """
        owners = self._mirrors.owners
        asked = [("EXISTS", self._store.key("i", owner)) for owner in owners]
        mark = self._store.message(self._instance, "mark")
        try:
            replies = await self._store.along(*asked, mark, *due)
            alive = dict(zip(owners, map(bool, replies), strict=False))
            await self._mirrors.seal(self._missing.saw(alive))
        except StoreError as error:
            self._figures.failed(str(error))
            return
        self._membership.turned()
        self._figures.joined = self._membership.joined
        self._assess(marked=replies[len(asked)])

    def _assess(self, *, marked: object) -> None:
        hung = time.monotonic() - self._reader.marked > MARK_SECONDS
        if isinstance(marked, Exception):
            self._figures.failed(reason_of(marked))
        elif hung:
            self._reader.restart()
            self._figures.failed(
                "What this process sends itself through the store does not arrive."
            )
        elif self._membership.failed is not None:
            self._figures.failed(self._membership.failed)
        elif not self._figures.up and not self._writer.lag:
            self._writer.recovered()

    @property
    def risk(self) -> str | None:
        """What is wrong with a store that answers; None if nothing is."""
        if self._figures.outdated:
            return "Other processes run a newer version: answers of theirs are not shown here."
        evicts = self._membership.evicts
        if evicts is None:
            return None
        return f"The store may drop answers: set its maxmemory-policy ({evicts}) to noeviction."

    # From the thread that sends heartbeats

    def _in_loop(self, do: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(do)

        return call

    def _other_store(self) -> None:
        """Assume nothing and ask everything: the store has restarted, or is another one."""
        logger.warning("the store is another one than before; what it has is verified")
        self._reader.restart()
        self._verify()

    def _lost(self) -> None:
        logger.warning("the store has lost something; what it has is verified")
        self._verify()

    def _verify(self) -> None:
        self._figures.lost_at = self._figures.stable_since = time.monotonic()
        self._writer.verify()
