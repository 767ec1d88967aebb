"""A request's life on a connection: each request gets its own reply, in order, or it ends."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import pytest

from streaming_api.service import StreamingService
from tests.clients import eventually
from tests.conftest import StartServer
from tests.fakes.upstream import BEFORE_HEADERS, FakeUpstream, Script
from tests.mixtures import Mixture, request, speak
from tests.nginx import NGINX, nginx
from tests.raw import raw

SEEDS = range(20)
SEQUENCES = 15


@pytest.fixture
async def patient(start_server: StartServer, upstream: FakeUpstream) -> StreamingService:
    """The application without limits on how often."""
    return await start_server(
        api_gateway_endpoint=upstream.url,
        connections_per_minute=0,
        commands_per_second=0,
        chat_retention_seconds=1,
    )


@pytest.mark.parametrize("seed", SEEDS)
async def test_any_mixture_of_requests_gets_each_its_own_reply(
    patient: StreamingService, seed: int
) -> None:
    mixture = Mixture(seed)
    for _ in range(SEQUENCES):
        await speak(patient.url, mixture)


@pytest.mark.skipif(NGINX is None, reason="nginx is missing: apt-get install nginx")
async def test_any_mixture_through_nginx_gets_each_its_own_reply(
    patient: StreamingService, tmp_path: Path
) -> None:
    async with nginx(tmp_path, int(patient.url.rpartition(":")[2])) as url:

        async def client(seed: int) -> None:
            mixture = Mixture(seed, proxied=True)
            for _ in range(SEQUENCES):
                await speak(url, mixture)

        async with asyncio.TaskGroup() as clients:  # who share its connections to the server
            for seed in range(1000, 1008):
                clients.create_task(client(seed))


# Clients that send nothing more, and listen: ``nc -N``, HTTP/1.0 clients

HEALTH = request("GET", "/health", chunks=None)
NOWHERE = request("GET", "/nowhere", chunks=None)
CHAT = b'{"model": "silent", "stream": %b, "messages": [{"role": "user", "content": "Hello"}]}'


@pytest.mark.parametrize("tail", [b"", HEALTH[:-4], b"POST / HTTP/1.1\r\nHost: localhost\r\n"])
async def test_what_was_asked_before_a_fin_is_answered(
    server: StreamingService, tail: bytes
) -> None:
    async with raw(server.url) as tcp:
        await tcp.send(HEALTH + NOWHERE + HEALTH + tail)
        tcp.half_close()
        replies = await tcp.rest()
    assert re.findall(rb"HTTP/1.1 ([0-9]{3}) ", replies) == [b"200", b"404", b"200"]


async def test_a_fin_within_a_body_ends_the_connection(server: StreamingService) -> None:
    async with raw(server.url) as tcp:
        await tcp.send(request("POST", "/v1/chat/completions", body=b"{}", chunks=None)[:-1])
        tcp.half_close()
        assert await tcp.rest() == b""


@pytest.mark.parametrize("later", [False, True], ids=["with the request", "later"])
@pytest.mark.parametrize("stream", [b"false", b"true"])
async def test_an_answer_is_for_who_stays(
    server: StreamingService, upstream: FakeUpstream, stream: bytes, *, later: bool
) -> None:
    """A FIN counts as leaving, for the upstream must not work for nobody; and that is said."""
    upstream.scripts["silent"] = Script(hang_after=BEFORE_HEADERS)
    async with raw(server.url) as tcp:
        body = CHAT % stream
        await tcp.send(request("POST", "/v1/chat/completions", body=body, chunks=None))
        if later:
            await eventually(lambda: len(upstream.generations) == 1)
        tcp.half_close()
        reply = await tcp.rest()
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b'"half_closed"' in reply
    await eventually(lambda: not server.context.answers.running)


# Bodies that nobody has asked for


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [("/v1/chat/completions", 10**9, b"413"), ("/nowhere", 10, b"404"), ("/health", 10, b"405")],
)
async def test_a_body_that_is_refused_is_not_asked_for(
    server: StreamingService, path: str, length: int, status: bytes
) -> None:
    """RFC 9110 section 10.1.1: the final reply instead of 100; what comes next is not known."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    async with raw(server.url) as tcp:
        await tcp.send(f"{head}Content-Length: {length}\r\n\r\n".encode())
        replies = await tcp.rest()
    assert replies.startswith(b"HTTP/1.1 " + status)
    assert replies.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in replies


