"""Connection manager: who is here, and who must go. Knows no HTTP.

A registry, one heap of due heartbeats (and keep-alives), a
sweep for idle and stalled connections, and the drain at the end.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from streaming_api.connections.admission import Admission, Slot
from streaming_api.connections.endings import FAULTS, KINDS, CloseReason
from streaming_api.connections.turns import Turns
from streaming_api.engine.budget import Budget
from streaming_api.errors import ApiError
from streaming_api.telemetry.deliveries import Telemetry
from streaming_api.telemetry.malloc import Trimmer
from streaming_api.telemetry.process import Process
from streaming_api.text import ascii_line

if TYPE_CHECKING:
    from streaming_api.config import StreamingConfig
    from streaming_api.connections.connection import Connection

logger = logging.getLogger(__name__)

_COUNT_SECONDS: Final = 0.25
_LITTLE: Final = 4 * 2**10
"""Bytes that may wait on a connection, in either direction, even when memory is short."""


class ConnectionManager:
    """All connections of this process, and the rules that apply to them.

    Args:
        config: the limits.
        telemetry: notified of refusals and endings.
        process: knows how much memory is used.
        budget: counts what is held for clients.

    Attributes:
        admission: who may come in.
        limits: the maximum number of connections, by kind.
        open: the number of connections, by kind.
        leaving: whether this process stops soon: health checks say so, and all is still served.
        http: makes what answers the next request on a connection whose response is complete.
        turns: where connections that have used up their part of a turn of the loop go on reading.
    """

    def __init__(
        self,
        config: StreamingConfig,
        telemetry: Telemetry | None = None,
        process: Process | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.config = config
        self.budget = budget or Budget()
        self.budget.refused = lambda: self.telemetry.refused("memory")
        self._trimmer = Trimmer()
        self.telemetry = telemetry or Telemetry()
        self._process = process or Process()
        self.admission = Admission(config, self.telemetry, self._process)
        self.budget.is_short = self.admission.is_short
        self.limits = self.admission.limits
        self.open = self.admission.open
        self.connections: dict[int, Connection] = {}
        self.leaving = False
        self.http: Callable[[], asyncio.Protocol] | None = None
        self.turns = Turns()
        self._slots: dict[int, Slot] = {}
        self._next = 0
        self._heartbeats: list[tuple[float, int]] = []
        self._emptied: asyncio.Event | None = None

    def apply(self, config: StreamingConfig) -> None:
        """Apply this configuration from now on; no present connection has to leave."""
        self.config = config
        self.admission.apply(config)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.open[kind]} of {self.limits[kind]} {kind}" for kind in KINDS)
        return f"<ConnectionManager {counts}>"

    @property
    def draining(self) -> bool:
        """Whether this server is stopping: no new client is admitted."""
        return self.admission.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self.admission.draining = draining

    def refused(self, error: ApiError, address: str = "", owner: str = "") -> None:
        """Count an error of a client if it is a refusal: see `Admission.refused`."""
        self.admission.refused(error, address, owner)

    # Registry

    def add(self, connection: Connection, slot: Slot) -> None:
        """Register a connection that has its transport; it stays until `removed`."""
        slot.taken = True
        self._next += 1
        connection.number = self._next
        self.connections[connection.number] = connection
        self._slots[connection.number] = slot
        self.telemetry.opened(slot.kind)
        connection.transport.set_write_buffer_limits(high=self.config.buffer_size, low=0)
        due = connection.heartbeat(time.monotonic())
        heapq.heappush(self._heartbeats, (due, connection.number))

    def removed(self, connection: Connection) -> None:
        """Note that a connection's transport is gone."""
        if self.connections.pop(connection.number, None) is None:
            return
        self.admission.give_back(self._slots.pop(connection.number))
        ending = connection.ending or CloseReason.CLIENT
        self.telemetry.closed(connection.kind, ending, fault=ending in FAULTS)
        age = time.monotonic() - connection.opened
        messages, size = connection.sent()
        logger.info(
            "%s %d %s of %s ended: %s after %.1f s, %d messages, %d bytes",
            connection.kind, connection.number, ascii_line(connection.path),
            connection.client.address, ending, age, messages, size,
        )  # fmt: skip
        if self._emptied is not None and not self.connections:
            self._emptied.set()

    # Time. A waiting task holds no connection: what each of them does is a method of its own.

    def heartbeat_at(self, connection: Connection, due: float) -> None:
        """Ask a connection for its `heartbeat` again at this time."""
        heapq.heappush(self._heartbeats, (due, connection.number))

    async def keep_heartbeats(self) -> None:
        """Ask each connection for its heartbeat when it is due."""
        while True:
            now = time.monotonic()
            self._give_heartbeats(now)
            self.admission.log_refusals(now=now)
            until = self._heartbeats[0][0] if self._heartbeats else now + 1
            await asyncio.sleep(min(max(until - now, 0.01), 1))

    def _give_heartbeats(self, now: float) -> None:
        while self._heartbeats and self._heartbeats[0][0] <= now:
            _, number = heapq.heappop(self._heartbeats)
            connection = self.connections.get(number)
            if connection is not None:
                heapq.heappush(self._heartbeats, (connection.heartbeat(now), number))

    async def keep_sweeping_stalled(self) -> None:
        """Abort connections whose transport makes no progress for ``stall_timeout``."""
        timeout = self.config.stall_timeout
        while True:
            await asyncio.sleep(timeout / 8)
            self._sweep_stalled(timeout, time.monotonic())

    def _sweep_stalled(self, timeout: float, now: float) -> None:
        for connection in self.present():
            unsent = connection.unsent
            taken = connection.sent()[1] - unsent
            if not unsent or taken != connection.progress[0]:
                connection.progress = (taken, now)
            elif now - connection.progress[1] >= timeout * 7 / 8:
                connection.abort(CloseReason.STALLED)

    async def keep_counting_memory(self, read_on: Callable[[], None]) -> None:
        """Count what waits on connections, make room and give memory back, four times a second.

        Args:
            read_on: lets answers go on that waited for room.
        """
        while True:
            await asyncio.sleep(_COUNT_SECONDS)
            self._count_memory()
            self._make_room()
            read_on()
            if self._trimmer.look(self._process.memory_bytes(), self.budget.bytes):
                self.admission.measure_again()

    def _count_memory(self) -> None:
        for connection in self.present():
            connection.count_memory()

    def _make_room(self) -> None:
        """End connections on which most waits, either way, where answers cannot give up enough."""
        for share in {connection.share for connection in self.present() if connection.share.over}:
            self.budget.relieve(share, 0)
        for connection in sorted(self.present(), key=_weight, reverse=True):
            if _weight(connection) < _LITTLE:
                break
            if connection.share.over:
                slow = connection.counted_unsent >= connection.counted_input
                connection.abort(CloseReason.TOO_SLOW if slow else CloseReason.MEMORY)

    async def keep_sweeping_idle(self) -> None:
        """Close connections that are idle for too long, or whose key has expired meanwhile."""
        while True:
            await asyncio.sleep(self.config.cleanup_interval)
            self._sweep_idle(time.monotonic() - self.config.max_idle_time)
            self._sweep_expired(datetime.now(UTC))

    def _sweep_idle(self, before: float) -> None:
        for connection in self.present():
            if connection.ending is None and connection.last_activity < before:
                connection.close(CloseReason.IDLE)

    def _sweep_expired(self, now: datetime) -> None:
        for connection in self.present():
            key = connection.client.key
            if connection.ending is None and key is not None and key.has_expired(now):
                connection.close(CloseReason.POLICY)

    async def drain(self, seconds: float) -> None:
        """Notify all clients at once that this server is stopping, and wait until they are gone."""
        self.leaving = self.draining = True
        self._emptied = asyncio.Event()
        for connection in self.present():
            connection.close(CloseReason.DRAINED)
        if self.connections:
            try:
                await asyncio.wait_for(self._emptied.wait(), seconds)
            except TimeoutError:
                for connection in self.present():
                    connection.abort(CloseReason.DRAINED)
        self.admission.log_refusals()

    def present(self) -> Iterable[Connection]:
        """Return the present connections; it is safe to end them while iterating."""
        return tuple(self.connections.values())


def _weight(connection: Connection) -> int:
    return connection.counted_input + connection.counted_unsent
