"""What is usual: one XADD and one PUBLISH for every token, over aiohttp and redis-py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from streaming_api.serving.private_store import PrivateStore
from streaming_api.serving.workers import find_server
from tests.bench.peers.base import ROOT, ChatFace, Peer, this_python
from tests.bench.peers.direct import END_OF_COMPLETION, ask_openai


class PerToken(Peer):
    """A relay that makes answers resumable as most do: each token is stored and announced."""

    name = "XADD and PUBLISH per token"
    settings = "`tests/bench/peers/per_token_app.py`, uvloop, a store of its own on a unix socket."
    most_answers = 100

    def __init__(self, folder: Path, upstream: str) -> None:
        super().__init__(folder, upstream)
        self._store: PrivateStore | None = None

    @property
    def store(self) -> PrivateStore:
        """Its store, once it has been started."""
        assert self._store is not None
        return self._store

    def command(self) -> Sequence[str]:
        """Serve with a store."""
        program = find_server()
        if program is None:
            message = "there is no redis-server and no valkey-server"
            raise RuntimeError(message)
        self._store = PrivateStore(program, 8)
        self._store.start()
        return [this_python(), "-m", "tests.bench.peers.per_token_app", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        """Where its upstream and its store are."""
        return {"PYTHONPATH": str(ROOT), "UPSTREAM": self.upstream, "STORE": self.store.url}

    async def stop(self) -> None:
        """End both."""
        await super().stop()
        if self._store is not None:
            self._store.close()

    def chat_faces(self) -> list[ChatFace]:
        """OpenAI's wire."""
        return [
            ChatFace(
                name=self.name,
                url=f"{self.base}/v1/chat/completions",
                websocket=False,
                end=END_OF_COMPLETION,
                ask=ask_openai,
            )
        ]
