"""The real process: it starts, says where it serves, and ends as it should when it is asked to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress

import pytest
import websockets

from tests.clients import UNIT, Socket, is_end, question, valid, websocket
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import dechunked, messages_of, raw
from tests.workers import ROOT, serving

SOCKETS, STREAMS, ANSWERS = 200, 100, 20
GRACE = 10.0
"""Seconds within which the process must be gone."""


async def told_on_a_socket(socket: Socket) -> int:
    """Read a socket to its end; the close code."""
    with suppress(websockets.ConnectionClosed):
        while True:
            valid(await socket.connection.recv())
    return socket.connection.close_code or 0


async def test_sigterm_under_load_notifies_everybody_within_ten_seconds(
    upstream: FakeUpstream,
) -> None:
    """200 WebSockets, 100 event streams, 20 running answers."""
    upstream.default = Script(endless=True, rate=20)
    async with (
        serving(API_GATEWAY_ENDPOINT=upstream.url, STREAMING_DRAIN_TIMEOUT="3") as service,
        AsyncExitStack() as stack,
    ):
        enter, url = stack.enter_async_context, service.url
        sockets = [await enter(websocket(url, ping_interval=None)) for _ in range(SOCKETS)]
        chats = sockets[: ANSWERS // 2]
        for socket in sockets[len(chats) :]:
            await socket.send(message_type="status_update")
        for number, socket in enumerate(chats):
            await socket.start(f"w-{number}")
        streams = [await enter(raw(url)) for _ in range(STREAMS)]
        for number, stream in enumerate(streams):
            if number < ANSWERS - len(chats):
                body = question(request_id=f"s-{number}")
                await stream.request("POST", "/streaming/sse/chat", body)
            else:
                await stream.request("GET", "/streaming/sse/status")
        for stream in streams:
            await stream.until(b"\r\n\r\n")
        for socket in sockets:
            await socket.receive()
        await upstream.until(lambda: upstream.running == ANSWERS)

        service.signal(signal.SIGTERM)
        begun = time.monotonic()
        ends = asyncio.gather(*(socket.answer() for socket in chats))
        codes = asyncio.gather(*(told_on_a_socket(socket) for socket in sockets[len(chats) :]))
        bodies = asyncio.gather(*(stream.rest() for stream in streams))
        async with asyncio.timeout(2 * GRACE):
            answers = [seen[-1]["data"] for seen in await ends]
            rest = [await told_on_a_socket(socket) for socket in chats]
            assert [*(await codes), *rest] == [1012] * SOCKETS
            found = [messages_of(dechunked(body)) for body in await bodies]
            assert await service.ended(2 * GRACE) == 0
        assert time.monotonic() - begun < GRACE
    answers += [seen[-1]["data"] for seen in found[: ANSWERS - len(chats)]]
    assert len(answers) == ANSWERS
    for end in answers:
        assert end["object"] == "chat.completion.end"
        assert end["finish_reason"] == "incomplete"
        assert end["error"]["code"] == "server_stopping"
    for seen in found[ANSWERS - len(chats) :]:
        assert seen[-1]["data"]["status"]["state"] == "draining"
        assert not any(is_end(message) for message in seen)
    assert upstream.running == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_process_ends_at_once(number: signal.Signals) -> None:
    async with serving() as service:
        async with websocket(service.url) as socket:
            await socket.send(message_type="status_update")
            await socket.receive()
            service.signal(number)
            assert await told_on_a_socket(socket) == 1012
        assert await service.ended(GRACE) == 0


async def test_a_port_that_is_taken_is_said_and_not_a_traceback(upstream: FakeUpstream) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streaming_api", "serve", "--port", str(upstream.port),
        cwd=ROOT,
        env={**os.environ, "STREAMING_EMBEDDED_MODEL": "none"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(4 * UNIT):
        output, _ = await process.communicate()
    assert process.returncode == 1
    assert b"cannot listen on 127.0.0.1" in output
    assert b"--port" in output
    assert b"Traceback" not in output
