"""Settled backlog: that of a stream which has ended, in one block that goes back to the system.

CPython's allocator gives memory back by the MiB, and a single number that is still in use keeps
one; so small messages that were kept for a while left most of their memory behind. A block of this
size comes from the system itself (``mmap``), and goes back to it as a whole.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from operator import sub
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

    __slots__ = ("_block", "_ends", "_places", "_times")

    def __init__(self, grown: Backlog) -> None:
        super().__init__(grown.encoder, grown.account)
        numbers, payloads, appended = grown.columns()
        self.bytes = grown.bytes
        self.account.charge(self.bytes + len(numbers) * MESSAGE_BYTES)
        self._block = b"".join(payloads)
        self._ends = array("q", accumulate(map(len, payloads), initial=0))
        self._places = array("q", numbers)
        self._times = array("d", appended)

    def __len__(self) -> int:
        return len(self._places) - self._start

    def add(self, messages: Iterable[Message]) -> None:
        """Refuse messages: none follow the last."""
        raise NotImplementedError

    @property
    def oldest(self) -> int:
        """Number of the oldest message that is kept."""
        return self._places[self._start]

    @property
    def since(self) -> float:
        """Monotonic time in seconds at which the oldest message came."""
        return self._times[self._start]

    def longest_gap(self) -> float:
        """Return the seconds of the longest silence between two messages that are kept."""
        times = self._times[self._start :]
        return max(map(sub, times[1:], times), default=0.0)

    def drop(self) -> None:
        """Forget the oldest message."""
        size = self._ends[self._start + 1] - self._ends[self._start]
        self.bytes -= size
        self.account.charge(-size - MESSAGE_BYTES)
        self._start += 1
        if self._start > _CUT and self._start > len(self._places) // 2:
            cut = self._ends[self._start]
            self._block = self._block[cut:]
            self._ends = array("q", (end - cut for end in self._ends[self._start :]))
            self._places = self._places[self._start :]
            self._times = self._times[self._start :]
            self._start = 0

    def payloads(self, cursor: int, until: int, limit: int) -> tuple[int, list[bytes]]:
        """See `Backlog.payloads`."""
        first, last = self._between(cursor, until, limit)
        number = self._places[first] if first < last else cursor + 1
        return number, [self._payload(at) for at in range(first, last)]

    def after(self, cursor: int, until: int, limit: int) -> list[Message]:
        """See `Backlog.after`."""
        first, last = self._between(cursor, until, limit)
        again, places, times = self.encoder.again, self._places, self._times
        return [again(places[at], self._payload(at), times[at]) for at in range(first, last)]

    def _between(self, cursor: int, until: int, limit: int) -> tuple[int, int]:
        """Return where the messages of `after` begin, and where they end."""
        first = bisect_right(self._places, cursor, lo=self._start)
        most = self._ends[first] + limit if first < len(self._places) else 0
        last = first
        while last < len(self._places) and self._ends[last] < most and self._places[last] <= until:
            last += 1
        return first, last

    def _payload(self, at: int) -> bytes:
        return self._block[self._ends[at] : self._ends[at + 1]]
