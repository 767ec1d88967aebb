"""Rates: token buckets, by name. Monotonic time."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

_BUCKETS: Final = 10_000


class Bucket:
    """A token bucket: ``rate`` a second on average, ``burst`` at once; monotonic time.

    Attributes:
        taken: tokens taken that other processes do not know of.
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_when", "taken")

    def __init__(self, rate: float, burst: float) -> None:
        self.taken = 0.0
        self._rate = rate
        self._burst = self._tokens = burst
        self._when = time.monotonic()

    def take(self, count: float = 1) -> float:
        """Take tokens; return 0, or the seconds until there are enough of them.

        A request for more than the bucket can ever hold succeeds when the bucket is full.
        """
        if not self._rate:
            return 0.0
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._when) * self._rate)
        self._when = now
        wanted = min(count, self._burst)
        if self._tokens >= wanted:
            self._tokens -= count
            self.taken += count
            return 0.0
        return (wanted - self._tokens) / self._rate

    def owe(self, count: float) -> None:
        """Take tokens for what has been let in; whoever comes next waits until they are back."""
        self._tokens -= count
        self.taken += count

    def replace(self, tokens: float) -> None:
        """Replace the tokens that are left here by those that all processes have left."""
        self._tokens = tokens
        self._when = time.monotonic()


class Buckets:
    """Token buckets by name; the least recently used are forgotten first.

    Attributes:
        rate: tokens a second in each; 0 for no limit.
        burst: the most that each can hold.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def get(self, name: str) -> Bucket:
        """Return the bucket of this name."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(self.rate, self.burst)
            if len(self._buckets) > _BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        return bucket

    def used(self) -> dict[str, Bucket]:
        """Return the buckets from which something was taken that other processes do not know of."""
        if not self.rate:
            return {}
        return {name: bucket for name, bucket in self._buckets.items() if bucket.taken}
