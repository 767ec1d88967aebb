"""Topic reader: shows the topics as the store has put them in order, on this process like on all.

Each epoch has a stream for each board (`streaming_api.topics.board`), which grows by numbered
messages, and a state, from which a process that joins goes on.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from streaming_api.cluster.connection import Message
from streaming_api.cluster.entries import Unreadable
from streaming_api.cluster.topic_entries import TopicEntry, decode, decode_state
from streaming_api.cluster.topic_store import TopicStore
from streaming_api.topics import Topics

_MOST_ENTRIES: Final = {"topics": 3_000, "history": 900}
_MOST_BYTES: Final = {"topics": 4 * 2**20, "history": 2**20}
"""How much of a stream the store keeps: what is older is a gap for whoever comes back."""


class TopicReader:
    """Reads what whoever makes the topics has written.

    Args:
        topics: the topics of this process.
        on_webhook: called with each webhook while this process makes the topics.

    Attributes:
        epoch: that of what is shown; None while it is numbered by this process itself.
        webhook: the id of the last webhook that what is shown takes into account.
        listens: the id of the last webhook that was read; None while others read them.
    """

    def __init__(
        self, store: TopicStore, topics: Topics, on_webhook: Callable[[bytes], None]
    ) -> None:
        self.epoch: str | None = None
        self.webhook = "0-0"
        self.listens: str | None = None
        self._store = store
        self._topics = topics
        self._on_webhook = on_webhook
        self._after: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._sizes: dict[str, deque[tuple[int, int]]] = {}

    # Joining

    async def join(self, epoch: str) -> bool:
        """Show this numbering; return False if the store does not have enough of it.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        try:
            return await self._join(epoch)
        except Unreadable:
            return False

    async def _join(self, epoch: str) -> bool:
        boards = self._topics.boards
        names = {self._store.stream(name, epoch): name for name in boards}
        states = await self._store.run(
            *(("GET", self._store.state(name, epoch)) for name in boards)
        )
        if not all(isinstance(state, bytes) for state in states):
            return False
        pasts = {name: decode_state(state)[0] for name, state in zip(boards, states, strict=True)}
        found: dict[str, list[TopicEntry]] = {name: [] for name in boards}
        sizes: dict[str, deque[tuple[int, int]]] = {name: deque() for name in boards}
        after = dict.fromkeys(names, "0-0")
        for key, number, fields in await self._store.since(after):
            after[key] = number
            found[names[key]].append(decode(number, fields))
            sizes[names[key]].append((found[names[key]][-1].first, _size(fields)))
        if not all(
            entries and entries[0].first <= pasts[name].number + 1
            for name, entries in found.items()
        ):
            return False
        self._names, self._after, self._sizes = names, after, sizes
        for name, entries in found.items():
            lines = [(entry.first, entry.lines) for entry in entries]
            boards[name].load(epoch_of(name, epoch), pasts[name], lines)
        self._note(found["topics"][-1])
        self.epoch = epoch
        return True

    def part(self) -> None:
        """Show no longer what the store has."""
        self.epoch = None
        self.listens = None
        self._names, self._after = {}, {}

    # Going on

    @property
    def streams(self) -> Mapping[str, str]:
        """See `Source`."""
        webhooks = {} if self.listens is None else {self._store.webhooks: self.listens}
        return self._after | webhooks

    def receive(self, key: str, number: str, fields: Message) -> None:
        """See `Source`."""
        if key == self._store.webhooks:
            self._hear(number, fields)
        else:
            self._take(key, number, fields)

    async def catch_up(self) -> None:
        """Show all that the store has.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        for key, number, fields in await self._store.since(self._after):
            self._take(key, number, fields)

    def listen(self, newest: object) -> None:
        """Read webhooks from now on, after those that what is shown takes into account.

        Args:
            newest: the last entry that the store has; if it is older, the store has begun anew.
        """
        top = _id_of(newest)
        begun_anew = top is not None and top < _order(self.webhook)
        self.listens = "0-0" if begun_anew else self.webhook

    def reaches(self, stream: str, newest: object) -> bool:
        """Return whether the store still has the last message of a stream that is shown here."""
        top = _id_of(newest)
        return stream in self._after and top is not None and top >= _order(self._after[stream])

    def _take(self, key: str, number: str, fields: Message) -> None:
        name = self._names.get(key)
        if name is None:  # of an epoch that has ended meanwhile
            return
        try:
            entry = decode(number, fields)
        except Unreadable:
            self.part()
            return
        board = self._topics.boards[name]
        if entry.first <= board.channel.number:
            return
        self._after[key] = number
        self._sizes[name].append((entry.first, _size(fields)))
        if name == "topics":
            self._note(entry)
        if not board.take(entry.first, entry.lines):
            self.part()

    def _note(self, entry: TopicEntry) -> None:
        self.webhook = entry.webhook
        self._topics.alerts.left_out = entry.left_out

    def _hear(self, number: str, fields: Message) -> None:
        if self.listens is not None:
            self.listens = number
            with contextlib.suppress(ValueError, KeyError, zlib.error):  # not ours to judge
                self._on_webhook(zlib.decompress(fields[b"b"]))

    def keep_from(self, name: str) -> int:
        """Return the number from which on a stream's messages are kept."""
        sizes = self._sizes[name]
        total = sum(size for _, size in sizes)
        while len(sizes) > 1 and (total > _MOST_BYTES[name] or len(sizes) > _MOST_ENTRIES[name]):
            total -= sizes.popleft()[1]
        return sizes[0][0]


def epoch_of(name: str, epoch: str) -> str:
    """Return the epoch in the cursors of a board: each board numbers for itself."""
    return epoch if name == "topics" else f"{epoch}h"


def _id_of(newest: object) -> tuple[int, ...] | None:
    """Return the id of the entry that XREVRANGE has found; None without any."""
    return _order(newest[0][0].decode()) if isinstance(newest, list) and newest else None


def _order(number: str) -> tuple[int, ...]:
    return tuple(map(int, number.split("-")))


def _size(fields: Mapping[bytes, bytes]) -> int:
    return sum(map(len, fields.values()))
