"""A peer that has a store of its own: a private one on a unix socket, on any core."""

from __future__ import annotations

from pathlib import Path

from streaming_api.serving.private_store import PrivateStore
from streaming_api.serving.workers import find_server
from tests.bench.peers.base import Peer


class WithStore(Peer):
    """Starts the store with the peer, and ends it with it."""

    def __init__(self, folder: Path, upstream: str) -> None:
        super().__init__(folder, upstream)
        self._store: PrivateStore | None = None

    @property
    def store(self) -> PrivateStore:
        """The store; started when it is first asked for.

        Raises:
            RuntimeError: there is no program for it.
        """
        if self._store is None:
            program = find_server()
            if program is None:
                message = "there is no redis-server and no valkey-server"
                raise RuntimeError(message)
            self._store = PrivateStore(program, 8)
            self._store.start()
        return self._store

    async def stop(self) -> None:
        """End both."""
        await super().stop()
        if self._store is not None:
            self._store.close()
            self._store = None
