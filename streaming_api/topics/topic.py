"""Topic: what the topics have in common, a state and its stream. Knows no source and no viewer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Policy, Retention, Stream
from streaming_api.wire.messages import Encoder

Note = Callable[[str, str, str | None], None]
"""Notes an event: what happened, to whom, and the severity if it has one."""

Outlet = Callable[[str, tuple[bytes, ...], bool], None]
"""Takes a topic's name, its changes, and whether they are urgent."""

Json = Mapping[str, Any]
"""A change or a state, as read from its JSON."""


def ignore(_event: str, _name: str, _severity: str | None) -> None:
    """Ignore the event."""


class Topic:
    """State that viewers can watch: a snapshot when they join, then each change.

    A topic that is switched off is never opened: it keeps its state but publishes nothing.

    With several processes a topic is made in one place and shown in many. The one that makes it is
    not opened, but passes its changes on (`pass_on`); each one that is shown folds them in.
    """

    name: ClassVar[str]
    message_type: ClassVar[str]
    policy: ClassVar[Policy]

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._stream: Stream | None = None
        self._outlet: Outlet | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._stream or 'switched off'}>"

    @property
    def is_open(self) -> bool:
        """Whether the topic is published."""
        return self._stream is not None or self._outlet is not None

    def open(self, channel: Channel, retention: Retention) -> None:
        """Publish on this channel from now on."""
        self._channel = channel
        encoder = Encoder(self.message_type, self.name, channel.epoch)
        stream = Stream(encoder, self.policy, retention, snapshot=self.snapshot)
        self._stream = channel.add(stream)

    def pass_on(self, outlet: Outlet) -> None:
        """Pass changes on from now on, instead of showing them."""
        self._outlet = outlet

    def snapshot(self) -> bytes:
        """Return the JSON of the whole state now."""
        raise NotImplementedError

    def dump(self) -> bytes:
        """Return JSON from which `fold` restores the whole state."""
        return self.snapshot()

    def fold(self, data: Json) -> None:
        """Take over a change that another topic of this kind has published, or a whole state."""
        raise NotImplementedError

    def publish(self, *changes: bytes, urgent: bool = False) -> None:
        """Append changes, after the state has changed; `Stream.state` relies on that order."""
        if self._stream is not None and self._channel is not None and changes:
            self._channel.append(self._stream, changes, urgent=urgent)
        elif self._outlet is not None and changes:
            self._outlet(self.name, changes, urgent)
