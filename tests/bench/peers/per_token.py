"""What is usual: one XADD and one PUBLISH for every token, over aiohttp and redis-py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.peers.base import ROOT, ChatFace, this_python
from tests.bench.peers.direct import END_OF_COMPLETION, ask_openai
from tests.bench.peers.with_store import WithStore


class PerToken(WithStore):
    """A relay that makes answers resumable as most do: each token is stored and announced."""

    name = "XADD and PUBLISH per token"
    settings = "`tests/bench/peers/per_token_app.py`, uvloop, a store of its own on a unix socket."
    most_answers = 100

    def command(self) -> Sequence[str]:
        """Serve with a store."""
        return [this_python(), "-m", "tests.bench.peers.per_token_app", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        """Where its upstream and its store are."""
        return {"PYTHONPATH": str(ROOT), "UPSTREAM": self.upstream, "STORE": self.store.url}

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
