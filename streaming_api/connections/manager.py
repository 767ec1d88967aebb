"""Connection manager: who may come in, who is here, who must go. Knows no HTTP.

Admission before the upgrade, a registry, one heap of due signs of life (heartbeat, keep-alive), a
sweep for idle and stalled connections, and the drain at the end.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from streaming_api.connections.endings import _REASON_OF, FAULTS, KINDS, REFUSALS, CloseReason
from streaming_api.connections.turns import Turns
from streaming_api.engine.budget import Budget
from streaming_api.errors import ApiError, Forbidden, Unauthorized, Unavailable
from streaming_api.telemetry.deliveries import Telemetry
from streaming_api.telemetry.malloc import Trimmer
from streaming_api.telemetry.process import Process
from streaming_api.text import ascii_line

if TYPE_CHECKING:
    from streaming_api.config import StreamingConfig
    from streaming_api.connections.connection import Connection

logger = logging.getLogger(__name__)

REFUSALS_LOGGED_SECONDS: Final = 5.0
"""Each reason has one line in the log in so many seconds at most, with how often it was."""
_SPARE_DESCRIPTORS: Final = 64
"""File descriptors kept for upstreams, sources, files, and clients that come and go."""
_LAST_DESCRIPTORS: Final = 32
"""The part of them that no client gets."""
_COUNT_SECONDS: Final = 0.25
_MOST_WAITING: Final = 64 * 2**10
"""Bytes that may wait on a connection, either way, even when memory is short."""
_GIB: Final = 2**30


class Slot:
    """A connection's place among the limits, held from admission until it is gone."""

    __slots__ = ("_manager", "address", "kind", "taken")

    def __init__(self, manager: ConnectionManager, kind: str, address: str) -> None:
        self._manager = manager
        self.kind = kind
        self.address = address
        self.taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.taken:
            self._manager.give_back(self)


