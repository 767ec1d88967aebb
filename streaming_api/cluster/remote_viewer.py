"""Remote viewer: another process that shows an answer of this one. It watches like any viewer.

It stands among the lagging viewers of the channel, so that backpressure, the grace period and
queue notices work as they do for a client; once a second it has its fastest viewer's cursor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from streaming_api.wire.framing import EVENTS

if TYPE_CHECKING:
    from streaming_api.engine.channel import Channel
    from streaming_api.wire.checksum import Checksum
    from streaming_api.wire.framing import Framing

SILENCE_SECONDS: Final = 6.0
"""Seconds of silence after which it is taken to be gone."""

Send = Callable[[bytes], None]


class _Inbox:
    """The connection of a remote viewer: notices go to the other process's inbox."""

    kind = "websocket"
    paused = False
    unsent = 0
    framing: Framing = EVENTS

    def __init__(self, send: Send) -> None:
        self.viewers: set[object] = set()
        self._send = send

    def send(self, payload: bytes, message_type: str) -> None:  # noqa: ARG002 (it is in it)
        self._send(payload)

    def count(self, messages: int, size: int, when: float) -> None:
        """Count nothing here."""

    def add_plain(self, plain: bytes) -> None:
        """Do nothing: there is no checksum."""

    def add_checksum(self, written: Checksum) -> None:
        """Do nothing: there is no checksum."""

    def finished(self, viewer: object) -> None:
        """Do nothing: it sees the end in the store."""

    def too_slow(self) -> None:
        """Do nothing: it reads the store."""


class RemoteViewer:
    """Another process that shows a channel.

    Args:
        send: sends it a notice.
    """

    framing: Framing = EVENTS
    watched: frozenset[str] = frozenset()

    def __init__(self, channel: Channel, send: Send) -> None:
        self.channel = channel
        self.connection = _Inbox(send)
        self.cursor = 0
        self.gone = False
        self.since = self.heard = time.monotonic()
        channel.lagging.add(self)  # type: ignore[arg-type]  # it never writes to a transport

    @property
    def lag(self) -> int:
        """Number of messages that have not been written to its viewers."""
        return self.channel.number - self.cursor

    def report(self, cursor: int) -> None:
        """Note that it is still there, and its cursor."""
        self.heard = time.monotonic()
        self.cursor = cursor
        self.channel.progressed()

    def leave(self) -> None:
        """Stop watching: its last viewer has left, or nothing was heard of it."""
        if not self.gone:
            self.gone = True
            self.channel.leave(self)  # type: ignore[arg-type]
