"""Topic writer: appends what this process makes of the topics to the store, while it may.

An append names the number that it wants. If somebody else has taken it, or it is unknown what came
of it, the writer is stale: it drops what it was given and waits until the desk begins anew from
what is shown. Nothing is lost by that: changes are found by comparing sources with what is shown.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from typing import Final

from streaming_api.cluster.connection import Command, StoreError, is_old
from streaming_api.cluster.topic_entries import OPENING, TopicEntry, encode_state
from streaming_api.cluster.topic_reader import TopicReader
from streaming_api.cluster.topic_store import TopicStore
from streaming_api.topics import Topics

_MOST: Final = 500
"""Number of messages in an entry."""
_STATE_SECONDS: Final = {"topics": 10.0, "history": 60.0}
_KEPT_SECONDS: Final = 7_200
"""How long the store keeps the topics of a service that does not run."""


class TopicWriter:
    """Writes what whoever makes the topics says.

    Args:
        reader: shows what has been written.
        may_write: whether this process is still the one that makes the topics.

    Attributes:
        stale: whether what it is given is dropped.
        refused: whether the store has refused an append for another reason than its number, and
            nothing has been written since.
    """

    def __init__(
        self, store: TopicStore, topics: Topics, reader: TopicReader, may_write: Callable[[], bool]
    ) -> None:
        self.stale = True
        self.refused = False
        self._store = store
        self._topics = topics
        self._reader = reader
        self._may_write = may_write
        self._epoch = ""
        self._boards = {topic: name for name, each in topics.boards.items() for topic in each.names}
        self._tops: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[str, bytes]]] = {name: [] for name in topics.boards}
        self._saved: dict[str, float] = {}  # when (monotonic seconds)
        self._states: dict[str, int] = {}  # numbers that the store has the states of
        self._wake = asyncio.Event()

    def put(self, topic: str, changes: tuple[bytes, ...], urgent: bool) -> None:  # noqa: ARG002, FBT001 (an outlet; nothing waits here)
        """Append changes soon."""
        if not self.stale:
            self._waiting[self._boards[topic]] += [(topic, change) for change in changes]
            self._wake.set()

    def begin(self, epoch: str) -> None:
        """Append to what is shown."""
        self.stop()
        self._epoch = epoch
        self._tops = {name: each.channel.number for name, each in self._topics.boards.items()}
        self._saved, self._states = {}, dict.fromkeys(self._tops, 0)
        self.stale = False

    def stop(self) -> None:
        """Append no more."""
        self.stale = True
        for waiting in self._waiting.values():
            waiting.clear()

    # Appending

    async def keep_writing(self) -> None:
        """Append what comes, forever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while names := [name for name, waiting in self._waiting.items() if waiting]:
                await asyncio.gather(*map(self._append, names))

    async def _append(self, name: str) -> None:
        if self._reader.epoch != self._epoch or not self._may_write():
            self.stop()
            return
        tops, waiting = self._tops, self._waiting[name]
        changes = waiting[:_MOST]
        del waiting[:_MOST]
        board, first = self._topics.boards[name], tops[name] + 1
        lines = [
            (topic, board.encode(number, topic, change))
            for number, (topic, change) in enumerate(changes, first)
        ]
        left_out = self._topics.desk.alerts.left_out
        entry = TopicEntry(first, lines, self._reader.listens or "0-0", left_out)
        # whoever joins needs what follows the state
        kept_from = min(self._reader.keep_from(name), self._states[name])
        kept = ("MINID", "~", f"{kept_from}-0")
        key = self._store.stream(name, self._epoch)
        command = ("XADD", key, "NOMKSTREAM", *kept, f"{first}-0", *entry.encode())
        try:
            (reply,) = await self._store.along(command)
        except StoreError:
            reply = None
        if isinstance(reply, bytes):
            tops[name] += len(lines)
        elif tops is self._tops:
            self.refused = isinstance(reply, Exception) and not is_old(reply)
            self.stop()

    # States, and new epochs

    async def save(self) -> None:
        """Save the states that are due, for processes that join.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        now, states = time.monotonic(), self._states
        due = {
            name: board.channel.number
            for name, board in self._topics.boards.items()
            if now - self._saved.get(name, -math.inf) >= _STATE_SECONDS[name]
        }
        for name, number in due.items():
            key = self._store.stream(name, self._epoch)
            await self._store.ask(self._state(name, self._epoch), ("EXPIRE", key, _KEPT_SECONDS))
            self._saved[name], states[name] = now, number

    def _state(self, name: str, epoch: str, number: int | None = None) -> Command:
        board = self._topics.boards[name]
        number = board.channel.number if number is None else number
        state = encode_state(number, board.dumps(), self._topics.memory())
        return ("SET", self._store.state(name, epoch), state, "EX", _KEPT_SECONDS)

    async def open(self, run: str, before: str | None) -> str:
        """Begin a new epoch with what is shown here; return it.

        Args:
            run: the store's run, in which numbers count.
            before: the epoch that ends.

        Raises:
            StoreError: it is unknown what came of it, or the store refuses.
        """
        epoch = secrets.token_hex(8)
        commands: list[Command] = []
        for name in self._topics.boards:
            entry = TopicEntry(1, OPENING, self._reader.webhook, self._topics.alerts.left_out)
            key = self._store.stream(name, epoch)
            commands += [
                self._state(name, epoch, 1),
                ("XADD", key, "1-0", *entry.encode()),
                ("EXPIRE", key, _KEPT_SECONDS),
            ]
        commands.append(("SET", self._store.epoch, f"{epoch} {run}"))
        if before is not None:
            keys = (
                f(name, before)
                for name in self._topics.boards
                for f in (self._store.stream, self._store.state)
            )
            commands.append(("DEL", *keys))
        await self._store.ask(*commands)
        self.refused = False
        return epoch
