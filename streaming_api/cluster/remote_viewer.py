"""Remote viewer: another process that shows an answer of this one. It watches like any viewer.

It stands among the lagging viewers of the channel, so that backpressure, the grace period and
queue notices work as they do for a client; its cursor is that of its fastest viewer, once a second.
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
"""Without a word for so long it is taken to be gone."""

Send = Callable[[bytes], None]


class _Inbox:
    """The connection of a remote viewer: notices go to the other process' inbox."""

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
        """Nothing is counted here."""

    def add_plain(self, plain: bytes) -> None:
        """There is no checksum."""

    def add_checksum(self, written: Checksum) -> None:
        """There is none."""

    def finished(self, viewer: object) -> None:
        """It sees the end in the store."""

    def too_slow(self) -> None:
        """It reads the store."""


class RemoteViewer:
    """Another process that shows a channel.

    Args:
        send: tells it a notice.
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
        """Messages that its viewers have not been written."""
        return self.channel.number - self.cursor

    def report(self, cursor: int) -> None:
        """It is still there, and so far."""
        self.heard = time.monotonic()
        self.cursor = cursor
        self.channel.progressed()

    def leave(self) -> None:
        """Its last viewer has left, or nothing was heard of it."""
        if not self.gone:
            self.gone = True
            self.channel.leave(self)  # type: ignore[arg-type]
