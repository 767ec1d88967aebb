"""What ends is gone at once: nothing of a connection or an answer waits for the garbage collector.

It looks seldom, at everything, and all others wait meanwhile; and a request or an answer that waits
for it holds its buffers and its log.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from streaming_api.service import StreamingService
from tests.clients import events, eventually, http, question, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream
from tests.raw import raw

TIMES = 20


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Counts what only the collector could free, by class; ours and aiohttp's server alone."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        names = (f"{type(item).__module__}.{type(item).__qualname__}" for item in gc.garbage)
        found.update(name for name in names if name.startswith(("streaming_api.", "aiohttp.web")))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()


async def over_websocket(server: StreamingService) -> None:
    async with websocket(server.url, "/streaming/websocket/chat") as socket:
        await socket.start("r", model="ten-tokens")
        await socket.answer()


async def cancelled(server: StreamingService) -> None:
    async with websocket(server.url, "/streaming/websocket/chat") as socket:
        await socket.start("r", model="slow")
        await socket.receive()
        await socket.cancel("r")
        await socket.answer()


async def over_sse(server: StreamingService) -> None:
    async with events(server.url, "/streaming/sse/chat", body=question("ten-tokens")) as stream:
        await stream.rest()


async def over_openai(server: StreamingService) -> None:
    async with http(server.url) as client:
        await client.post("/v1/chat/completions", json=question("ten-tokens", stream=True))


async def refused(server: StreamingService) -> None:
    async with http(server.url) as client:
        await client.post("/v1/chat/completions", json=question("error-500"))


async def watching(server: StreamingService) -> None:
    async with events(server.url, "/streaming/sse/status") as stream:
        await stream.receive()


async def subscribed(server: StreamingService) -> None:
    async with websocket(server.url, "/streaming/websocket") as socket:
        await socket.send(message_type="status_update", action="subscribe")
        await socket.receive()


async def left_in_a_body(server: StreamingService) -> None:
    async with raw(server.url) as tcp:
        await tcp.send(HEAD % (b"Content-Length: %d" % 2**20) + b"x" * 2**17)
        await eventually(lambda: server.connection_manager.budget.input.bytes)
    await eventually(lambda: not server.connection_manager.budget.input.bytes)


async def broke_a_body(server: StreamingService) -> None:
    async with raw(server.url) as tcp:
        await tcp.send(HEAD % b"Transfer-Encoding: chunked" + b"3\r\nxxx\r\nnonsense\r\n")
        assert b" 400 " in await tcp.rest()


async def spoke_no_http(server: StreamingService) -> None:
    async with raw(server.url) as tcp:
        await tcp.send(b"nonsense\r\n\r\n")
        assert b" 400 " in await tcp.rest()


async def sent_nonsense(server: StreamingService) -> None:
    async with http(server.url) as client:
        await client.post("/v1/chat/completions", content=b"nonsense")


async def a_large_body(server: StreamingService) -> None:
    async with http(server.url) as client:
        body = question("ten-tokens", user="x" * 100_000)
        await client.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": "k"})


async def a_large_refused_body(server: StreamingService) -> None:
    """Read in a turn of its own, whose error knows the whole body."""
    async with http(server.url) as client:
        for body in (b"x" * 100_000, b'{"model": "%b"}' % (b"x" * 100_000)):
            reply = await client.post("/streaming/sse/chat", content=body)
            assert reply.status_code == 400


async def a_body_in_pieces(server: StreamingService) -> None:
    async with raw(server.url) as tcp:
        await tcp.send(HEAD % b"Transfer-Encoding: chunked" + b"1\r\nx\r\n" * 10_000)
        await tcp.send(b"0\r\n\r\n")
        assert b" 400 " in await tcp.until(b"invalid_json")


async def refused_elsewhere(server: StreamingService) -> None:
    async with http(server.url) as client:
        for path, body in (
            ("/v1/responses", {"model": "m", "input": "x", "previous_response_id": "none"}),
            ("/v1/responses", {"model": "error-500", "input": "x"}),
            ("/api/chat", {"id": "c", "messages": []}),
            ("/streaming/alerts", {"version": "3"}),
            ("/v1/embeddings", {"model": "m"}),
        ):
            await client.post(path, json=body)
        for path in ("/streaming/sse/chat/none", "/v1/responses/none", "/v1/models/none"):
            await client.get(path)


async def a_whole_response(server: StreamingService) -> None:
    async with http(server.url) as client:
        await client.post("/v1/responses", json={"model": "ten-tokens", "input": "x"})


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n"
VISITS = [
    over_websocket, cancelled, over_sse, over_openai, refused, watching, subscribed, left_in_a_body,
    broke_a_body, spoke_no_http, sent_nonsense, a_large_body, a_whole_response,
    a_large_refused_body, a_body_in_pieces, refused_elsewhere,
]  # fmt: skip


async def test_a_request_for_nothing_is_not_kept_by_its_error(server: StreamingService) -> None:
    """aiohttp's route for it is a small cycle of its own."""
    with garbage() as found:
        async with http(server.url) as client:
            for path in ("/v1/nothing", "/health") * TIMES:
                await client.post(path, content=b"x" * 10_000)
        await eventually(lambda: not server.connection_manager.connections)
    assert not found["aiohttp.web_request.Request"]


@pytest.mark.parametrize("visit", VISITS)
async def test_a_visit_leaves_nothing_for_the_collector(
    visit: Callable[[StreamingService], Awaitable[None]],
    start_server: StartServer,
    upstream: FakeUpstream,
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url, chat_retention_seconds=0)
    await visit(server)
    with garbage() as found:
        for _ in range(TIMES):
            await visit(server)
        await eventually(lambda: not server.connection_manager.connections)
        server.context.answers.evict()
        await asyncio.sleep(0)
    assert not found
