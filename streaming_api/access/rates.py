"""Rates: token buckets, by name. Monotonic time."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Final

_BUCKETS: Final = 10_000


class Bucket:
    """A token bucket: ``rate`` a second on average, ``burst`` at once; monotonic time."""

    __slots__ = ("_burst", "_rate", "_tokens", "_when")

    def __init__(self, rate: float, burst: float) -> None:
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
            return 0.0
        return (wanted - self._tokens) / self._rate


class Buckets:
    """Token buckets by name; the least recently used are forgotten first."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def get(self, name: str) -> Bucket:
        """Return the bucket of this name."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(self._rate, self._burst)
            if len(self._buckets) > _BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        return bucket
