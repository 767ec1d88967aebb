"""Budget: memory held for clients, counted in one place, of all and of each key or address. Pure.

Counted is what it takes in memory: the overheads below were measured with tracemalloc
(docs/decisions/0021-memory-and-work-are-budgets.md). The hot path adds to two numbers and compares
two; whatever is not known as an addition is looked at four times a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from streaming_api.errors import TooMany, Unavailable

MESSAGE_BYTES: Final = 112
"""A message's number, time, three list slots and ``bytes`` header, beside its payload."""
ANSWER_BYTES: Final = 8 * 2**10
"""An answer beside its messages and its request: objects, task, queue entry."""
KINDS: Final = ("requests", "running", "kept", "evicted", "input", "unsent")
_UNLIMITED: Final = 2**62
_PARTS: Final = 4
"""No key and no address gets more than a quarter."""


class Share:
    """What is held for one key or address.

    Attributes:
        bytes: all of it.
        limit: what it may be.
    """

    __slots__ = ("__weakref__", "budget", "bytes", "limit")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.bytes = 0
        self.limit = budget.limit // _PARTS

    @property
    def over(self) -> bool:
        """Whether this share, or the whole, is above its limit."""
        return self.bytes > self.limit or self.budget.bytes > self.budget.limit

    def charge(self, size: int) -> None:
        """Count so many bytes more, or fewer."""
        self.bytes += size
        self.budget.bytes += size

    def check(self, size: int) -> None:
        """Nothing, if so much more may be begun.

        Raises:
            TooMany: this key or address holds its share.
            Unavailable: everybody's is used up, or the process is short of memory.
        """
        short = self.budget.bytes + size > self.budget.limit or self.budget.is_short()
        if short or self.bytes + size > self.limit:
            self.budget.refused()
        if self.bytes + size > self.limit:
            message = "Too much is held for this key or address; let answers end, then try again."
            raise TooMany(message, "memory", retry_after=5)
        if short:
            message = "The server is short of memory; try again later."
            raise Unavailable(message, "memory", retry_after=30)


class Budget:
    """All that is held for clients.

    Args:
        limit: bytes.

    Attributes:
        bytes: held now.
        requests, input, unsent: parts of it; what remains are answers.
        refused: called for each start or body that is refused.
        is_short: whether the process as a whole is near its limit.
    """

    def __init__(self, limit: int = _UNLIMITED) -> None:
        self.limit = limit
        self.bytes = 0
        self.requests = 0
        self.input = 0
        self.unsent = 0
        self.is_short: Callable[[], bool] = bool
        self.refused: Callable[[], object] = bool
        self._shares: WeakValueDictionary[str, Share] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Budget {self.bytes} of {self.limit} bytes>"

    def share(self, name: str) -> Share:
        """The share of this key or address; it lasts as long as somebody has it."""
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = Share(self)
        return share

    def held(self, running: int, kept: int) -> dict[str, int]:
        """By `KINDS`; what of all answers neither runs nor is kept is read by slow viewers."""
        answers = self.bytes - self.requests - self.input - self.unsent
        return {
            "requests": self.requests,
            "running": running,
            "kept": kept,
            "evicted": max(0, answers - running - kept),
            "input": self.input,
            "unsent": self.unsent,
        }


NOBODY: Final = Share(Budget())
"""For what has a limit of its own: the topics."""
