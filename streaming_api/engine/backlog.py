"""Backlog: the messages of one stream that are kept, oldest first. Knows no viewers, no limits."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from operator import sub
from typing import Final

from streaming_api.engine.budget import ANSWER_BYTES, MESSAGE_BYTES, NOBODY, Account
from streaming_api.wire.messages import Encoder, Message

_BLOCK: Final = 16 * 2**10
"""Bytes of payloads that are joined to a block."""
_CUT: Final = 256
"""Dropped messages after which the front of the columns is cut off."""


class Backlog:
    """Kept messages in three columns, and their payloads joined to blocks; made again to be read.

    Not as objects: the garbage collector would visit each in each of its passes
    (docs/benchmarks.md), and CPython's allocator gives what has 512 bytes or less back by the MiB,
    so that a single number which is still in use keeps all that was freed around it.

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
        "_all", "_appended", "_begins", "_blocks", "_bounds", "_numbers", "_own", "_share",
        "_start", "_tail", "account", "bytes", "count", "encoder",
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
        self._bounds = array("q", [0])  # where each payload begins, and where the last one ends
        self._appended = array("d")
        self._blocks: list[bytes] = []
        self._begins = array("q", [0])  # where each block begins, and where the tail does
        self._tail: list[bytes] = []  # payloads that are in no block yet
        self._start = 0  # the columns begin here: what was dropped is cut off in large pieces

    def __del__(self) -> None:
        """Release its bytes, now that not even a slow viewer of an evicted answer holds it."""
        self.account.charge(-(ANSWER_BYTES + self.bytes + len(self) * MESSAGE_BYTES))

    def __len__(self) -> int:
        return self.count

    def add(self, messages: list[Message]) -> None:
        """Keep messages, newer than all before them."""
        count = 0
        begin = end = self._bounds[-1]
        for message in messages:
            count += 1
            end += len(message.payload)
            self._tail.append(message.payload)
            self._numbers.append(message.number)
            self._bounds.append(end)
            self._appended.append(message.appended)
        if end - self._begins[-1] >= _BLOCK:
            self.seal()
        self.count += count
        self.bytes += end - begin
        grown = end - begin + count * MESSAGE_BYTES
        self._own.bytes += grown  # the same as the account's `charge`, without a call
        self._share.bytes += grown
        self._all.bytes += grown
        self.account.kind.bytes += grown

    def seal(self) -> None:
        """Join what has come since the last time to a block."""
        if self._tail:
            self._blocks.append(b"".join(self._tail))
            self._begins.append(self._bounds[-1])
            self._tail = []

    @property
    def oldest(self) -> int:
        """Number of the oldest message that is kept."""
        return self._numbers[self._start]

    @property
    def since(self) -> float:
        """Monotonic time in seconds at which the oldest message came."""
        return self._appended[self._start]

    def longest_gap(self) -> float:
        """Return the seconds of the longest silence between two messages that are kept."""
        times = self._appended[self._start :]
        return max(map(sub, times[1:], times), default=0.0)

    def drop(self) -> None:
        """Forget the oldest message."""
        start = self._start
        size = self._bounds[start + 1] - self._bounds[start]
        self.bytes -= size
        self.count -= 1
        self.account.charge(-size - MESSAGE_BYTES)
        self._start = start + 1
        if self._bounds[start] >= self._begins[-1]:
            self.seal()
        if self._bounds[start + 1] >= self._begins[1]:
            del self._blocks[0]
            del self._begins[0]
        if start > _CUT:
            del self._numbers[: start + 1]
            del self._bounds[: start + 1]
            del self._appended[: start + 1]
            self._start = 0

    def payloads(self, cursor: int, until: int, limit: int) -> tuple[int, list[bytes]]:
        """Return the same as `after` in bytes: the first number, and the payloads from there on."""
        first, last = self._between(cursor, until, limit)
        return (self._numbers[first] if first < last else cursor + 1), self._read(first, last)

    def after(self, cursor: int, until: int, limit: int) -> list[Message]:
        """Return messages above ``cursor`` up to ``until``: at least one, about ``limit`` bytes."""
        first, last = self._between(cursor, until, limit)
        again, numbers, times = self.encoder.again, self._numbers, self._appended
        return [
            again(numbers[at], payload, times[at])
            for at, payload in enumerate(self._read(first, last), first)
        ]

    def _between(self, cursor: int, until: int, limit: int) -> tuple[int, int]:
        """Return where the messages of `after` begin, and where they end."""
        numbers, bounds = self._numbers, self._bounds
        first = bisect_right(numbers, cursor, lo=self._start)
        last = bisect_right(numbers, until, lo=first)
        return first, min(last, bisect_left(bounds, bounds[first] + limit, first, last))

    def _read(self, first: int, last: int) -> list[bytes]:
        """Return the payloads from one place in the columns to another."""
        bounds, begins = self._bounds, self._begins
        read: list[bytes] = []
        at = first
        block = bisect_right(begins, bounds[first]) - 1
        while at < last and block < len(self._blocks):
            payloads, begin = self._blocks[block], begins[block]
            end = bisect_left(bounds, begins[block + 1], at, last)
            read += [payloads[bounds[i] - begin : bounds[i + 1] - begin] for i in range(at, end)]
            at, block = end, block + 1
        if at < last:
            tail = len(bounds) - 1 - len(self._tail)
            read += self._tail[at - tail : last - tail]
        return read
