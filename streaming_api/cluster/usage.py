"""Usage: what each key has used, in all processes together; the store has it, and so has each.

What answers have used is added to the store exactly once: each addition has a number, and is
repeated under the same number until its reply is there. Whatever another process adds comes back
with the next exchange, so quotas and usage are read from memory. What the store loses, processes
put back from what they last saw of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from streaming_api.cluster.usage_script import SCRIPT

if TYPE_CHECKING:
    from streaming_api.answer_record import Used
    from streaming_api.answers.quotas import Quotas
    from streaming_api.cluster.connection import Command
    from streaming_api.cluster.store import Store

FIELDS: Final = ("answers", "failed", "input_tokens", "output_tokens")
_DAY: Final = 86_400

Row = dict[str, int]


class Usage:
    """What each key has used.

    Args:
        instance: the name of this process.
        quotas: the limits of keys as they are checked here.
    """

    def __init__(self, store: Store, instance: str, quotas: Quotas) -> None:
        self._instance = instance
        self._quotas = quotas
        self._keys = [
            store.key("usage", part) for part in ("state", "rows", "changed", f"by:{instance}")
        ]
        self._rows: dict[str, Row] = {}  # as the store had them
        self._added: dict[str, Row] = {}  # not sent yet
        self._sent: dict[str, Row] = {}  # sent, and not known to have arrived
        self._number = 0  # of what was sent last
        self._epoch = ""
        self._version = 0
        self._since = 0
        self._lost = False

    def add(self, record: Used) -> None:
        """Count an answer that has ended, or a request that was passed on."""
        row = self._added.setdefault(record.key, dict.fromkeys(FIELDS, 0))
        row["answers"] += 1
        row["failed"] += record.failed
        row["input_tokens"] += record.input_tokens or 0
        row["output_tokens"] += record.output_tokens

    # For the exchange

    def due(self) -> list[Command]:
        """See `Part`."""
        if not self._sent and self._added:
            self._sent, self._added = self._added, {}
            self._number += 1
        report = {
            "instance": self._instance,
            "number": self._number,
            "added": self._sent,
            "epoch": self._epoch,
            "version": self._version,
            "since": self._since if self._lost else 0,
            "known": self._rows if self._lost else {},
        }
        return [("EVAL", SCRIPT, len(self._keys), *self._keys, orjson.dumps(report))]

    def took(self, replies: Sequence[Any]) -> None:
        """See `Part`."""
        named, version, since, now, *changed = replies[0]
        epoch = named.decode()
        self._sent = {}
        is_other = self._epoch not in {"", epoch} or version < self._version
        if is_other and not self._lost:
            self._lost = True  # put back what is known here before taking anything
            return
        self._lost = False
        self._epoch, self._version, self._since = epoch, version, int(since)
        for name, row in zip(changed[::2], changed[1::2], strict=True):
            self._rows[name.decode()] = taken = orjson.loads(row)
            self._set_quota(name.decode(), taken, int(now))

    def failed(self) -> None:
        """See `Part`: what was sent is sent again."""

    def _set_quota(self, name: str, row: Row, now: int) -> None:
        """Let quotas count what all processes have used."""
        waiting = self._added.get(name, {})
        tokens = waiting.get("input_tokens", 0) + waiting.get("output_tokens", 0)
        minute, day = (
            (row[f"{window}_used"] + tokens, max(0, row[f"{window}_ends"] - now) / 1000)
            for window in ("per_minute", "per_day")
        )
        self._quotas.replace(name, minute, day)

    # For those who ask

    @property
    def since(self) -> str:
        """The time since which is counted."""
        return datetime.fromtimestamp(self._since / 1000 or time.time(), UTC).isoformat()

    def as_json(self) -> Mapping[str, dict[str, object]]:
        """Return the figures of each key as ``/streaming/usage`` shows them."""
        names = {*self._rows, *self._sent, *self._added}
        return {name: self._row(name) for name in names}

    def _row(self, name: str) -> dict[str, object]:
        row = self._rows.get(name, {})
        own = [part.get(name, {}) for part in (self._sent, self._added)]
        is_today = row.get("day") == int(time.time()) // _DAY
        waiting = {field: sum(part.get(field, 0) for part in own) for field in FIELDS}
        today = {
            field: (row.get(f"today_{field}", 0) if is_today else 0) + waiting[field]
            for field in FIELDS
        }
        return {**{field: row.get(field, 0) + waiting[field] for field in FIELDS}, "today": today}
