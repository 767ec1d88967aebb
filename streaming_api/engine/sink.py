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
        paused: whether the transport is over its high-water mark.
        viewers: those that are shown on it.
    """

    framing: Framing
    transport: asyncio.Transport
    paused: bool
    viewers: set[Watcher]

    @property
    def kind(self) -> str:
        """Return ``websocket`` or ``sse``."""

    @property
    def unsent(self) -> int:
        """Return how many bytes the kernel has not taken yet."""

    def send(self, payload: bytes, message_type: str) -> None:
        """Write a message that is on no stream."""

    def count(self, messages: int, size: int, when: float) -> None:
        """Add what a watcher has counted: messages, bytes, and when they were written."""

    def add_plain(self, plain: bytes) -> None:
        """Note bytes that were written compressed, to this client alone."""

    def add_checksum(self, written: Checksum) -> None:
        """Add to the checksum what a live watcher was written."""

    def finished(self, viewer: Watcher) -> None:
        """Note that everything on a channel that has ended has been written."""

    def too_slow(self) -> None:
        """End: a lossless stream has moved on without this client."""


class Watcher(Protocol):
    """Somebody who watches a channel.

    Attributes:
        connection: where it is shown.
        gone: whether it has left.
        since: monotonic seconds; what is older was due to it only when it came.
        watched: the names of the streams that it watches.
    """

    connection: Sink
    framing: Framing
    since: float
    gone: bool
    watched: frozenset[str]

    @property
    def channel(self) -> object:
        """Return what it watches."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Return its transport's ``write``."""

    @property
    def cursor(self) -> int:
        """Return the number up to which it has been written."""

    @property
    def lag(self) -> int:
        """Return how many messages it has not been written."""

    @property
    def last_write(self) -> float:
        """Return the monotonic seconds of the last flush to it; 0 if it is not live."""

    def sent(self) -> tuple[int, int]:
        """Return the messages and bytes written while live, since it last became so."""

    def caught_up(self) -> None:
        """Leave, if the channel has ended and everything has been written."""

    def fall_behind(self) -> None:
        """Read on from the log from here on."""

    def catch_up(self) -> None:
        """Read on from the log until caught up."""

    def spoil(self) -> None:
        """Have its audience's next message refer to nothing that was sent before."""

    def settle_checksum(self) -> None:
        """Give its connection the checksum of what it was written while live."""

    def leave(self) -> None:
        """Stop watching."""
