"""Connections to the upstream that are used again: fewer handshakes, and no request lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from streaming_api.upstreams.gateway import ExchangeResult, OpenAIClient
from tests.clients import eventually
from tests.fakes.script import Script, Writer
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import LAST_CHUNK, chunked, head

BODY = b'{"model":"fake","messages":[{"role":"user","content":"Hello"}],"stream":true}'
ANSWER = b"".join(
    [
        head(200, "text/event-stream", chunks=True),
        *map(chunked, Writer(Script(), "fake").closing(usage=False, tokens=0)),
        LAST_CHUNK,
    ]
)


def client(url: str, keep_alive: float = 30) -> OpenAIClient:
    return OpenAIClient(url, keep_alive=keep_alive)


async def ask(gateway: OpenAIClient, body: bytes = BODY) -> ExchangeResult:
    return (await gateway.exchange(body, lambda _: None, stream=True).run()).result


@asynccontextmanager
async def upstream_that(
    replies: Callable[[int, int], bytes | None],
) -> AsyncIterator[tuple[str, list[tuple[int, int]]]]:
    """A server that replies to the n-th request on the m-th connection, or hangs up.

    Yields:
        its address, and the requests that it has got: connection and number.
    """
    seen: list[tuple[int, int]] = []
    connections = 0
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connection, number = connections, 0
        connections += 1
        writers.append(writer)
        while True:
            try:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(BODY))
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            seen.append((connection, number))
            reply = replies(connection, number)
            number += 1
            if reply is None:
                break
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def test_one_connection_serves_one_answer_after_the_other(upstream: FakeUpstream) -> None:
    gateway = client(upstream.url)
    for _ in range(3):
        assert (await ask(gateway)).finish_reason == "stop"
    assert (upstream.accepted, len(upstream.generations)) == (1, 3)
    await gateway.close()
    await upstream.until(lambda: not upstream.connections)


async def test_answers_side_by_side_have_connections_of_their_own(upstream: FakeUpstream) -> None:
    gateway = client(upstream.url)
    await asyncio.gather(*(ask(gateway) for _ in range(5)))
    await asyncio.gather(*(ask(gateway) for _ in range(5)))
    assert upstream.accepted == 5
    await gateway.close()


@pytest.mark.parametrize("model", ["cut-fin", "hang-midway", "endless"])
async def test_a_connection_whose_answer_was_not_complete_is_not_used_again(
    upstream: FakeUpstream, model: str
) -> None:
    gateway = client(upstream.url)
    asking = asyncio.create_task(ask(gateway, BODY.replace(b"fake", model.encode())))
    generation = await upstream.generation()
    await upstream.until(lambda: generation.sent >= 3)
    if model == "cut-fin":
        await asking
    else:
        asking.cancel()
    await generation.wait_closed()
    assert (await ask(gateway)).finish_reason == "stop"
    assert upstream.accepted == 2
    await gateway.close()


async def test_a_connection_that_waits_too_long_is_closed(upstream: FakeUpstream) -> None:
    gateway = client(upstream.url, keep_alive=0.05)
    await ask(gateway)
    await upstream.until(lambda: not upstream.connections)
    assert (await ask(gateway)).finish_reason == "stop"


async def test_no_connection_is_kept_where_none_is_to_be(upstream: FakeUpstream) -> None:
    gateway = client(upstream.url, keep_alive=0)
    await ask(gateway)
    await upstream.until(lambda: not upstream.connections)


async def test_an_upstream_that_has_restarted_is_asked_anew(upstream: FakeUpstream) -> None:
    gateway = client(upstream.url)
    await ask(gateway)
    await upstream.stop()
    await upstream.start()
    assert (await ask(gateway)).finish_reason == "stop"
    await gateway.close()


async def test_a_request_that_meets_a_closed_connection_is_sent_again_once() -> None:
    async with upstream_that(lambda _, number: None if number else ANSWER) as (url, seen):
        gateway = client(url)
        for _ in range(2):
            assert (await ask(gateway)).finish_reason == "stop"
        assert seen == [(0, 0), (0, 1), (1, 0)]
        await gateway.close()


@pytest.mark.parametrize("body", [b"", b"Your browser was too slow."])
async def test_a_kept_connection_that_says_408_had_waited_in_vain(body: bytes) -> None:
    """HAProxy and others say so when they close an idle one, just as a request is on its way."""
    timeout = head(408, "text/plain", length=len(body)) + body
    async with upstream_that(lambda _, number: timeout if number else ANSWER) as (url, seen):
        gateway = client(url)
        for _ in range(2):
            assert (await ask(gateway)).finish_reason == "stop"
        assert seen == [(0, 0), (0, 1), (1, 0)]
        await gateway.close()
    async with upstream_that(lambda *_: timeout) as (url, seen):
        gateway = client(url)
        error = (await ask(gateway)).error
        assert error is not None
        assert (error.status, seen) == (408, [(0, 0)])
        await gateway.close()


async def test_a_request_on_a_new_connection_is_not_sent_again() -> None:
    async with upstream_that(lambda *_: None) as (url, seen):
        gateway = client(url)
        result = await ask(gateway)
        assert result.error is not None
        assert seen == [(0, 0)]
        await gateway.close()


async def test_a_request_is_not_sent_again_if_a_byte_of_its_answer_has_come() -> None:
    async with upstream_that(lambda _, number: ANSWER[:20] if number else ANSWER) as (url, seen):
        gateway = OpenAIClient(url, keep_alive=30, silence_timeout=0.2)
        await ask(gateway)
        result = await ask(gateway)
        assert result.error is not None
        assert seen == [(0, 0), (0, 1)]
        await gateway.close()


async def test_what_comes_without_a_question_ends_a_connection() -> None:
    async with upstream_that(lambda *_: ANSWER + b"HTTP/1.1 200 OK\r\n\r\n") as (url, seen):
        gateway = client(url)
        for _ in range(2):
            await ask(gateway)
        assert seen == [(0, 0), (1, 0)]
        await eventually(lambda: not gateway._connections.idle)
        await gateway.close()
