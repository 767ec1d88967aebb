"""FastAPI under uvicorn, with httpx towards the upstream and sse-starlette towards clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench import clients
from tests.bench.peers.base import PEER_PYTHON, ChatFace, Peer, ViewFace
from tests.bench.peers.direct import END_OF_COMPLETION, ask_openai


class FastApi(Peer):
    """The application in `tests/bench/peers/fastapi_app.py`."""

    name = "FastAPI"
    most_answers = 100
    flat_tokens = 2_000
    heaviness = 3
    settings = (
        "uvicorn with uvloop and httptools, one worker, access log off; one shared httpx client "
        "for at most 1,000 connections (20 kept alive, its default), `aiter_lines`, "
        "each line sent on without parsing it; "
        "sse-starlette's `EventSourceResponse`; broadcasts by FastAPI's documented "
        "`ConnectionManager` (WebSocket) and by a queue per viewer (SSE). "
        "All of it: `tests/bench/peers/fastapi_app.py`."
    )

    def command(self) -> Sequence[str]:
        """Run uvicorn, one process."""
        app = "tests.bench.peers.fastapi_app:app"
        uvicorn = [str(PEER_PYTHON), "-m", "uvicorn", app, "--port", str(self.port)]
        loop = ["--loop", "uvloop", "--http", "httptools", "--backlog", "4096"]
        return [*uvicorn, *loop, "--log-level", "warning", "--no-access-log"]

    def environment(self) -> Mapping[str, str]:
        """Where the upstream is."""
        return {"BENCH_UPSTREAM": self.upstream}

    def chat_faces(self) -> list[ChatFace]:
        """SSE and WebSocket."""
        return [
            ChatFace(
                name="FastAPI SSE",
                url=f"{self.base}/v1/chat/completions",
                websocket=False,
                end=END_OF_COMPLETION,
                ask=ask_openai,
            ),
            ChatFace(
                name="FastAPI WebSocket",
                url=f"{self.base}/chat",
                websocket=True,
                end=b"[DONE]",
                ask=ask_openai,
            ),
        ]

    def view_faces(self) -> list[ViewFace]:
        """WebSocket and SSE."""
        return [
            ViewFace(name="FastAPI WebSocket", url=f"{self.base}/watch", websocket=True),
            ViewFace(name="FastAPI SSE", url=f"{self.base}/events", websocket=False),
        ]

    def publication(self, payloads: Sequence[bytes]) -> tuple[bytes, int]:
        """One POST each, pipelined."""
        url = f"{self.base}/publish"
        return b"".join(clients.post_request(url, payload) for payload in payloads), len(payloads)


class FastApiCompressed(FastApi):
    """The same; uvicorn negotiates permessage-deflate with whoever offers it."""

    name = "FastAPI compressed"

    def view_faces(self) -> list[ViewFace]:
        """WebSocket alone: sse-starlette leaves event streams uncompressed."""
        return [
            ViewFace(
                name="FastAPI WebSocket", url=f"{self.base}/watch", websocket=True, compressed=True
            )
        ]
