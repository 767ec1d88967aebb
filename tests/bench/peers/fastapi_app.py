"""What one would write with FastAPI: the application of the peer of that name.

It runs in the peers' own environment and knows nothing of the rest of the benchmark.
"""
# mypy: disable-error-code="import-not-found, untyped-decorator"
# (its packages are installed only in that environment)

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import httpx
from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from sse_starlette import EventSourceResponse

UPSTREAM = os.environ["BENCH_UPSTREAM"] + "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


class ConnectionManager:
    """The broadcaster of FastAPI's documentation (Advanced, WebSockets)."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket) -> None:
        self.active_connections.remove(websocket)

    async def broadcast(self, message: str) -> None:
        for connection in list(self.active_connections):
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await connection.send_text(message)


manager = ConnectionManager()
queues: set[asyncio.Queue[str]] = set()


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for all requests; more connections than the default of 100, which would queue."""
    limits = httpx.Limits(max_connections=1_000, max_keepalive_connections=20)
    async with httpx.AsyncClient(limits=limits, timeout=None) as client:  # noqa: S113
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


async def answer(body: bytes) -> AsyncIterator[str]:
    """The data of each event of the upstream's answer."""
    client: httpx.AsyncClient = app.state.client
    async with client.stream("POST", UPSTREAM, content=body, headers=JSON) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield line[6:]


@app.get("/health")
async def health() -> Response:
    """Say that the server is up."""
    return Response()


@app.post("/v1/chat/completions")
async def completions(request: Request) -> EventSourceResponse:
    """Relay an answer over SSE."""
    return EventSourceResponse(answer(await request.body()))


@app.websocket("/chat")
async def chat(websocket: WebSocket) -> None:
    """Relay answers over a WebSocket."""
    await websocket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            body = await websocket.receive_text()
            async for data in answer(body.encode()):
                await websocket.send_text(data)


@app.websocket("/watch")
async def watch(websocket: WebSocket) -> None:
    """Watch the broadcasts over a WebSocket."""
    await manager.connect(websocket)
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        manager.disconnect(websocket)


@app.get("/events")
async def events() -> EventSourceResponse:
    """Watch the broadcasts over SSE."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.add(queue)

    async def stream() -> AsyncIterator[str]:
        try:
            while True:
                yield await queue.get()
        finally:
            queues.discard(queue)

    return EventSourceResponse(stream())


@app.post("/publish")
async def publish(request: Request) -> Response:
    """Broadcast the body to everyone."""
    message = (await request.body()).decode()
    for queue in queues:
        queue.put_nowait(message)
    await manager.broadcast(message)
    return Response(status_code=204)
