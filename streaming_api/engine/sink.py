"""What the engine's parts need of each other: a watcher's and a sink's side. Types alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streaming_api.wire.checksum import Checksum
    from streaming_api.wire.framing import Framing


class Sink(Protocol):
    """A client's end of one or more watchers: its connection.

    Attributes:
        framing: how messages are framed for it.
        transport: takes the bytes.
        opening: bytes that go ahead of whatever is written first, along with it.
        paused: whether the transport is over its high-water mark.
        viewers: those that are shown on it.
    """

    framing: Framing
    transport: asyncio.Transport
    opening: bytes
    paused: bool
    viewers: set[Watcher]

    @property
    def kind(self) -> str:
        """Return ``websocket`` or ``sse``."""

    @property
    def unsent(self) -> int:
        """Return the number of bytes that the kernel has not taken yet."""

    def send(self, payload: bytes, message_type: str) -> None:
        """Write a message that is on no stream."""

    def count(self, messages: int, size: int, when: float) -> None:
        """Add what a watcher has counted: messages, bytes, and the time when they were written."""

    def add_plain(self, plain: bytes) -> None:
        """Note plain bytes that were written compressed, to this client alone."""

    def add_checksum(self, written: Checksum) -> None:
        """Add what was written to a live watcher to the checksum."""

    def finished(self, viewer: Watcher) -> None:
        """Note that everything on a channel that has ended has been written."""

    def too_slow(self) -> None:
        """End the connection: a lossless stream has moved on without this client."""


class Watcher(Protocol):
    """Somebody who watches a channel.

    Attributes:
        connection: where the channel is shown.
        gone: whether it has left.
        since: monotonic time in seconds; an older message counts as due only when it came.
        watched: the names of the streams that it watches.
        kind: that of its connection.
    """

    connection: Sink
    framing: Framing
    since: float
    gone: bool
    kind: str
    watched: frozenset[str]

    @property
    def channel(self) -> object:
        """Return the channel that it watches."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Return its transport's ``write``."""

    @property
    def unsent(self) -> Callable[[], int]:
        """Return its transport's ``get_write_buffer_size``."""

    @property
    def cursor(self) -> int:
        """Return the number up to which everything has been written to it."""

    @property
    def lag(self) -> int:
        """Return the number of messages that have not been written to it yet."""

    @property
    def last_write(self) -> float:
        """Return the monotonic time in seconds of the last flush to it; 0 if it is not live."""

    def sent(self) -> tuple[int, int]:
        """Return the messages and bytes written while live, since it last became live."""

    def caught_up(self) -> None:
        """Leave if the channel has ended and everything has been written."""

    def fall_behind(self) -> None:
        """Read on from the backlog from here on."""

    def catch_up(self) -> None:
        """Read on from the backlog until caught up."""

    def spoil(self) -> None:
        """Make the next message of its audience refer to nothing that was sent before."""

    def pass_checksum(self) -> None:
        """Pass to its connection the checksum of what was written to it while live."""

    def leave(self) -> None:
        """Stop watching."""