async def test_an_expectation_on_two_lines_is_one(server: StreamingService) -> None:
    lines = ("Expect: 100-Continue", "Expect: 100-continue", "Connection: close")
    async with raw(server.url) as tcp:
        await tcp.send(request("POST", "/v1/chat/completions", *lines, body=b"{}", chunks=None))
        assert b'"missing_field"' in await tcp.rest()


async def test_other_expectations_are_417(server: StreamingService) -> None:
    async with raw(server.url) as tcp:
        await tcp.send(request("GET", "/health", "Expect: wonders", chunks=None) + HEALTH)
        assert (await tcp.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 417 ")
        assert b'"expectation_failed"' in await tcp.until(b"}}")
        assert (await tcp.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_breaks_while_it_is_discarded_is_not_logged(
    server: StreamingService, caplog: pytest.LogCaptureFixture
) -> None:
    head = request("POST", "/nowhere", "Transfer-Encoding: chunked", chunks=None)
    with caplog.at_level(logging.ERROR):
        async with raw(server.url) as tcp:
            await tcp.send(head + b"3\r\nabc\r\n")
            assert (await tcp.until(b"}}")).startswith(b"HTTP/1.1 404 ")
            await tcp.send(b"nonsense\r\n" + HEALTH)
            assert await tcp.rest() == b""
    assert not caplog.records


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "3.0"])
async def test_other_versions_are_no_http(server: StreamingService, version: str) -> None:
    async with raw(server.url) as tcp:
        await tcp.send(f"GET /health HTTP/{version}\r\nHost: localhost\r\n\r\n".encode() + HEALTH)
        reply = await tcp.rest()
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.count(b"HTTP/1.1 ") == 1
    assert b'"invalid_http"' in reply


# Lists over several lines (RFC 9110 section 5.3)

HANDSHAKE = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")


@pytest.mark.parametrize(
    ("lines", "status_line"),
    [
        (("Connection: keep-alive", "Connection: Upgrade", "Upgrade: websocket"), b"101"),
        (("Connection: Upgrade", "Upgrade: h2c", "Upgrade: websocket"), b"101"),
        (
            (
                "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Protocol: other",
                "sec-websocket-protocol: streaming-api.v1",
            ),
            b"\r\nSec-WebSocket-Protocol: streaming-api.v1\r\n",
        ),
        (
            (
                "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Extensions: x-unknown",
                "Sec-WebSocket-Extensions: permessage-deflate",
            ),
            b"\r\nSec-WebSocket-Extensions: permessage-deflate",
        ),
        (("Connection: Upgrade", "Upgrade: websocket", HANDSHAKE[1]), b"400"),  # a key is no list
    ],
    ids=["Connection", "Upgrade", "subprotocols", "extensions", "two keys"],
)  # fmt: skip
async def test_a_list_over_several_lines_is_one_list(
    server: StreamingService, lines: tuple[str, ...], status_line: bytes
) -> None:
    async with raw(server.url) as tcp:
        path = "/streaming/websocket"
        await tcp.send(request("GET", path, *lines, *HANDSHAKE, chunks=None))
        assert status_line in await tcp.until(b"\r\n\r\n")


async def test_a_head_opens_no_websocket(server: StreamingService) -> None:
    lines = ("Upgrade: websocket", "Connection: Upgrade", *HANDSHAKE)
    async with raw(server.url) as tcp:
        await tcp.send(request("HEAD", "/streaming/websocket", *lines, chunks=None))
        assert b" 405 " in await tcp.until(b"\r\n\r\n")


async def test_codings_over_several_lines_are_one_list(server: StreamingService) -> None:
    lines = ("Accept-Encoding: br", "Accept-Encoding: gzip")
    async with raw(server.url) as tcp:
        await tcp.send(request("HEAD", "/streaming/sse", *lines, chunks=None))
        assert b"\r\nContent-Encoding: gzip\r\n" in await tcp.until(b"\r\n\r\n")
