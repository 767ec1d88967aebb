"""Presence: what each process has open now, added up; and what it says of itself to the others.

A process reports numbers, not changes, so a report may be repeated. Once it has been silent for a
lease, whoever exchanges next takes its numbers off; when it is back, it reports all of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import orjson

if TYPE_CHECKING:
    from streaming_api.cluster.connection import Command
    from streaming_api.cluster.store import Store

Counts = Mapping[str, Mapping[str, int]]
"""Numbers by kind, ``answers`` (by key) or ``connections`` (by address)."""


@attrs.frozen
class About:
    """What a process says of itself.

    Attributes:
        name: what it is called in figures.
        leaving: whether it is stopping: nobody should be sent to it.
        keys: the digest of its keys.
        limits: the digest of its limits.
    """

    name: str = ""
    leaving: bool = False
    keys: str = ""
    limits: str = ""


class Presence:
    """What is open in all processes.

    Args:
        instance: the name of this process, new at each start.
        lease: seconds of silence after which it counts as gone.
        counts: returns what is open here.
        on_full: called with the addresses that have as many connections as they may.

    Attributes:
        about: what this process says of itself.
        most: connections that one address may have; 0 for no limit.
        others: what the others say of themselves, by instance.
        answers: number of answers that ran in all processes at the last exchange, by key.
    """

    def __init__(
        self,
        store: Store,
        instance: str,
        lease: float,
        counts: Callable[[], Counts],
        on_full: Callable[[frozenset[str]], None],
    ) -> None:
        self.about = About()
        self.most = 0
        self.others: dict[str, About] = {}
        self.answers: dict[str, int] = {}
        self._instance = instance
        self._lease = round(lease * 1000)
        self._counts = counts
        self._on_full = on_full
        self._prefix = store.key("open")
        self._keys = [store.key("open", part) for part in ("processes", "about", "answers", "full")]
        self._reporting: dict[str, int] = {}
        self._reported: dict[str, int] | None = None  # None: report everything

    def due(self) -> list[Command]:
        """See `Part`."""
        self._reporting = now = {
            f"{kind} {name}": number
            for kind, numbers in self._counts().items()
            for name, number in numbers.items()
        }
        known = self._reported or {}
        changes = {name: number for name, number in now.items() if known.get(name) != number}
        return [self._report(changes | {name: 0 for name in known if name not in now})]

    def _report(self, changes: Mapping[str, int], *, gone: bool = False) -> Command:
        report = {
            "prefix": self._prefix,
            "instance": self._instance,
            "lease": self._lease,
            "about": orjson.dumps(attrs.asdict(self.about)).decode(),
            "whole": self._reported is None,
            "changes": changes,
            "gone": gone,
            "most": self.most,
        }
        return ("EVAL", _SCRIPT, len(self._keys), *self._keys, orjson.dumps(report))

    def took(self, replies: Sequence[Any]) -> None:
        """See `Part`."""
        forgotten, about, answers, full = replies[0]
        # what it has taken for gone had reported only what has changed
        self._reported = None if forgotten and self._reported is not None else self._reporting
        self.others = {
            instance.decode(): About(**orjson.loads(text))
            for instance, text in _pairs(about)
            if instance.decode() != self._instance
        }
        self._on_full(
            frozenset(name.decode() for name, n in _pairs(full) if int(n) >= self.most > 0)
        )
        self.answers = {name.decode(): int(number) for name, number in _pairs(answers)}

    def failed(self) -> None:
        """See `Part`: limits are those of this process until the store answers again."""
        self._reported = None
        self._on_full(frozenset())

    def answers_elsewhere(self, owner: str) -> int:
        """Return how many answers of a key run in other processes."""
        return max(0, self.answers.get(owner, 0) - self._reporting.get(f"answers {owner}", 0))

    def gone(self) -> Command:
        """Return the command that takes everything of this process off at once."""
        return self._report({}, gone=True)


def _pairs(flat: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


_SCRIPT: Final = """
local report = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local by = report.prefix .. ':by:'

local function add(field, difference)
  local kind, name = string.match(field, '^(%S+) (.*)$')
  local totals = report.prefix .. ':' .. kind
  local total = redis.call('HINCRBY', totals, name, difference)
  if total <= 0 then redis.call('HDEL', totals, name) end
  if kind == 'connections' then
    if report.most > 0 and total >= report.most then redis.call('HSET', KEYS[4], name, total)
    else redis.call('HDEL', KEYS[4], name) end
  end
end
local function forget(process)
  local numbers = redis.call('HGETALL', by .. process)
  for place = 1, #numbers, 2 do add(numbers[place], -tonumber(numbers[place + 1])) end
  redis.call('DEL', by .. process)
  redis.call('HDEL', KEYS[2], process)
  redis.call('ZREM', KEYS[1], process)
end

for _, process in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  if process ~= report.instance then forget(process) end
end
if report.gone then
  forget(report.instance)
  return {0, {}, {}, {}}
end
local forgotten = redis.call('ZADD', KEYS[1], now + report.lease, report.instance)
local own = by .. report.instance
if report.whole then
  for _, field in ipairs(redis.call('HKEYS', own)) do
    report.changes[field] = report.changes[field] or 0
  end
end
for field, number in pairs(report.changes) do
  local before = tonumber(redis.call('HGET', own, field) or 0)
  if number ~= before then add(field, number - before) end
  if number > 0 then redis.call('HSET', own, field, number) else redis.call('HDEL', own, field) end
end
redis.call('HSET', KEYS[2], report.instance, report.about)
return {
  forgotten, redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3]),
  redis.call('HGETALL', KEYS[4]),
}
"""
"""Takes a report, forgets who is silent, and returns what the processes say and what is open.

Keys: processes by the time until which they count, what they say of themselves, the sum of the
answers by key, and the addresses that have as many connections as they may.
``PREFIX:by:PROCESS`` is what a process has reported, ``PREFIX:KIND`` a sum.
"""
