"""Budget: memory held for clients, counted in one place, in total and by key or address. Pure.

Counted is what it takes in memory: the overheads below were measured with tracemalloc
(docs/decisions/0022-memory-and-work-are-budgets.md). The hot path adds to four numbers and compares
two; whatever is not known as an addition is looked at four times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakValueDictionary

from streaming_api.engine.tally import UNLIMITED, Tally
from streaming_api.errors import TooLarge, TooMany, Unavailable

MESSAGE_BYTES: Final = 32
"""Size of a message's number, time and place, beside its payload; what is in no block yet, an
answer's last 16 KiB, takes as much again."""
ANSWER_BYTES: Final = 8 * 2**10
"""Size of an answer beside its messages and its request: objects, task, queue entry."""
KINDS: Final = ("requests", "running", "kept", "evicted", "mirrored", "input", "unsent")
_PARTS: Final = 4
"""No key and no address gets more than a quarter."""
_SETTING: Final = "a quarter of performance.memory_budget_mb"


class _Counted:
    """Something whose bytes are counted in a tally."""

    __slots__ = ("tally",)

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    @property
    def bytes(self) -> int:
        """Everything that is held."""
        return self.tally.bytes

    @property
    def limit(self) -> int:
        """How much may be held."""
        return self.tally.limit


class Share(_Counted):
    """What is held for one key or address.

    Attributes:
        tally: everything that is held, and how much may be held.
        kept: the number of answers that have ended and are kept.
    """

    __slots__ = ("__weakref__", "budget", "kept")

    def __init__(self, budget: Budget) -> None:
        super().__init__(Tally(budget.limit // _PARTS))
        self.budget = budget
        self.kept = 0

    @property
    def over(self) -> bool:
        """Whether this share, or the whole, is above its limit."""
        return not self.fits(0)

    def fits(self, size: int) -> bool:
        """Return whether ``size`` more bytes are within both limits."""
        budget = self.budget
        return self.bytes + size <= self.limit and budget.bytes + size <= budget.limit

    def charge(self, size: int, kind: Tally) -> None:
        """Add ``size`` bytes, which may be negative."""
        self.tally.bytes += size
        self.budget.tally.bytes += size
        kind.bytes += size

    @contextmanager
    def holding(self, size: int, kind: Tally) -> Iterator[None]:
        """Count so many bytes for as long as the block takes."""
        self.charge(size, kind)
        try:
            yield
        finally:
            self.charge(-size, kind)

    def check(self, size: int) -> None:
        """Check that ``size`` more bytes may come in, after giving up what can be given up for it.

        Raises:
            TooLarge: it is more than one client may ever hold.
            TooMany: this key or address holds its whole share.
            Unavailable: the memory of all is used up, requests hold their half, or the process is
                short of memory.
        """
        budget = self.budget
        if size > self.limit:
            message = f"This takes {size} bytes of memory; {self.limit} are allowed ({_SETTING})."
            raise TooLarge(message, "too_large")
        if not self.fits(size):
            budget.relieve(self, size)
        if self.bytes + size > self.limit:
            budget.refused()
            message = "Too much is held for this key or address; let answers end, then try again."
            raise TooMany(message, "memory", retry_after=5)
        if budget.bytes + size > budget.limit or budget.is_short():
            budget.refused()
            message = "The server is short of memory; try again later."
            raise Unavailable(message, "memory", retry_after=30)
        if budget.requests.bytes + budget.input.bytes + size > budget.limit // 2:
            message = "Too many large requests are being sent; try again later."
            raise Unavailable(message, "too_many_bodies", retry_after=5)


class Account(_Counted):
    """What one answer holds: its backlog, and those of its faces.

    Attributes:
        tally: everything that is held.
        kind: the kind that it counts as now.
        share: the share that it counts towards.
    """

    __slots__ = ("kind", "share")

    def __init__(self, share: Share, kind: Tally) -> None:
        super().__init__(Tally())
        self.kind = kind
        self.share = share

    def charge(self, size: int) -> None:
        """Add ``size`` bytes, which may be negative."""
        self.tally.bytes += size
        self.share.charge(size, self.kind)

    def become(self, kind: Tally) -> None:
        """Count as another kind from here on."""
        self.kind.bytes -= self.tally.bytes
        kind.bytes += self.tally.bytes
        self.kind = kind


class Budget(_Counted):
    """All memory that is held for clients.

    Args:
        limit: in bytes.

    Attributes:
        tally: held now, the sum of the kinds; and the limit.
        requests, running, kept, evicted, mirrored, input, unsent: the kinds.
        relieve: makes room in a share for this many bytes, if it can; returns whether there is.
        refused: called for each start or body that is refused.
        is_short: whether the process as a whole is near its limit.
    """

    def __init__(self, limit: int = UNLIMITED) -> None:
        super().__init__(Tally(limit))
        self.requests = Tally()
        self.running = Tally()
        self.kept = Tally()
        self.evicted = Tally()
        self.mirrored = Tally()
        self.input = Tally()
        self.unsent = Tally()
        self.relieve: Callable[[Share, int], bool] = Share.fits
        self.is_short: Callable[[], bool] = bool
        self.refused: Callable[[], object] = bool
        self._shares: WeakValueDictionary[str, Share] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Budget {self.bytes} of {self.limit} bytes>"

    def share(self, name: str) -> Share:
        """Return the share of this key or address; it lasts as long as something refers to it."""
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = Share(self)
        return share

    def held(self) -> dict[str, int]:
        """Return the bytes of each of the `KINDS`."""
        return {
            "requests": self.requests.bytes,
            "running": self.running.bytes,
            "kept": self.kept.bytes,
            "evicted": self.evicted.bytes,
            "mirrored": self.mirrored.bytes,
            "input": self.input.bytes,
            "unsent": self.unsent.bytes,
        }


NOBODY: Final = Account(Share(Budget()), Tally())
"""For what has a limit of its own: the topics."""
