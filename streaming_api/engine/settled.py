"""Settled backlog: that of a stream which has ended, in one block that goes back to the system.

CPython's allocator gives memory back by the MiB, and a single number that is still in use keeps
one; so small messages that were kept for a while left most of their memory behind. A block of this
size comes from the system itself (``mmap``), and goes back to it as a whole.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import accumulate
from typing import Final

from streaming_api.engine.backlog import Backlog
from streaming_api.engine.budget import MESSAGE_BYTES
from streaming_api.wire.messages import Message

_CUT: Final = 256
"""Dropped messages after which the front of the block may be cut off."""


class Settled(Backlog):
    """A backlog that nothing is added to any more.

    Args:
        grown: the backlog as it is now.
    """

    __slots__ = ("_block", "_ends")

    def __init__(self, grown: Backlog) -> None:
        super().__init__(grown.encoder, grown.account)
        self._numbers, payloads, self._appended = grown.columns()
        self.bytes, self.count = grown.bytes, grown.count
        self.account.charge(self.bytes + len(payloads) * MESSAGE_BYTES)
        self._block = b"".join(payloads)
        self._ends = array("q", accumulate(map(len, payloads), initial=0))

    def add(self, messages: list[Message]) -> None:
        """Refuse messages: none follow the last."""
        raise NotImplementedError

    def drop(self) -> None:
        """Forget the oldest message."""
        size = self._ends[self._start + 1] - self._ends[self._start]
        self.bytes -= size
        self.count -= 1
        self.account.charge(-size - MESSAGE_BYTES)
        self._start += 1
        if self._start > _CUT and self._start > len(self._numbers) // 2:
            cut = self._ends[self._start]
            self._block = self._block[cut:]
            self._ends = array("q", (end - cut for end in self._ends[self._start :]))
            self._numbers = self._numbers[self._start :]
            self._appended = self._appended[self._start :]
            self._start = 0

    def payloads(self, cursor: int, until: int, limit: int) -> tuple[int, list[bytes]]:
        """See `Backlog.payloads`."""
        first, last = self._between(cursor, until, limit)
        number = self._numbers[first] if first < last else cursor + 1
        return number, [self._payload(at) for at in range(first, last)]

    def after(self, cursor: int, until: int, limit: int) -> list[Message]:
        """See `Backlog.after`."""
        first, last = self._between(cursor, until, limit)
        again, numbers, times = self.encoder.again, self._numbers, self._appended
        return [again(numbers[at], self._payload(at), times[at]) for at in range(first, last)]

    def _between(self, cursor: int, until: int, limit: int) -> tuple[int, int]:
        """Return where the messages of `after` begin, and where they end."""
        numbers, ends = self._numbers, self._ends
        first = last = bisect_right(numbers, cursor, lo=self._start)
        most = ends[first] + limit if first < len(numbers) else 0
        while last < len(numbers) and ends[last] < most and numbers[last] <= until:
            last += 1
        return first, last

    def _payload(self, at: int) -> bytes:
        return self._block[self._ends[at] : self._ends[at + 1]]
