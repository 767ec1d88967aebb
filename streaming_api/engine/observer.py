"""DeliveryObserver: what is notified of writes to viewers. A type: nothing inherits it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streaming_api.engine.sink import Watcher
    from streaming_api.wire.messages import Message

Writes = tuple[tuple["Watcher", Callable[[bytes], None]], ...]
"""The viewers that one flush has written to, each with its transport's ``write``."""


class DeliveryObserver(Protocol):
    """Is notified of deliveries, both live and out of the backlog."""

    def delivered(self, batch: Sequence[Message], writes: Writes) -> None:
        """Note that a flush has written a batch to live viewers."""

    def delivered_late(self, viewer: Watcher, messages: Sequence[Message]) -> None:
        """Note that messages out of the backlog have been written to a lagging viewer."""


class Recorder(Protocol):
    """Copies what is on a channel to another place, with a cursor of its own."""

    def flushed(self) -> None:
        """Note that a batch has been written to the live viewers."""

    def needed(self) -> int:
        """Return the number from which on it still needs the backlog."""
