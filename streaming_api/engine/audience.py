"""The live viewers of a channel who get the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from streaming_api.wire.checksum import NO_SUM, Checksum
from streaming_api.wire.messages import Message
from streaming_api.wire.window import Window

if TYPE_CHECKING:
    from streaming_api.engine.budget import Account
    from streaming_api.engine.observer import Writes
    from streaming_api.engine.sink import Watcher
    from streaming_api.wire.framing import Framing


class Audience:
    """Live viewers who get the same bytes: one framing, one subset of the channel's streams.

    What was sent is counted here, once for all of them; a viewer remembers the counts it joined at.

    Attributes:
        writes: the viewers, for each batch; empty after a change, until the next batch.
    """

    __slots__ = (
        "bytes", "framing", "last_write", "messages", "viewers", "watched", "window", "writes",
    )  # fmt: skip

    def __init__(self, framing: Framing, watched: frozenset[str], account: Account) -> None:
        self.framing = framing
        self.watched = watched
        self.viewers: dict[Watcher, Callable[[bytes], None]] = {}
        self.writes: Writes = ()
        self.messages = 0
        self.bytes = 0
        self.last_write = 0.0
        self.window = Window(account.charge) if framing.has_window else None

    def join(self, viewer: Watcher) -> None:
        """Write to a viewer from the next batch on."""
        self.viewers[viewer] = viewer.write
        self.writes = ()
        if self.window is not None:
            self.window.spoiled = True

    def leave(self, viewer: Watcher) -> None:
        """Write no further batch to a viewer."""
        self.viewers.pop(viewer, None)
        self.writes = ()

    @property
    def checksum(self) -> Checksum:
        """The checksum of all that was sent here, where the framing needs one."""
        return NO_SUM if self.window is None else self.window.checksum

    def part(self, batch: list[Message]) -> list[Message]:
        """Return the messages of a batch that these viewers watch."""
        return [message for message in batch if message.stream in self.watched]

    def frame(self, part: list[Message], now: float) -> bytes:
        """Return a part's bytes, counted before any viewer is written to: see `Channel.write`."""
        framing = self.framing
        if self.window is not None:
            data = framing.windowed(part, self.window)
            self._spoil_others()
        else:
            data = framing.message(part[0]) if len(part) == 1 else framing.batch(part)
        if not self.writes:  # who leaves while a batch is written still gets it
            self.writes = tuple(self.viewers.items())
        self.messages += len(part)
        self.bytes += len(data)
        self.last_write = now
        return data

    def _spoil_others(self) -> None:
        """Spoil the windows of others on the same connections: they lack what is sent here."""
        for viewer in self.viewers:
            beside = viewer.connection.viewers
            if len(beside) > 1:
                for other in beside:
                    if other is not viewer:
                        other.spoil()
