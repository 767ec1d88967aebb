"""streaming-api itself, with its default settings except limits that would refuse the load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import orjson

from tests.bench import clients
from tests.bench.peers.base import ROOT, ChatFace, Peer, ViewFace, this_python
from tests.bench.peers.direct import END_OF_COMPLETION, ask_openai
from tests.bench.peers.with_store import WithStore

CONFIG = """\
service: {host: 127.0.0.1, port: PORT, embedded_model: none}
websocket: {max_connections: 20000}
sse: {max_connections: 20000}
performance: {memory_limit_gb: 8}
connection_management: {pool_size: 2000, max_connections_per_ip: 20000}
limits: {commands_per_second: 0}
retention: {chat_retention_seconds: 30}
monitoring:
  api_gateway_endpoint: UPSTREAM
  custom_metrics_endpoint: UPSTREAM/metrics
"""
WEBSOCKET = "streaming-api WebSocket"
SSE = "streaming-api SSE"
PURE = "streaming-api WebSocket, pure Python"
OPENAI = "streaming-api OpenAI"
END_OF_ANSWER = b'"chat.completion.end"'
SUBSCRIBE = {"message_type": "status_update", "action": "subscribe"}


def ask_ours(model: str, tokens: int) -> bytes:
    """A chat command, which is also the body of a POST."""
    request = orjson.loads(ask_openai(model, tokens))
    return orjson.dumps({"message_type": "chat_completion", **request})


class Ours(Peer):
    """The real application, and a route to publish through."""

    name = "streaming-api"
    config = CONFIG
    settings = "Defaults, except limits that would refuse the load:\n\n```yaml\n" + CONFIG + "```"

    def command(self) -> Sequence[str]:
        """Serve as `streaming-api serve` does."""
        config = self.folder / "config.yaml"
        text = self.config.replace("PORT", str(self.port))
        config.write_text(text.replace("UPSTREAM", self.upstream))
        return [this_python(), "-m", "tests.bench.ours", str(config)]

    def environment(self) -> Mapping[str, str]:
        """Import from where it runs, which is the compiled copy or this checkout."""
        return {"PYTHONPATH": str(self.root)}

    def chat_faces(self) -> list[ChatFace]:
        """WebSocket, SSE, and OpenAI's own wire."""
        return [
            ChatFace(
                name=WEBSOCKET,
                url=f"{self.base}/streaming/websocket/chat",
                websocket=True,
                end=END_OF_ANSWER,
                ask=ask_ours,
            ),
            ChatFace(
                name=SSE,
                url=f"{self.base}/streaming/sse/chat",
                websocket=False,
                end=END_OF_ANSWER,
                ask=ask_ours,
            ),
            ChatFace(
                name=OPENAI,
                url=f"{self.base}/v1/chat/completions",
                websocket=False,
                end=END_OF_COMPLETION,
                ask=ask_openai,
            ),
        ]

    def view_faces(self) -> list[ViewFace]:
        """WebSocket and SSE, each plain and compressed."""
        return [
            self._view(websocket=websocket, compressed=compressed)
            for compressed in (False, True)
            for websocket in (True, False)
        ]

    def _view(self, *, websocket: bool, compressed: bool) -> ViewFace:
        return ViewFace(
            name=WEBSOCKET if websocket else SSE,
            url=f"{self.base}/streaming/{'websocket' if websocket else 'sse/status'}",
            websocket=websocket,
            compressed=compressed,
            subscribe=orjson.dumps(SUBSCRIBE) if websocket else None,
            ready=b'"snapshot"',
            replay=lambda cursor: self._replay(cursor, websocket=websocket),
        )

    def _replay(self, cursor: str, *, websocket: bool) -> ViewFace:
        face = self._view(websocket=websocket, compressed=False)
        return ViewFace(
            name=face.name,
            url=face.url,
            websocket=websocket,
            subscribe=orjson.dumps({**SUBSCRIBE, "cursor": cursor}) if websocket else None,
            headers=() if websocket else (("Last-Event-ID", cursor),),
        )

    def publication(self, payloads: Sequence[bytes]) -> tuple[bytes, int]:
        """One POST for all, one message a line."""
        return clients.post_request(f"{self.base}/bench/publish", b"\n".join(payloads)), 1


class OursInCluster(WithStore, Ours):
    """The same as one of several processes: what the store costs the owner of the answers."""

    name = "streaming-api with a store"
    settings = "As above, with `cluster.url`: a private store on a unix socket, on another core."
    most_answers = 100

    def command(self) -> Sequence[str]:
        """Serve with a store."""
        command = super().command()
        config = self.folder / "config.yaml"
        config.write_text(f"{config.read_text()}cluster: {{url: {self.store.url}}}\n")
        return command

    def chat_faces(self) -> list[ChatFace]:
        """WebSocket, as the others are compared by."""
        face = super().chat_faces()[0]
        return [attrs.evolve(face, name=f"{WEBSOCKET}, with a store")]


class OursToo(Ours):
    """Another process of the same service, over the same store."""

    name = "streaming-api, another process"

    def __init__(self, folder: Path, upstream: str, store: str) -> None:
        super().__init__(folder, upstream)
        self._url = store

    def command(self) -> Sequence[str]:
        """Serve with that store."""
        command = super().command()
        config = self.folder / "config.yaml"
        config.write_text(f"{config.read_text()}cluster: {{url: {self._url}}}\n")
        return command


class Pure(Ours):
    """The same in pure Python, to be measured beside the compiled build."""

    name = "streaming-api, pure Python"
    settings = "As above, from the checkout instead of the compiled copy."
    most_answers = 100
    root = ROOT

    def chat_faces(self) -> list[ChatFace]:
        """One is enough to compare."""
        return [attrs.evolve(super().chat_faces()[0], name=PURE)]