class ConnectionManager:
    """All connections of this process, and the rules they live by.

    Args:
        config: the limits.
        telemetry: told of refusals and endings.
        process: knows how much memory is used.
        budget: counts what is held for clients.

    Attributes:
        http: makes what answers the next request on a connection whose response is complete.
        turns: where connections go on reading that have used up their part of a turn of the loop.
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
        self.budget.is_short = self._is_short
        self.budget.refused = lambda: self.telemetry.refused("memory")
        self._trimmer = Trimmer()
        self.telemetry = telemetry or Telemetry()
        self._process = process or Process()
        self.limits = {"websocket": config.max_connections, "sse": config.sse_max_connections}
        self.open: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.connections: dict[int, Connection] = {}
        self.draining = False
        self.http: Callable[[], asyncio.Protocol] | None = None
        self.turns = Turns()
        self._slots: dict[int, Slot] = {}
        self._per_address: Counter[str] = Counter()
        self._next = 0
        self._heartbeats: list[tuple[float, int]] = []
        self._emptied: asyncio.Event | None = None
        self._memory: tuple[float, int] = (0.0, 0)
        self._descriptors = _most_descriptors()
        self._logged: dict[str, tuple[int, float]] = {}  # refusals: how many, and when

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.open[kind]} of {self.limits[kind]} {kind}" for kind in KINDS)
        return f"<ConnectionManager {counts}>"

    # Admission

    def admit(self, kind: str, address: str, descriptor: int = 0) -> Slot:
        """A slot for one more connection, taken now.

        Args:
            kind: ``websocket`` or ``sse``.
            address: the client's.
            descriptor: of its socket: the kernel gives the lowest that is free, so a high one says
                that few are left.

        Raises:
            Unavailable: a limit is reached; before any upgrade.
        """
        self._refuse_if(self.draining, "draining", "This server is stopping; connect again.", 1)
        limit = self.limits[kind]
        self._refuse_if(
            self.open[kind] >= limit,
            "connections",
            f"All {limit} {kind} connections are taken; try again later.",
            5,
        )
        per_address = self.config.max_connections_per_ip
        self._refuse_if(
            bool(per_address) and self._per_address[address] >= per_address,
            "per_address",
            f"{per_address} connections from one address are the limit; close one.",
            5,
        )
        self._refuse_if(
            self._is_short(),
            "memory",
            "The server is short of memory; try again later.",
            30,
        )
        self._refuse_if(
            descriptor >= self._descriptors - _SPARE_DESCRIPTORS,
            "descriptors",
            "The server is short of file descriptors; try again later.",
            5,
        )
        self.open[kind] += 1
        self._per_address[address] += 1
        return Slot(self, kind, address)

    def _refuse_if(self, reached: bool, reason: str, message: str, retry_after: float) -> None:  # noqa: FBT001
        if reached:
            self.telemetry.refused(reason)
            raise Unavailable(message, reason, retry_after=retry_after)

    def is_last_descriptor(self, descriptor: int) -> bool:
        """Whether a connection with this descriptor must not even be listened to."""
        return descriptor >= self._descriptors - _LAST_DESCRIPTORS

    def refused(self, error: ApiError) -> None:
        """Count an error, if it is a refusal that nobody else counts."""
        reason = _REASON_OF.get(error.code)
        if reason is None and isinstance(error, Unauthorized | Forbidden):
            reason = "credential"
        if reason is not None:
            self.telemetry.refused(reason)

    def log_refusals(self, *, now: float | None = None) -> None:
        """One line for each reason that there were new refusals for.

        Args:
            now: monotonic seconds; reasons that had their line just before wait. None: all.
        """
        for reason, count in self.telemetry.refusals.items():
            told, when = self._logged.get(reason, (0, -REFUSALS_LOGGED_SECONDS))
            due = now is None or now - when >= REFUSALS_LOGGED_SECONDS
            if count > told and due:
                self._logged[reason] = (count, 0.0 if now is None else now)
                logger.warning("refused %d times: %s", count - told, REFUSALS.get(reason, reason))

    def _is_short(self) -> bool:
        return self._memory_used() > 0.9 * self.config.memory_gb * _GIB

    def _memory_used(self) -> int:
        now = time.monotonic()
        if now - self._memory[0] > 1:
            self._memory = (now, self._process.memory_bytes())
        return self._memory[1]

    def give_back(self, slot: Slot) -> None:
        """A slot is free again."""
        self.open[slot.kind] -= 1
        self._per_address[slot.address] -= 1
        if self._per_address[slot.address] <= 0:
            del self._per_address[slot.address]

    # Registry

    def add(self, connection: Connection, slot: Slot) -> None:
        """A connection has its transport: it is one of ours from here until `removed`."""
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
        """A connection's transport is gone."""
        if self.connections.pop(connection.number, None) is None:
            return
        self.give_back(self._slots.pop(connection.number))
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

    # Time

    def heartbeat_at(self, connection: Connection, due: float) -> None:
        """Ask a connection for its `heartbeat` once more, at this time."""
        heapq.heappush(self._heartbeats, (due, connection.number))

    async def keep_heartbeats(self) -> None:
        """Give each connection its sign of life when it is due."""
        while True:
            now = time.monotonic()
            while self._heartbeats and self._heartbeats[0][0] <= now:
                _, number = heapq.heappop(self._heartbeats)
                connection = self.connections.get(number)
                if connection is not None:
                    heapq.heappush(self._heartbeats, (connection.heartbeat(now), number))
            self.log_refusals(now=now)
            until = self._heartbeats[0][0] if self._heartbeats else now + 1
            await asyncio.sleep(min(max(until - now, 0.01), 1))

    async def keep_sweeping_stalled(self) -> None:
        """Abort connections whose transport makes no progress for ``stall_timeout``."""
        timeout = self.config.stall_timeout
        while True:
            await asyncio.sleep(timeout / 8)
            now = time.monotonic()
            for connection in tuple(self.connections.values()):
                unsent = connection.unsent
                taken = connection.sent()[1] - unsent
                if not unsent or taken != connection.progress[0]:
                    connection.progress = (taken, now)
                elif now - connection.progress[1] >= timeout * 7 / 8:
                    connection.abort(CloseReason.STALLED)

    async def keep_counting_memory(self, relieve: Callable[[], None]) -> None:
        """Four times a second: count what waits on connections, make room, give memory back.

        Args:
            relieve: makes room among the answers. Where that is not enough, who holds most goes.
        """
        budget = self.budget
        while True:
            await asyncio.sleep(_COUNT_SECONDS)
            for connection in self.present():
                connection.count_memory()
            relieve()
            for connection in sorted(self.present(), key=_weight, reverse=True):
                if _weight(connection) < _MOST_WAITING or not connection.share.over:
                    break
                connection.abort(CloseReason.TOO_SLOW)
            if self._trimmer.look(self._process.memory_bytes(), budget.bytes):
                self._memory = (0.0, 0)

    async def keep_sweeping_idle(self) -> None:
        """Close connections on which nothing was delivered and nothing received for so long."""
        while True:
            await asyncio.sleep(self.config.cleanup_interval)
            before = time.monotonic() - self.config.max_idle_time
            for connection in tuple(self.connections.values()):
                if connection.ending is None and connection.last_activity < before:
                    connection.close(CloseReason.IDLE)

    async def drain(self, seconds: float) -> None:
        """Tell everybody that this server stops, all at once, and wait until they are gone."""
        self.draining = True
        self._emptied = asyncio.Event()
        for connection in self.present():
            connection.close(CloseReason.DRAINED)
        if self.connections:
            try:
                await asyncio.wait_for(self._emptied.wait(), seconds)
            except TimeoutError:
                for connection in self.present():
                    connection.abort(CloseReason.DRAINED)
        self.log_refusals()

    def present(self) -> Iterable[Connection]:
        """The connections of now, safe to end while walking."""
        return tuple(self.connections.values())


def _weight(connection: Connection) -> int:
    return connection.counted_input + connection.counted_unsent


def _most_descriptors() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft
