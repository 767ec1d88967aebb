"""Topic store: the topics' keys and connections, which answers have no part in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streaming_api.cluster.connection import (
    READ_ENTRIES,
    Command,
    Message,
    messages_of,
    reading,
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

    def stream(self, board: str, epoch: str) -> str:
        """Return the key of a board's stream."""
        return self._store.key(board, epoch)

    def state(self, board: str, epoch: str) -> str:
        """Return the key of a board's state."""
        return self._store.key(board, f"{epoch}:state")

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands as `Store.run` does."""
        return await self._store.run(*commands)

    async def ask(self, *commands: Command) -> list[Any]:
        """Run commands as `Store.ask` does."""
        return await self._store.ask(*commands)

    async def along(self, *commands: Command) -> list[Any]:
        """Run commands as `Store.along` does."""
        return await self._store.along(*commands)

    async def since(self, after: Mapping[str, str]) -> list[tuple[str, str, Message]]:
        """Return all entries after the ids of some streams: key, id and fields.

        Raises:
            StoreError: the store cannot be asked, or gives no answer.
        """
        found: list[tuple[str, str, Message]] = []
        ids = dict(after)
        while True:
            (reply,) = await self.ask(reading(ids, READ_ENTRIES))
            if not (entries := messages_of(reply)):
                return found
            found += entries
            ids |= {key: number for key, number, _ in entries}
