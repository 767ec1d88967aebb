"""Rates that hold in all processes together: local buckets, and one in the store for each of them.

A process takes from its own bucket, at once, and reports what it has taken; what all have left
then replaces what it had left. So each may give a burst before it knows of the others; the store's
bucket goes below zero by that, and whoever has taken too much waits until it is made up for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

if TYPE_CHECKING:
    from streaming_api.access.rates import Bucket, Buckets
    from streaming_api.cluster.connection import Command
    from streaming_api.cluster.store import Store

MOST: Final = 1_000
"""Buckets of one kind that are reconciled in one exchange."""


@attrs.frozen
class _Taken:
    """What was taken from the bucket of one name."""

    key: str
    bucket: Bucket
    count: float


class Rates:
    """Reconciles token buckets.

    Args:
        tables: returns the buckets of this process, by kind.
    """

    def __init__(self, store: Store, tables: Callable[[], Mapping[str, Buckets]]) -> None:
        self._store = store
        self._tables = tables
        self._sent: list[list[_Taken]] = []

    def due(self) -> list[Command]:
        """See `Part`."""
        self._sent = []
        commands: list[Command] = []
        for kind, table in self._tables().items():
            used = list(table.used().items())[:MOST]
            if not used:
                continue
            taken = [_Taken(self._store.key("b", f"{kind}:{n}"), b, b.taken) for n, b in used]
            for each in taken:
                each.bucket.taken = 0.0
            keys = [each.key for each in taken]
            counts = [each.count for each in taken]
            commands.append(("EVAL", _SCRIPT, len(keys), *keys, table.rate, table.burst, *counts))
            self._sent.append(taken)
        return commands

    def took(self, replies: Sequence[Any]) -> None:
        """See `Part`."""
        for taken, left in zip(self._sent, replies, strict=True):
            for each, tokens in zip(taken, left, strict=True):
                each.bucket.replace(float(tokens) - each.bucket.taken)

    def failed(self) -> None:
        """See `Part`: these tokens were taken from the local bucket, and that is that."""


_SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local left = {}
for place, key in ipairs(KEYS) do
  local tokens = burst
  local known = redis.call('GET', key)
  if known then
    local before, since = string.match(known, '^(%S+) (%S+)$')
    tokens = math.min(burst, tonumber(before) + (now - tonumber(since)) / 1000 * rate)
  end
  tokens = tokens - tonumber(ARGV[place + 2])
  local full = math.ceil((burst - tokens) / rate * 1000) + 1
  redis.call('SET', key, string.format('%.3f %.0f', tokens, now), 'PX', math.max(1, full))
  left[place] = string.format('%.3f', tokens)
end
return left
"""
"""Takes tokens from each bucket, and returns what is left in it.

Keys: the buckets; a bucket that would be full again is forgotten. Arguments: tokens a second, the
most that one holds, and what was taken from each. Times are milliseconds of the store's clock.
"""
