"""Sink: what a viewer needs of the connection it is shown on. A type: nothing inherits it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streaming_api.engine.viewer import Viewer
    from streaming_api.wire.checksum import Checksum
    from streaming_api.wire.framing import Framing


class Sink(Protocol):
    """A client's end of one or more viewers.

    Attributes:
        kind: ``websocket`` or ``sse``.
        framing: how messages are framed for it.
        transport: takes the bytes.
        paused: whether the transport is over its high-water mark.
        viewers: those that are shown on it.
    """

    framing: Framing
    transport: asyncio.Transport
    paused: bool
    viewers: set[Viewer]

    @property
    def kind(self) -> str:
        """Return ``websocket`` or ``sse``."""

    @property
    def unsent(self) -> int:
        """Return how many bytes the kernel has not taken yet."""

    def send(self, payload: bytes, message_type: str) -> None:
        """Write a message that is on no stream."""

    def count(self, messages: int, size: int, when: float) -> None:
        """Add what a viewer has counted: messages, bytes, and when they were written."""

    def add_plain(self, plain: bytes) -> None:
        """Add bytes that were written compressed to the checksum."""

    def add_checksum(self, written: Checksum) -> None:
        """Add to the checksum what a live viewer was written."""

    def finished(self, viewer: Viewer) -> None:
        """Note that everything of a channel that has ended has been written."""

    def too_slow(self) -> None:
        """End: a lossless stream has moved on without this client."""
