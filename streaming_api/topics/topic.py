"""Topic: what the topics have in common, a state and its stream. Knows no source and no viewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Policy, Retention, Stream

Note = Callable[[str, str, str | None], None]
"""Notes an event: what happened, to whom, and the severity if it has one."""


def ignore(_event: str, _name: str, _severity: str | None) -> None:
    """Ignore the event."""


class Topic:
    """State that viewers can watch: a snapshot when they join, then each change.

    A topic that is switched off is never opened: it keeps its state but publishes nothing.
    """

    name: ClassVar[str]
    message_type: ClassVar[str]
    policy: ClassVar[Policy]

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._stream: Stream | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._stream or 'switched off'}>"

    @property
    def is_open(self) -> bool:
        """Whether the topic is published."""
        return self._stream is not None

    def open(self, channel: Channel, retention: Retention) -> None:
        """Publish on this channel from now on."""
        self._channel = channel
        stream = Stream(
            channel.epoch,
            self.name,
            self.message_type,
            self.policy,
            retention,
            snapshot=self.snapshot,
        )
        self._stream = channel.add(stream)

    def snapshot(self) -> bytes:
        """Return the JSON of the whole state now."""
        raise NotImplementedError

    def publish(self, *changes: bytes, urgent: bool = False) -> None:
        """Append changes, after the state has changed; `Stream.state` relies on that order."""
        if self._stream is not None and self._channel is not None and changes:
            self._channel.append(self._stream, changes, urgent=urgent)
