"""The engine without sockets: a transport, a connection and a clock that do what a test says."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final

import orjson

from streaming_api.access.client import Client
from streaming_api.access.rates import Bucket
from streaming_api.config import StreamingConfig
from streaming_api.connections.connection import Connection
from streaming_api.connections.endings import CloseReason
from streaming_api.connections.manager import ConnectionManager
from streaming_api.engine.channel import Channel
from streaming_api.engine.observer import DeliveryObserver, Writes
from streaming_api.engine.sink import Watcher
from streaming_api.engine.stream import Policy, Retention, Stream
from streaming_api.wire.framing import EVENTS, Framing
from streaming_api.wire.messages import Encoder, Message

EPOCH: Final = "0123456789abcdef"
AMPLE: Final = Retention(bytes=2**30, messages=10**6, seconds=10**6)
"""A retention that nothing here falls off."""

Json = dict[str, Any]


class Clock:
    """Monotonic time that moves on request, and the timers that wait for it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def monotonic(self) -> float:
        """Seconds, as the module ``time`` gives them."""
        return self.now

    def call_later(self, delay: float, work: Callable[[], None]) -> None:
        """Run work when its time has come."""
        self._count += 1
        heapq.heappush(self._timers, (self.now + delay, self._count, work))

    def advance(self, seconds: float) -> None:
        """Move on, and run what is due at its own time."""
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, work = heapq.heappop(self._timers)
            work()
        self.now = until


class Pipe(asyncio.Transport):
    """A transport whose kernel takes everything, or ``room`` bytes and no more.

    Attributes:
        room: bytes that are still taken; None for any number.
        unsent: bytes written that are not taken; above ``high`` the protocol is paused.
    """

    def __init__(self, room: int | None = None, high: int = 0) -> None:
        super().__init__()
        self.protocol: Connection | None = None
        self.written: list[bytes] = []
        self.room = room
        self.high = high
        self.unsent = 0
        self.paused = False
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        if self.room is None:
            return
        taken = 0 if self.unsent else min(len(data), self.room)
        self.room -= taken
        self.unsent += len(data) - taken
        if self.unsent > self.high and not self.paused and self.protocol is not None:
            self.paused = True
            self.protocol.pause_writing()

    def take(self, count: int | None) -> None:
        """The kernel has room for so many bytes more, or for any number."""
        if count is None:
            self.unsent, self.room = 0, None
        else:
            taken = min(self.unsent, count)
            self.unsent -= taken
            self.room = (self.room or 0) + count - taken
        if self.paused and not self.unsent and self.protocol is not None:
            self.paused = False
            self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        assert low == 0
        self.high = high

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Shown(Connection):
    """A connection that remembers what happened to it."""

    kind: ClassVar[str] = "sse"

    def __init__(
        self,
        pipe: Pipe | None = None,
        framing: Framing = EVENTS,
        manager: ConnectionManager | None = None,
    ) -> None:
        client = Client("", frozenset(), "127.0.0.1", Bucket(0, 0))
        super().__init__(manager or MANAGER, client, framing, "/test")
        self.pipe = pipe or Pipe()
        self.pipe.protocol = self
        self.transport = self.pipe
        self.finishes = 0
        self.closes: list[CloseReason] = []

    def finished(self, viewer: object) -> None:  # noqa: ARG002 (the signature)
        """Count it."""
        self.finishes += 1

    def close(self, ending: CloseReason) -> None:
        """Note it."""
        self.closes.append(ending)

    def heartbeat(self, now: float) -> float:
        """Send no heartbeat."""
        return now + 60

    def messages(self) -> list[Json]:
        """Everything written so far, as plain events."""
        events = b"".join(self.pipe.written).split(b"\n\n")[:-1]
        return [orjson.loads(event.rpartition(b"\ndata: ")[2]) for event in events]

    def numbers(self) -> list[int]:
        """The ``sequence_id`` of everything on a stream that was written so far."""
        return [message["sequence_id"] for message in self.messages() if "cursor" in message]

    def events(self, name: str) -> list[Json]:
        """The data of every notice or snapshot of this name."""
        found = [message["data"] for message in self.messages()]
        return [data for data in found if data.get("event") == name]


MANAGER: Final = ConnectionManager(StreamingConfig())
"""One for all: nothing here is admitted or counted."""


class Deliveries:
    """An observer that notes each batch that live viewers are written."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], int]] = []

    def delivered(self, batch: Sequence[Message], writes: Writes) -> None:
        self.batches.append(([message.number for message in batch], len(writes)))

    def delivered_late(self, viewer: Watcher, messages: Sequence[Message]) -> None:
        """Nothing: what comes out of the log is not asked about."""


def channel(
    *,
    epoch: str = EPOCH,
    clock: Clock | None = None,
    flush_interval: float = 0.0,
    batch_size: int = 1,
    observer: DeliveryObserver | None = None,
) -> Channel:
    """A channel; without a clock it flushes each append at once."""
    return Channel(
        epoch,
        call_later=(clock or Clock()).call_later,
        flush_interval=flush_interval,
        batch_size=batch_size,
        observer=observer or Deliveries(),
    )


def chat_stream(on: Channel, retention: Retention = AMPLE) -> Stream:
    """A lossless stream, as an answer has."""
    encoder = Encoder("chat_completion", "chat/r", on.epoch, "r")
    return on.add(Stream(encoder, Policy.LOSSLESS, retention))


class State:
    """The state behind a topic's stream: the numbers of its changes; publishes like a topic."""

    def __init__(
        self, on: Channel, name: str, policy: Policy, retention: Retention = AMPLE
    ) -> None:
        message_type = {"metrics": "metrics_update", "alerts": "alert"}.get(name, "status_update")
        self.changes: list[int] = []
        encoder = Encoder(message_type, name, on.epoch)
        stream = Stream(encoder, policy, retention, snapshot=self.snapshot)
        self.channel = on
        self.stream = on.add(stream)

    def snapshot(self) -> bytes:
        """The whole state."""
        return orjson.dumps({"event": "snapshot", "changes": self.changes})

    def change(self, pad: int = 0, *, urgent: bool = False) -> int:
        """One change more; its number."""
        number = self.channel.number + 1
        self.changes.append(number)
        data = {"event": "changed", "change": number, "pad": "x" * pad}
        self.channel.append(self.stream, (orjson.dumps(data),), urgent=urgent)
        return number


def fold(messages: Iterable[Json], name: str) -> list[int]:
    """The state of a topic that a client has after these messages: what `State.changes` is."""
    state: list[int] = []
    for message in messages:
        data = message["data"]
        if message.get("stream_id") != name:
            continue
        if data["event"] == "snapshot":
            state = list(data["changes"])
        elif data["event"] == "changed":
            state.append(data["change"])
    return state
