"""Connection management: limits, heartbeats, sweeps, backpressure, stalled clients, drain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from streaming_api.service import StreamingService
from tests.clients import (
    UNIT,
    Message,
    Socket,
    content,
    events,
    eventually,
    http,
    is_end,
    question,
    websocket,
)
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import CLOSE, PING, TEXT, Raw, dechunked, messages_of, raw

MANY = tuple(f"t{number} {'x' * 10_000}" for number in range(3_000))
"""An answer that no socket buffer holds: 30 MB."""
RETENTION = 200_000
LITTLE = 4096  # bytes of a client's receive buffer
CHAT = "/streaming/websocket/chat"


def closed(server: StreamingService, kind: str) -> Callable[[], bool]:
    """A condition: no connection of this kind is open."""
    return lambda: server.connection_manager.open[kind] == 0


async def ask(tcp: Raw, **fields: object) -> None:
    """Start an answer on a raw WebSocket."""
    await tcp.upgrade()
    await tcp.command(message_type="chat_completion", **question(**fields))  # type: ignore[arg-type]


@asynccontextmanager
async def fast_and_slow(
    start_server: StartServer, upstream: FakeUpstream
) -> AsyncIterator[tuple[StreamingService, Socket, Raw]]:
    """Two clients, for an answer that is held back until both watch it."""
    server = await start_server(api_gateway_endpoint=upstream.url, chat_retention_bytes=RETENTION)
    upstream.gated(Script(tokens=MANY))
    async with (
        websocket(server.url, CHAT, compression=None) as fast,
        raw(server.url, receive_buffer=LITTLE) as slow,
    ):
        yield server, fast, slow


async def both_watch(server: StreamingService, upstream: FakeUpstream) -> None:
    """Let the answer go on once it has two viewers."""
    await eventually(lambda: len(server.context.answers.running[0].channel.viewers()) == 2)
    assert upstream.default.gate is not None
    upstream.default.gate.open()


class TestLimits:
    async def test_limits_refuse_one_websocket_too_many_before_the_upgrade(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(max_connections=3)
        async with AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(websocket(server.url)) for _ in range(3)]
            async with raw(server.url) as tcp:
                head = await tcp.upgrade()
                assert head.startswith("HTTP/1.1 503 ")
                assert "\r\nRetry-After: 5\r\n" in head
                assert b'"code":"connections"' in await tcp.until(b"}}")
            async with events(server.url, "/streaming/sse/status") as stream:
                await stream.receive()  # the other kind has its own limit
            await sockets[0].connection.close()
            await eventually(lambda: server.connection_manager.open["websocket"] == 2)
            await stack.enter_async_context(websocket(server.url))
            assert server.context.telemetry.refusals["connections"] == 1

    async def test_limits_refuse_one_event_stream_too_many_of_every_sort(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, sse_max_connections=1)
        async with (
            events(server.url, "/streaming/sse/status") as stream,
            http(server.url) as client,
        ):
            await stream.receive()
            for method, path in (
                ("GET", "/streaming/sse/alerts"),
                ("POST", "/streaming/sse/chat"),
                ("POST", "/v1/chat/completions"),
            ):
                body = question() if method == "POST" else None
                reply = await client.request(method, path, json=body)
                assert reply.status_code == 503
                assert reply.headers["retry-after"] == "5"
                assert reply.json()["error"]["code"] == "connections"
            assert (await client.get("/health")).status_code == 200
        assert upstream.generations == []

    async def test_limits_hold_for_one_address(self, start_server: StartServer) -> None:
        server = await start_server(max_connections_per_ip=2)
        async with (
            websocket(server.url),
            events(server.url, "/streaming/sse/status"),
            raw(server.url) as tcp,
        ):
            assert (await tcp.upgrade()).startswith("HTTP/1.1 503 ")
            assert b'"code":"per_address"' in await tcp.until(b"}}")
        await eventually(closed(server, "sse"))
        await eventually(closed(server, "websocket"))
        async with websocket(server.url):
            pass

    async def test_limits_hold_for_memory(self, start_server: StartServer) -> None:
        server = await start_server(memory_gb=0.001)
        async with raw(server.url) as tcp:
            head = await tcp.upgrade()
            assert head.startswith("HTTP/1.1 503 ")
            assert "\r\nRetry-After: 30\r\n" in head
            assert b'"code":"memory"' in await tcp.until(b"}}")

    async def test_a_slot_is_given_back_when_a_client_leaves_while_it_is_let_in(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(max_connections=5, sse_max_connections=5)
        for _ in range(50):
            async with raw(server.url) as tcp:
                await tcp.request("GET", "/streaming/sse/status")
                tcp.reset()
        await eventually(closed(server, "sse"))
        async with events(server.url, "/streaming/sse/status") as stream:
            await stream.receive()
        assert server.connection_manager.open["sse"] <= 1


class TestHeartbeats:
    async def test_heartbeats_keep_a_client_that_answers(self, start_server: StartServer) -> None:
        server = await start_server(heartbeat_interval=0.2)
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.command(message_type="alert")
            for _ in range(3):
                opcode = TEXT
                while opcode != PING:
                    opcode, _ = await tcp.frame()
                await tcp.send_frame(b"", 0xA)
            assert server.connection_manager.open["websocket"] == 1

    async def test_heartbeats_drop_a_client_that_does_not(self, start_server: StartServer) -> None:
        server = await start_server(heartbeat_interval=0.2)
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.command(message_type="alert")
            await eventually(lambda: server.connection_manager.open["websocket"] == 1)
            await eventually(closed(server, "websocket"))
        assert server.context.telemetry.endings["websocket", "ping_timeout"] == 1

    async def test_heartbeats_come_as_comments_on_an_event_stream(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(sse_keep_alive_interval=0.1)
        async with raw(server.url) as tcp:
            await tcp.request("GET", "/streaming/sse/alerts")
            for _ in range(3):
                await tcp.until(b": keep-alive\n")

    async def test_heartbeats_are_asked_of_a_client_that_never_says_anything(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(timeout=0.3)
        async with websocket(server.url) as silent, websocket(server.url) as watching:
            await watching.send(message_type="alert")
            assert await silent.closed() == 1008
            assert await (await watching.connection.ping()) >= 0


class TestTheIdleSweep:
    async def test_the_idle_sweep_closes_what_has_nothing_to_do_with_1000(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(cleanup_interval=0.1, max_idle_time=0.3)
        async with websocket(server.url) as socket:
            await socket.subscribe("alert")
            begun = time.monotonic()
            assert await socket.closed() == 1000
            assert time.monotonic() - begun > 0.2

    async def test_the_idle_sweep_is_not_held_off_by_pings(self, start_server: StartServer) -> None:
        server = await start_server(cleanup_interval=0.1, max_idle_time=1, heartbeat_interval=0.2)
        async with websocket(server.url, ping_interval=0.2) as socket:
            await socket.send(message_type="alert")
            assert await socket.closed() == 1000

    async def test_the_idle_sweep_ends_event_streams_too_whatever_comments_they_got(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(
            cleanup_interval=0.1, max_idle_time=1, sse_keep_alive_interval=0.2
        )
        async with raw(server.url) as tcp:
            await tcp.request("GET", "/streaming/sse/alerts")
            await tcp.until(b"\r\n\r\n")
            body = dechunked(await tcp.rest())
        assert b": keep-alive" in body
        assert server.context.telemetry.endings["sse", "idle"] == 1

    async def test_the_idle_sweep_spares_what_is_in_use(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(
            api_gateway_endpoint=upstream.url, cleanup_interval=0.1, max_idle_time=0.4
        )
        upstream.default = Script(tokens=40, rate=40)
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            assert content(await socket.answer()) == upstream.default.text()


class TestASlowClient:
    @pytest.mark.parametrize("face", ["websocket", "sse"])
    async def test_a_slow_client_makes_the_upstream_wait_and_loses_nothing(
        self, face: str, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(
            api_gateway_endpoint=upstream.url, chat_retention_bytes=RETENTION
        )
        upstream.default = Script(tokens=MANY)
        async with raw(server.url, receive_buffer=LITTLE) as tcp:
            if face == "websocket":
                await ask(tcp, request_id="r-1")
            else:
                await tcp.request("POST", "/streaming/sse/chat", question(request_id="r-1"))
            generation = await upstream.generation()
            await eventually(lambda: server.context.answers.running[0].channel.full)
            answer = server.context.answers.running[0]
            await upstream.until(lambda: generation.is_blocked and answer.channel.full)
            assert answer.stream.size < RETENTION + 2**20  # what one read brought is on top
            assert generation.sent < len(MANY)
            if face == "websocket":
                seen: list[Message] = []
                while not seen or not is_end(seen[-1]):
                    opcode, payload = await tcp.frame()
                    assert opcode in {TEXT, PING}
                    if opcode == TEXT:
                        seen += messages_of(b"data: " + payload)
            else:
                await tcp.until(b"\r\n\r\n")
                seen = messages_of(dechunked(await tcp.rest()))
        assert [message["sequence_id"] for message in seen] == list(range(1, len(seen) + 1))
        assert content(seen) == "".join(MANY)
        assert seen[-1]["data"]["finish_reason"] == "stop"

    async def test_a_slow_client_falls_off_with_a_gap_and_1013_while_the_fast_one_gets_everything(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        async with fast_and_slow(start_server, upstream) as (server, fast, slow):
            await fast.start("r-1")
            await ask(slow, request_id="r-1")
            await both_watch(server, upstream)
            seen = await fast.answer()
            assert content(seen) == "".join(MANY)
            *got, gap = (found := await slow.messages_and_close())[0]
            assert found[1] == 1013
        assert got == seen[: len(got)]  # all it was given, without a hole
        assert gap["data"]["event"] == "gap"
        assert gap["data"]["reason"] == "evicted"
        assert gap["data"]["from"] == len(got) + 1
        assert gap["data"]["to"] < len(seen)
        assert server.context.telemetry.endings["websocket", "too_slow"] == 1

    async def test_a_slow_client_falls_off_an_event_stream_with_a_gap_too(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        async with fast_and_slow(start_server, upstream) as (server, fast, slow):
            await fast.start("r-1")
            await eventually(lambda: server.context.answers.running)
            await slow.request("GET", "/streaming/sse/chat/r-1")
            await both_watch(server, upstream)
            seen = await fast.answer()
            await slow.until(b"\r\n\r\n")
            *got, gap = messages_of(dechunked(await slow.rest()))
        assert got == seen[: len(got)]
        assert gap["data"]["event"] == "gap"
        assert gap["data"]["from"] == len(got) + 1

    async def test_a_slow_client_of_openais_wire_gets_an_error_when_something_is_missing(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        async with fast_and_slow(start_server, upstream) as (server, fast, slow):
            await fast.start("k-1")
            await eventually(lambda: server.context.answers.running)
            await slow.request(
                "POST", "/v1/chat/completions", question(stream=True, request_id="k-1")
            )
            await both_watch(server, upstream)
            assert content(await fast.answer()) == "".join(MANY)
            await slow.until(b"\r\n\r\n")
            body = dechunked(await slow.rest())
        assert b"[DONE]" not in body
        assert b'data: {"error":' in body[-400:]


class TestAStalledClient:
    @pytest.mark.parametrize("kind", ["websocket", "sse"])
    async def test_a_stalled_client_is_dropped_and_its_answer_with_it(
        self, kind: str, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, stall_timeout=0.5)
        upstream.default = Script(tokens=MANY)
        async with raw(server.url, receive_buffer=LITTLE) as tcp:
            if kind == "websocket":
                await ask(tcp, on_disconnect="cancel")
            else:
                body = question(on_disconnect="cancel")
                await tcp.request("POST", "/streaming/sse/chat", body)
            generation = await upstream.generation()
            await eventually(lambda: server.connection_manager.open[kind] == 1)
            begun = time.monotonic()
            await eventually(closed(server, kind))
            assert time.monotonic() - begun < 0.5 + 2
            await generation.wait_closed(1)
            assert server.context.telemetry.endings[kind, "stalled"] == 1
            assert not server.connection_manager.connections

    async def test_a_stalled_client_is_dropped_also_when_all_has_been_said(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, stall_timeout=0.5)
        upstream.default = Script(tokens=("x" * 8_000_000,))
        async with raw(server.url, receive_buffer=LITTLE) as tcp:
            await tcp.request("POST", "/v1/chat/completions", question())
            await eventually(lambda: server.connection_manager.open["sse"] == 1)
            await eventually(closed(server, "sse"))

    async def test_a_stalled_client_is_nothing_to_the_others(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url)
        upstream.scripts["many"] = Script(tokens=MANY)
        upstream.default = Script(tokens=20, rate=100)
        async with raw(server.url, receive_buffer=LITTLE) as tcp:
            await ask(tcp, model="many")
            await eventually(lambda: any(c.paused for c in server.connection_manager.present()))
            async with websocket(server.url, CHAT) as socket:
                await socket.start("r-1")
                assert content(await socket.answer()) == upstream.default.text()


class TestTheDrain:
    async def test_the_drain_ends_answers_on_openais_wire_with_an_error(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        """Streamed or whole; viewers of our own wires are in ``test_process``."""
        upstream.default = Script(tokens=10, hang_after=2)
        server = await start_server(api_gateway_endpoint=upstream.url)
        async with http(server.url, timeout=2 * UNIT) as client, raw(server.url) as completion:
            await completion.request("POST", "/v1/chat/completions", question(stream=True))
            await completion.until(b"t1 ")
            body = question("hang-before-headers")
            whole = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            await eventually(lambda: len(server.context.answers.running) == 2)
            stopping = asyncio.create_task(server.stop())
            rest = await completion.rest()
            assert b'"code":"server_stopping"' in rest
            assert b"[DONE]" not in rest
            assert rest.endswith(b"0\r\n\r\n")
            reply = await whole
            assert reply.status_code >= 500
            assert reply.json()["error"]["code"] == "server_stopping"
            async with asyncio.timeout(10):
                await stopping

    async def test_the_drain_lets_answers_end_that_can(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=20, rate=40)
        server = await start_server(api_gateway_endpoint=upstream.url)
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            await socket.receive()
            chat = server.context.answers
            stopping = asyncio.create_task(server.stop())
            await eventually(lambda: chat.draining)
            await socket.start("r-2")
            rest = await socket.answer()
            refused = [m for m in rest if m["request_id"] == "r-2"]
            assert [m["data"]["error"]["code"] for m in refused] == ["draining"]
            assert rest[-1]["data"]["finish_reason"] == "stop"
            assert await socket.closed() == 1012
            await stopping

    async def test_the_drain_does_not_wait_for_a_client_that_never_closes(
        self, start_server: StartServer
    ) -> None:
        server = await start_server()
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            begun = time.monotonic()
            await server.stop()
            assert time.monotonic() - begun < 10
            opcode, payload = await tcp.frame()
            assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 1012)
