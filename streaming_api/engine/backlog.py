"""Backlog: the messages of one stream that are kept, oldest first. Knows no viewers, no limits."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from operator import sub
from typing import Final

from streaming_api.engine.budget import ANSWER_BYTES, MESSAGE_BYTES, NOBODY, Account
from streaming_api.wire.messages import Encoder, Message

_CUT: Final = 256
"""Dropped messages after which the front of the lists is cut off."""


class Backlog:
    """Kept messages in three columns; a `Message` is made again for each reader.

    Numbers and bytes cost the garbage collector nothing; kept as objects, messages would be
    visited by each of its passes (docs/benchmarks.md). And a number as an object of its own would
    keep the memory around it from going back to the system (`streaming_api.engine.settled`).

    Args:
        encoder: makes the messages.
        account: counts the memory of the backlog, until the backlog is freed.

    Attributes:
        account: counts its memory.
        bytes: size of the payloads that are kept.
        count: how many messages are kept.
        encoder: makes its messages.
    """

    __slots__ = (
        "_all", "_appended", "_numbers", "_own", "_payloads", "_share", "_start", "account",
        "bytes", "count", "encoder",
    )  # fmt: skip

    def __init__(self, encoder: Encoder, account: Account = NOBODY) -> None:
        self.bytes = self.count = 0
        self.account = account
        self._own = account.tally
        self._share = account.share.tally
        self._all = account.share.budget.tally
        account.charge(ANSWER_BYTES)
        self.encoder = encoder
        self._numbers = array("q")
        self._payloads: list[bytes] = []
        self._appended = array("d")
        self._start = 0  # the backlog begins here: what was dropped is cut off in large pieces

    def __del__(self) -> None:
        """Release its bytes, now that not even a slow viewer of an evicted answer holds it."""
        self.account.charge(-(ANSWER_BYTES + self.bytes + len(self) * MESSAGE_BYTES))

    def __len__(self) -> int:
        return self.count

    def add(self, messages: list[Message]) -> None:
        """Keep messages, newer than all before them."""
        before, count = self.bytes, 0
        for message in messages:
            count += 1
            self.bytes += len(message.payload)
            self._numbers.append(message.number)
            self._payloads.append(message.payload)
            self._appended.append(message.appended)
        grown = self.bytes - before + count * MESSAGE_BYTES
        self.count += count
        self._own.bytes += grown  # the same as the account's `charge`, without a call
        self._share.bytes += grown
        self._all.bytes += grown
        self.account.kind.bytes += grown

    @property
    def oldest(self) -> int:
        """Number of the oldest message that is kept."""
        return self._numbers[self._start]

    @property
    def since(self) -> float:
        """Monotonic time in seconds at which the oldest message came."""
        return self._appended[self._start]

    def columns(self) -> tuple[array[int], list[bytes], array[float]]:
        """Return the numbers, payloads and times of what is kept."""
        begin = self._start
        return self._numbers[begin:], self._payloads[begin:], self._appended[begin:]

    def longest_gap(self) -> float:
        """Return the seconds of the longest silence between two messages that are kept."""
        times = self._appended[self._start :]
        return max(map(sub, times[1:], times), default=0.0)

    def drop(self) -> None:
        """Forget the oldest message."""
        size = len(self._payloads[self._start])
        self.bytes -= size
        self.count -= 1
        self.account.charge(-size - MESSAGE_BYTES)
        self._payloads[self._start] = b""
        self._start += 1
        if self._start > _CUT and self._start > len(self._numbers) // 2:
            del self._numbers[: self._start]
            del self._payloads[: self._start]
            del self._appended[: self._start]
            self._start = 0

    def payloads(self, cursor: int, until: int, limit: int) -> tuple[int, list[bytes]]:
        """Return the same as `after` in bytes: the first number, and the payloads from there on."""
        numbers, payloads = self._numbers, self._payloads
        first = last = bisect_right(numbers, cursor, lo=self._start)
        size = 0
        while last < len(numbers) and size < limit and numbers[last] <= until:
            size += len(payloads[last])
            last += 1
        return (numbers[first] if first < last else cursor + 1), payloads[first:last]

    def after(self, cursor: int, until: int, limit: int) -> list[Message]:
        """Return messages above ``cursor`` up to ``until``: at least one, about ``limit`` bytes."""
        numbers, payloads = self._numbers, self._payloads
        first = bisect_right(numbers, cursor, lo=self._start)
        size = 0
        last = first
        while last < len(numbers) and size < limit and numbers[last] <= until:
            size += len(payloads[last])
            last += 1
        return [
            self.encoder.again(numbers[at], payloads[at], self._appended[at])
            for at in range(first, last)
        ]
