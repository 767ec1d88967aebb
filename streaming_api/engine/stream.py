"""Stream: a bounded, numbered, replayable log of messages. Knows no viewers and no sockets."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable

import attrs

from streaming_api.engine.backlog import Backlog
from streaming_api.engine.budget import NOBODY, Account
from streaming_api.wire.messages import Encoder, Message


class Policy(enum.Enum):
    """What is owed to a viewer whose cursor has fallen off the backlog."""

    LOSSLESS = "lossless"
    """Every message or an honest end: a gap message, then the connection is closed."""
    HISTORY = "history"
    """A gap message, then the oldest message that is retained."""
    LATEST = "latest"
    """The newest snapshot."""


@attrs.frozen
class Retention:
    """How much a stream keeps.

    Attributes:
        bytes: at most this much payload.
        messages: at most this many.
        seconds: how long a message of a topic is kept, or a chat after its end.
    """

    bytes: int
    messages: int
    seconds: float


class Stream:
    """A bounded, numbered, replayable log of messages.

    Args:
        encoder: writes its messages, and knows its name.
        account: counts the memory of its backlog, and of what its viewers share.
        snapshot: makes the JSON of ``data`` for the whole state now (topics).

    Attributes:
        name: its ``stream_id``.
        total: the number of messages that were ever on it.
        evicted: the highest number that has been dropped; 0 while none has been.
        last: the number of its last message, once it has ended; 0 before.
        request_id: the id of the chat request, on a chat.
    """

    __slots__ = (
        "_backlog",
        "_encoder",
        "_most_bytes",
        "_most_messages",
        "_snapshot",
        "_state",
        "account",
        "end_cursor",
        "evicted",
        "last",
        "message_type",
        "name",
        "policy",
        "request_id",
        "retention",
        "total",
    )  # fmt: skip

    def __init__(
        self,
        encoder: Encoder,
        policy: Policy,
        retention: Retention,
        *,
        snapshot: Callable[[], bytes] | None = None,
        account: Account = NOBODY,
    ) -> None:
        self.name = encoder.stream
        self.message_type = encoder.message_type
        self.policy = policy
        self.keep(retention)
        self.request_id = encoder.request_id
        self._snapshot = snapshot
        self._state: Message | None = None
        self.account = account
        self.total = 0
        self.evicted = 0
        self.last = 0
        self.end_cursor: int | None = None
        self._encoder = encoder
        self._backlog = Backlog(encoder, account)

    def keep(self, retention: Retention) -> None:
        """Keep so much from now on."""
        self.retention = retention
        self._most_bytes, self._most_messages = retention.bytes, retention.messages

    def __len__(self) -> int:
        return len(self._backlog)

    @property
    def size(self) -> int:
        """Bytes of payload in the backlog."""
        return self._backlog.bytes

    def __repr__(self) -> str:
        return f"<Stream {self.name} {len(self)} messages, {self.size} bytes>"

    def state(self, number: int, cursor: int) -> Message | None:
        """Return the state as of the newest message, made once for all who join before the next.

        Args:
            number: number of the newest message on the whole channel.
            cursor: the cursor of a viewer once the state has been shown to it.
        """
        if self._snapshot is None:
            return None
        if self._state is None or self._state.number != number:
            self._state = self._encoder.encode(number, self._snapshot(), time.monotonic())
        state = self._state
        if cursor == number:
            return state
        return self._encoder.encode(number, state.data, state.appended, cursor)

    def longest_gap(self) -> float:
        """Return the seconds of the longest silence between two messages that are kept."""
        return self._backlog.longest_gap()

    def encode(self, number: int, data: bytes) -> bytes:
        """Return a message as JSON, for the store to keep before it is shown."""
        return self._encoder.encode(number, data, time.monotonic()).payload

    def extend(self, number: int, data: Iterable[bytes], now: float) -> list[Message]:
        """Append messages to the backlog, numbered from ``number`` on."""
        messages = self._encoder.encode_all(number, data, now)
        self._backlog.add(messages)
        self.total += len(messages)
        return messages

    def take(self, number: int, payloads: Iterable[bytes], now: float) -> list[Message]:
        """Append messages that another process has encoded, numbered from ``number`` on."""
        again = self._encoder.again
        messages = [again(at, payload, now) for at, payload in enumerate(payloads, number)]
        self._backlog.add(messages)
        self.total += len(messages)
        return messages

    def settle(self) -> None:
        """Keep what there is for as long as it takes: the stream has ended."""
        self._backlog.seal()

    def payloads(self, cursor: int, until: int, limit: int) -> tuple[int, list[bytes]]:
        """Return what `after` does, encoded: the first number, and the payloads from there on."""
        return self._backlog.payloads(cursor, until, limit)

    def overfull(self, now: float) -> bool:
        """Return whether the backlog exceeds its retention; a last message may always stay."""
        backlog = self._backlog
        return (
            (backlog.bytes > self._most_bytes and not (self.last and len(backlog) == 1))
            or backlog.count > self._most_messages
            or (
                self.policy is not Policy.LOSSLESS
                and bool(backlog)
                and now - backlog.since > self.retention.seconds
            )
        )

    def evict(self, now: float, needed_from: int) -> bool:
        """Drop the oldest messages down to the retention, but none from ``needed_from`` on.

        Returns:
            Whether the backlog still exceeds its retention because a viewer needs it.
        """
        while self.overfull(now):
            if self._backlog.oldest >= needed_from:
                return True
            self.evicted = self._backlog.oldest
            self._backlog.drop()
        return False

    def drop_before(self, number: int) -> None:
        """Drop the messages below a number."""
        while self._backlog and self._backlog.oldest < number:
            self.evicted = self._backlog.oldest
            self._backlog.drop()

    def after(self, cursor: int, until: int, limit: int) -> list[Message]:
        """Return messages above ``cursor`` up to ``until``: at least one, about ``limit`` bytes."""
        messages = self._backlog.after(cursor, until, limit)
        if self.last and messages and messages[-1].number == self.last:
            messages[-1].final = True
            messages[-1].cursor = self.end_cursor or self.last
        return messages
