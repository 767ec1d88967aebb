"""Connection: one client's transport, who watches on it, and what it was sent. Knows no HTTP.

aiohttp answers the request that opens a connection; then the transport is handed to one of these
(`streaming_api.web.takeover`), and from there a delivery is one ``transport.write``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from mypy_extensions import mypyc_attr

from streaming_api.connections.endings import CloseReason

if TYPE_CHECKING:
    from streaming_api.access.client import Client
    from streaming_api.config import StreamingConfig
    from streaming_api.connections.turns import Turns
    from streaming_api.engine.budget import Budget
    from streaming_api.engine.sink import Watcher
    from streaming_api.errors import ApiError
    from streaming_api.wire.checksum import Checksum
    from streaming_api.wire.framing import Framing

MOST_UNSENT: Final = 16 * 2**20
"""Unsent bytes above which a client that keeps asking and reads nothing is dropped."""


class Registry(Protocol):
    """What a connection needs of the registry of all connections, `ConnectionManager`. A type.

    Attributes:
        config: the limits.
        leaving: whether this server will stop soon.
        draining: whether it is stopping now.
        http: makes what answers the next request on a connection whose response is complete.
        budget: counts what is held for clients.
        turns: where connections that have used up their part of a turn of the loop go on reading.
    """

    budget: Budget
    config: StreamingConfig
    leaving: bool
    draining: bool
    http: Callable[[], asyncio.Protocol] | None
    turns: Turns

    def heartbeat_at(self, connection: Connection, due: float) -> None:
        """Ask a connection for its heartbeat again at this time."""

    def refused(self, error: ApiError, address: str, owner: str) -> None:
        """Count an error of the client at this address if it is a refusal."""

    def removed(self, connection: Connection) -> None:
        """Note that a connection's transport is gone."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Connection:
    """What WebSocket and SSE connections have in common.

    It is its transport's protocol, as `asyncio.Protocol` describes one, without subclassing it:
    compiled, its attributes are fields, unlike those of a class with Python's own bases.

    Attributes:
        kind: ``websocket`` or ``sse``.
        comes_back: whether its client connects again by itself, and goes on where it was.
        share: the share that its memory counts towards.
        counted_input, counted_unsent: how much of each `count_memory` has counted.
        opening: bytes that go ahead of whatever is written first, along with it.
        paused: whether the transport holds more than ``buffer_size`` unsent bytes.
        progress: bytes that the kernel had taken at the stall sweep's last progress, and when.
        ending: why it ends, once it ends.
    """

    kind: ClassVar[str]
    comes_back: ClassVar[bool] = False

    __slots__ = (
        "_bytes",
        "_delivered",
        "_last_write",
        "_messages",
        "client",
        "counted_input",
        "counted_unsent",
        "ending",
        "framing",
        "manager",
        "number",
        "opened",
        "opening",
        "path",
        "paused",
        "progress",
        "received",
        "share",
        "transport",
        "viewers",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, manager: Registry, client: Client, framing: Framing, path: str) -> None:
        self.manager = manager
        self.client = client
        self.framing = framing
        self.path = path
        self.share = manager.budget.share(client.name)
        self.counted_input = self.counted_unsent = 0
        self.number = 0
        self.opened = self.received = time.monotonic()
        self.opening = b""
        self.paused = False
        self.ending: CloseReason | None = None
        self.viewers: set[Watcher] = set()
        self.progress: tuple[int, float] = (0, self.opened)
        self._messages = 0
        self._bytes = 0
        self._last_write = self._delivered = self.opened

    def __repr__(self) -> str:
        state = self.ending or ("paused" if self.paused else "open")
        return f"<{type(self).__name__} {self.number} {self.path} {state}>"

    # Writing

    def write(self, data: bytes) -> None:
        """Write bytes that are already framed."""
        if self.opening:
            data, self.opening = self.opening + data, b""
        self.transport.write(data)
        self._bytes += len(data)
        self._last_write = time.monotonic()

    def send_opening(self) -> None:
        """Write what goes ahead of the first message, if there was none for it to go along with."""
        if self.opening:
            self.write(b"")

    def send(self, payload: bytes, message_type: str) -> None:
        """Write a message that is on no stream: a notice or an error, for this client alone."""
        if self.ending is not None:
            return
        if self.unsent > MOST_UNSENT:
            self.abort(CloseReason.STALLED)
            return
        self._messages += 1
        self.write(self.framing.notice(payload, message_type))
        self._delivered = self._last_write

    def add_plain(self, plain: bytes) -> None:  # noqa: ARG002 (gzip sums it up)
        """Note what was written compressed, to this client alone: no shared window has it."""
        for viewer in self.viewers:
            viewer.spoil()

    def add_checksum(self, written: Checksum) -> None:
        """Add the checksum of what was written to a live viewer."""

    def count(self, messages: int, size: int, when: float) -> None:
        """Add the counts of a viewer."""
        self._messages += messages
        self._bytes += size
        self._delivered = max(self._delivered, when)
        self._last_write = max(self._last_write, when)

    def pause_writing(self) -> None:
        """Write nothing more until the transport drains: it is over the high-water mark."""
        self.paused = True
        self.count_memory()
        for viewer in self.viewers:
            viewer.fall_behind()

    def resume_writing(self) -> None:
        """Let the viewers read on: the transport has drained."""
        self.paused = False
        for viewer in tuple(self.viewers):
            viewer.catch_up()

    # Figures

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size()

    @property
    def unread(self) -> int:
        """Bytes in memory that wait for the rest of what the client sends."""
        return 0

    def count_memory(self) -> None:
        """Count the bytes that wait here, in both directions."""
        self._count(self.unread, self.unsent)

    def _count(self, unread: int, unsent: int) -> None:
        budget = self.manager.budget
        self.share.charge(unread - self.counted_input, budget.input)
        self.share.charge(unsent - self.counted_unsent, budget.unsent)
        self.counted_input, self.counted_unsent = unread, unsent

    @property
    def last_write(self) -> float:
        """Monotonic time in seconds of the last write."""
        return max([self._last_write, *(viewer.last_write for viewer in self.viewers)])

    @property
    def last_activity(self) -> float:
        """Monotonic time in seconds of the last delivery or message, heartbeats aside."""
        return max([self.received, self._delivered, *(v.last_write for v in self.viewers)])

    def sent(self) -> tuple[int, int]:
        """Return the messages and bytes written so far."""
        messages, size = self._messages, self._bytes
        for viewer in self.viewers:
            more, bytes_more = viewer.sent()
            messages += more
            size += bytes_more
        return messages, size

    @property
    def lag(self) -> int:
        """Number of messages that have not been written to its slowest viewer."""
        return max((viewer.lag for viewer in self.viewers), default=0)

    # Ending

    def finished(self, viewer: Watcher) -> None:
        """Note that a viewer has been written the whole of a channel that has ended."""

    def close(self, ending: CloseReason) -> None:
        """Say goodbye as the protocol requires, then end."""
        raise NotImplementedError

    def too_slow(self) -> None:
        """End: a lossless stream has moved on without this client."""
        self.close(CloseReason.TOO_SLOW)

    def heartbeat(self, now: float) -> float:
        """Send a heartbeat if one is due. Return the monotonic time at which to ask again."""
        raise NotImplementedError

    def abort(self, ending: CloseReason) -> None:
        """Drop the connection at once, together with what is unsent."""
        if self.ending is None or self.unsent:
            self.ending = ending
        self.leave_all()
        self.transport.abort()
        self._count(0, 0)  # what it holds goes with it

    def leave_all(self) -> None:
        """Make all viewers leave: nobody watches here any more."""
        for viewer in tuple(self.viewers):
            viewer.leave()

    # What the transport calls besides `pause_writing` and `resume_writing`

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the client."""
        raise NotImplementedError

    def eof_received(self) -> None:
        """Note that the client will send no more; the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the transport is gone, whoever ended it."""
        if self.ending is None:
            self.ending = CloseReason.CLIENT if exc is None else CloseReason.BROKEN
        self.leave_all()
        self._count(0, 0)
        self.manager.removed(self)
