"""Topic store: the topics' keys and connections, which answers have no part in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streaming_api.cluster.connection import (
    BLOCK_SECONDS,
    READ_ENTRIES,
    REPLY_SECONDS,
    Command,
    Message,
    messages_of,
)
from streaming_api.cluster.store import Store


class TopicStore:
    """What the store keeps of the topics: an epoch's streams and states, and who makes them."""

    def __init__(self, store: Store) -> None:
        self.epoch = store.key("topics", "epoch")
        self.lease = store.key("topics", "lease")
        self.reports = store.key("topics", "reports")
        self.webhooks = store.key("webhooks")
        self._store = store
        self._main = store.connection()
        self._listener = store.connection(BLOCK_SECONDS + 2 * REPLY_SECONDS)

    def stream(self, board: str, epoch: str) -> str:
        """Return the key of a board's stream."""
        return self._store.key(board, epoch)

    def state(self, board: str, epoch: str) -> str:
        """Return the key of a board's state."""
        return self._store.key(board, f"{epoch}:state")

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands in one round trip; return replies, and errors of single commands among them.

        Raises:
            StoreError: it is unknown what came of them.
        """
        return await self._main.run(*commands)

    async def ask(self, *commands: Command) -> list[Any]:
        """Run commands like `run`, where an error of one command is an error of all.

        Raises:
            StoreError: as in `run`.
            Refused: the store refuses.
        """
        return await self._main.ask(*commands)

    async def wait(self, after: Mapping[str, str]) -> list[tuple[str, str, Message]]:
        """Wait a second for entries after the ids of some streams; return key, id and fields.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        return await self._listener.wait(after)

    async def since(self, after: Mapping[str, str]) -> list[tuple[str, str, Message]]:
        """Return all entries after the ids of some streams, as `wait` does, without waiting.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        found: list[tuple[str, str, Message]] = []
        ids = dict(after)
        while True:
            command = ("XREAD", "COUNT", READ_ENTRIES, "STREAMS", *ids, *ids.values())
            (reply,) = await self.ask(command)
            if not (entries := messages_of(reply)):
                return found
            found += entries
            ids |= {key: number for key, number, _ in entries}
