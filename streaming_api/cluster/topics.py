"""The topics of all processes in one order: one makes them, the store numbers them, all show them.

The holder of a lease polls the sources and appends what changes to the store; every process, that
one too, shows what it reads back. So a cursor means the same on every process, also after a restart
or when another process takes over. A process that has not reached the store for `GONE_SECONDS`
makes topics of its own; back again, its viewers get a gap and a snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from streaming_api.background import Background
from streaming_api.cluster.connection import StoreError
from streaming_api.cluster.lease import Lease, Standing
from streaming_api.cluster.making import Making, Role
from streaming_api.cluster.store import Store
from streaming_api.cluster.topic_entries import memory_of
from streaming_api.cluster.topic_reader import TopicReader, epoch_of
from streaming_api.cluster.topic_store import TopicStore
from streaming_api.cluster.topic_writer import TopicWriter
from streaming_api.topics import Topics

GONE_SECONDS: Final = 5.0
_ARRIVE_SECONDS: Final = 2.0
_SOON: Final = 0.05
_TICK: Final = 1.0


class SharedTopics:
    """The topics of this process as those of the service.

    Args:
        instance: the name of this process, new at each start.
        lease: seconds after which another process takes over from one that is silent.
        failures: failures of background work, counted by name.
        on_webhook: called with each webhook while this process makes the topics.

    Attributes:
        reader: shows what the store has of them.
    """

    def __init__(
        self,
        store: Store,
        instance: str,
        lease: float,
        topics: Topics,
        failures: Counter[str],
        on_webhook: Callable[[bytes], None],
    ) -> None:
        self._topics = topics
        self._store = TopicStore(store)
        self._lease = Lease(self._store, instance, lease)
        self.reader = TopicReader(self._store, topics, on_webhook)
        self._writer = TopicWriter(self._store, topics, self.reader, lambda: self._lease.held)
        self._making = Making(topics, failures)
        self._arrived = asyncio.Event()
        self._leaving = False
        self._heard = time.monotonic()

    def __repr__(self) -> str:
        return f"<SharedTopics {self.role.name}, epoch {self.reader.epoch}>"

    @property
    def role(self) -> Role:
        """What this process does for the topics."""
        return self._making.role

    @property
    def leads(self) -> bool:
        """Whether this process polls the sources for all."""
        return self.role is Role.LEADING

    # Life

    async def arrive(self, background: Background) -> None:
        """Join the other processes, or begin alone; go on in the background."""
        background.start("cluster topics", self._keep_looking)
        background.start("cluster topics writer", self._writer.keep_writing)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ARRIVE_SECONDS):
                await self._arrived.wait()

    def leave(self) -> None:
        """Leave the making to others, as soon as there are any."""
        self._leaving = True

    async def stop(self) -> None:
        """Make nothing any more."""
        await self._making.stop()
        with contextlib.suppress(StoreError):
            await self._lease.leave()

    # Once a second

    async def _keep_looking(self) -> None:
        while True:
            await self._look()
            if self.role is not Role.ARRIVING:
                self._arrived.set()
            await asyncio.sleep(_SOON if self.role is Role.ARRIVING else _TICK)

    async def _look(self) -> None:
        report = self._topics.processes.report()
        reached = False
        try:
            standing = await self._lease.renew(report.encode(), wanted=self._may_lead)
            if await self._stand(standing):
                self._heard = time.monotonic()
            reached = True
        except StoreError:
            self._writer.stop()
        # nobody waits for a store that cannot be reached at the start
        patience = GONE_SECONDS if reached or self.role is not Role.ARRIVING else 0.0
        if self.role is not Role.ALONE and time.monotonic() - self._heard > patience:
            self._begin_alone()
        if self.role is Role.LEADING:
            self._topics.merge([report, *self._lease.reports])
        elif self.role is Role.ALONE:
            self._topics.merge([report])

    @property
    def _may_lead(self) -> bool:
        """Whether to take the lease, or to keep it."""
        return not self._leaving or all(each.leaving for each in self._lease.reports)

    async def _stand(self, standing: Standing) -> bool:
        """Show what is valid, and make the topics or leave that to others; return whether so."""
        epoch = standing.epoch
        if epoch is not None and epoch != self.reader.epoch and not await self._join(epoch):
            epoch = None
        if standing.holds:
            return await self._lead(standing, epoch)
        if epoch is not None:
            self._writer.stop()
            self.reader.listens = None
            await self._making.end()
        return epoch is not None

    async def _join(self, epoch: str) -> bool:
        """Show an epoch; nothing that is made here may come between its messages."""
        self._writer.stop()
        joined = await self.reader.join(epoch)
        if joined:
            self._making.pause()
        return joined

    async def _lead(self, standing: Standing, epoch: str | None) -> bool:
        if self.role is Role.LEADING and epoch is not None and not self._writer.stale:
            await self._writer.save()
            await self._lease.forget_dead()
            return True
        if epoch is None or self._writer.refused or not await self._is_whole(epoch):
            epoch = await self._writer.open(standing.run, standing.before)
            if not await self._join(epoch):
                return False
        state, webhooks = await self._store.run(
            ("GET", self._store.state("topics", epoch)),
            ("XREVRANGE", self._store.webhooks, "+", "-", "COUNT", 1),
        )
        memory = self._topics.memory() if self.role is Role.LEADING else memory_of(state)
        self.reader.listen(webhooks)
        self._writer.begin(epoch)
        self._making.begin(Role.LEADING, self._writer.put)
        self._topics.take_over(memory)
        return True

    async def _is_whole(self, epoch: str) -> bool:
        """Show all that there is; return whether the store has all that has been shown."""
        await self.reader.catch_up()
        streams = [self._store.stream(name, epoch) for name in self._topics.boards]
        tops = await self._store.run(*(("XREVRANGE", key, "+", "-", "COUNT", 1) for key in streams))
        return all(map(self.reader.reaches, streams, tops))

    def _begin_alone(self) -> None:
        self.reader.part()
        epoch = secrets.token_hex(8)
        for name, board in self._topics.boards.items():
            board.begin(epoch_of(name, epoch))
        memory = self._topics.memory() if self.role is Role.LEADING else None
        self._making.begin(Role.ALONE, self._show)
        self._topics.take_over(memory)

    def _show(self, topic: str, changes: tuple[bytes, ...], urgent: bool) -> None:  # noqa: FBT001 (an outlet)
        self._topics.alerts.left_out = self._topics.desk.alerts.left_out
        board = next(each for each in self._topics.boards.values() if topic in each.names)
        board.show(topic, changes, urgent=urgent)
