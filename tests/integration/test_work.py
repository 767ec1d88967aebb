"""Work as a budget: what a client may cost in one turn of the loop, and in a second.

The attackers send what cost most for its bytes: deflated commands, frames of one byte, nonsense.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import httpx
import pytest

from streaming_api.access.client import Client
from streaming_api.answers.answers import Answers
from streaming_api.answers.watched_answer import WatchedAnswer
from streaming_api.connections.turns import TURN_BYTES, Turns
from streaming_api.web.websocket import CHOKED_BYTES, TURN_FRAMES, TURN_STARTS, WebSocket
from streaming_api.wire.commands import ChatRequest
from streaming_api.wire.frame_parser import POLICY, Received
from streaming_api.wire.objects import MOST_VALUES, parse_object
from tests.clients import UNIT, eventually, http, question, valid, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.integration.test_hostile import DEFLATE, UPGRADE, deflated, frame, others
from tests.integration.test_process import GRACE
from tests.raw import TEXT, raw
from tests.workers import serving

SOCKETS: Final = 10
"""Hostile ones at once."""
PROMISED: Final = 0.1
"""Seconds within which ``/health`` answers beside them, at the median."""


def dense(size: int) -> bytes:
    """A start of about so many bytes that is as many values as it can be."""
    return b'{"message_type":"chat_completion","messages":[%b{}]}' % (b'{"a":1},' * (size // 8))


def bombs(text: bytes) -> bytes:
    """So many deflated ones of it as fit in 64 KiB."""
    bomb = frame(deflated(text), bits=0x40)
    return bomb * (64 * 1024 // len(bomb))


TAKEN: Final = dense(8 * MOST_VALUES // 3 - 100)[:-2] + b'],"x":"%b"}' % (b"x" * 300_000)
"""A command of a megabyte, as costly as one may be."""
ATTACKS: Final = {
    "deflated commands": bombs(TAKEN),
    "deflated commands of more values": bombs(dense(1_000_000)),
    "frames of one byte": frame(b"{") * 79_000,
    "binary frames of one byte": frame(b"x", 0x2) * 79_000,
    "fragments of one byte": frame(b"x", fin=False) + frame(b"x", 0, fin=False) * 79_000,
    "commands": frame(b'{"message_type":"alert"}') * 4_000,
}


async def attack(url: str, data: bytes) -> None:
    """Send it again and again, on a new connection whenever the server has had enough."""
    head = UPGRADE + DEFLATE + "\r\n"
    while True:
        with suppress(OSError, AssertionError, TimeoutError):
            async with raw(url) as tcp:
                await tcp.send(head.encode())
                await tcp.until(b"\r\n\r\n")
                await tcp.flood(data)
        await asyncio.sleep(0)


CHUNKS: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
)
BOMB: Final = gzip.compress(b" " * 30_000_000)
BOMBS: Final = (
    b"POST %%b HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    % len(BOMB)
)
PIPELINES: Final = {
    "compressed bodies": BOMBS % b"/v1/chat/completions" + BOMB,
    "compressed bodies for nobody": BOMBS % b"/v1/nothing" + BOMB,
    "requests": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2_000,
    "empty lines before a request": b"\r\n" * 100_000,
    "chunks of one byte": CHUNKS + b"1;a=b;c=d\r\n \r\n" * 40_000,
    "chunks of empty lines": CHUNKS + (b"10000\r\n" + b"\r\n" * 32_769) * 4,
}


async def pipeline(url: str, data: bytes) -> None:
    """What is cheap to send, more than is answered."""
    while True:
        with suppress(OSError, TimeoutError):
            async with raw(url) as tcp:
                await tcp.flood(data)
        await asyncio.sleep(0)  # nobody who is refused at once must be all that runs


@asynccontextmanager
async def attacked(begin: Callable[[], list[asyncio.Task[None]]]) -> AsyncIterator[None]:
    tasks = begin()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def health_median(url: str, seconds: float = 3.0) -> float:
    took: list[float] = []
    async with http(url, timeout=4 * UNIT) as client:
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(took) < 10:
            begun = time.monotonic()
            assert (await client.get("/health")).status_code == 200
            took.append(time.monotonic() - begun)
            await asyncio.sleep(0.02)
    return statistics.median(took)


@pytest.mark.parametrize("kind", [*ATTACKS, *PIPELINES])
async def test_health_answers_beside_hostile_sockets_and_sigterm_ends(kind: str) -> None:
    async with serving() as service:
        url = service.url

        def begin() -> list[asyncio.Task[None]]:
            work = (
                attack(url, ATTACKS[kind]) if kind in ATTACKS else pipeline(url, PIPELINES[kind])
                for _ in range(SOCKETS)
            )
            return [asyncio.ensure_future(one) for one in work]

        async with attacked(begin):
            await asyncio.sleep(0)
            assert await health_median(url) < PROMISED
            service.signal(signal.SIGTERM)
            assert await service.ended(GRACE) == 0


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A sum for each turn in which a socket was read; tests add to the last."""
    sums = [0]
    read = WebSocket._read

    def counted(socket: WebSocket, data: bytes) -> None:
        sums.append(0)
        read(socket, data)

    monkeypatch.setattr(WebSocket, "_read", counted)
    return sums


class TestOneTurn:
    async def test_one_turn_reads_so_many_frames_and_the_rest_in_order_later(
        self, start_server: StartServer, turns: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[bytes] = []
        message = WebSocket.message

        def noted(socket: WebSocket, received: Received) -> None:
            turns[-1] += 1
            seen.append(received.payload)
            message(socket, received)

        monkeypatch.setattr(WebSocket, "message", noted)
        server = await start_server()
        sent = [b'{"n":%d}' % number for number in range(1_000)]
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.send(b"".join(map(frame, sent)))
            for _ in sent:
                assert (await tcp.frame())[0] == TEXT
        assert seen == sent
        assert max(turns) == TURN_FRAMES

    async def test_one_turn_reads_so_many_inflated_bytes(
        self, start_server: StartServer, turns: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message = WebSocket.message

        def noted(socket: WebSocket, received: Received) -> None:
            turns[-1] += len(received.payload)
            message(socket, received)

        monkeypatch.setattr(WebSocket, "message", noted)
        server = await start_server()
        size = TURN_BYTES // 2 + 1
        text = b'{"n":"%b"}' % (b"x" * (size - 8))
        async with raw(server.url) as tcp:
            await tcp.send((UPGRADE + DEFLATE + "\r\n").encode())
            await tcp.until(b"\r\n\r\n")
            await tcp.send(frame(deflated(text), bits=0x40) * 50)
            for _ in range(50):
                await tcp.frame()
        assert sum(turns) == 50 * len(text)
        assert max(turns) <= TURN_BYTES + len(text)

    @pytest.mark.parametrize("kind", ["chat_completion", "response.create"])
    async def test_one_turn_starts_so_many_answers(
        self, start_server: StartServer, upstream: FakeUpstream, kind: str,
        turns: list[int], monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        upstream.default = Script(tokens=1)
        start = Answers.start

        def noted(answers: Answers, request: ChatRequest, client: Client) -> WatchedAnswer:
            turns[-1] += 1
            return start(answers, request, client)

        monkeypatch.setattr(Answers, "start", noted)
        server = await start_server(api_gateway_endpoint=upstream.url)
        commands = [
            {"type": kind, "message_type": kind, "stream_id": f"{n}", "input": "x", **question()}
            for n in range(30)
        ]
        async with raw(server.url) as tcp:
            if kind == "response.create":
                await tcp.upgrade("/v1/responses")
            else:
                await tcp.upgrade()
            await tcp.send(b"".join(frame(json.dumps(each).encode()) for each in commands))
            await eventually(lambda: sum(turns) == 30)
        assert max(turns) == TURN_STARTS

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
    async def test_one_turn_reads_one_large_body(
        self, start_server: StartServer, upstream: FakeUpstream, path: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """It waits for its turn behind others, and small ones do not."""
        server = await start_server(api_gateway_endpoint=upstream.url)
        go_on: list[Turns] = []

        def hold(turns: Turns) -> None:
            go_on.append(turns)

        monkeypatch.setattr(Turns, "_next", hold)
        async with http(server.url) as client:

            def ask(size: int) -> asyncio.Task[httpx.Response]:
                body = {"input": "x", **question(user="x" * size)}
                return asyncio.ensure_future(client.post(path, json=body))

            large = [ask(TURN_BYTES), ask(TURN_BYTES)]
            await eventually(lambda: len(server.connection_manager.turns) == 2)
            assert (await ask(1_000)).status_code == 200
            assert not any(task.done() for task in large)
            assert len(go_on) == 1
            monkeypatch.undo()
            go_on[0]._next()
            assert len(server.connection_manager.turns) == 1
            assert [(await task).status_code for task in large] == [200, 200]

    async def test_a_turn_of_somebody_who_has_left_is_not_used(self) -> None:
        turns, read = Turns(), list[int]()
        first, second = (asyncio.ensure_future(turns.run(lambda: read.append(1))) for _ in "ab")
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert read == [1]


class TestWhoGoesOn:
    @pytest.mark.parametrize(
        "piece",
        [frame(b"{"), frame(b"x", 0x2), frame(b'{"message_type":"alert"}')],
        ids=["nonsense", "binary", "commands"],
    )
    async def test_who_goes_on_above_the_rate_gets_errors_and_then_is_closed(
        self, start_server: StartServer, piece: bytes
    ) -> None:
        server = await start_server(commands_per_second=5)
        async with others(server), raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.send(piece * 200)
            messages, code = await tcp.messages_and_close()
        codes = [m["data"]["error"]["code"] for m in messages if "error" in m["data"]]
        assert codes.count("too_many_commands") >= 10
        assert code == POLICY

    async def test_who_goes_on_in_pieces_is_closed(self, start_server: StartServer) -> None:
        server = await start_server(commands_per_second=5)
        async with others(server), raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.send(frame(b"x", fin=False) + frame(b"x", 0, fin=False) * 500)
            assert (await tcp.messages_and_close())[1] == POLICY

    async def test_large_commands_count_as_many_commands(self, start_server: StartServer) -> None:
        """Ten at once are allowed, and each of these costs seven."""
        server = await start_server(commands_per_second=5)
        text = json.dumps({"message_type": "alert", "x": "x" * 100_000}).encode()
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.send_frame(text)
            await tcp.send_frame(text)
            while b"too_many_commands" not in (await tcp.frame())[1]:
                pass

    async def test_large_bodies_count_as_many_commands(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        """Who has sent one waits before the next, however large the first was."""
        server = await start_server(api_gateway_endpoint=upstream.url, commands_per_second=5)
        async with http(server.url) as client:
            statuses = []
            for _ in range(2):
                body = question(user="x" * 1_000_000)
                reply = await client.post("/v1/chat/completions", json=body)
                statuses.append(reply.status_code)
        assert statuses == [200, 429]
        assert int(reply.headers["Retry-After"]) > 5

    async def test_who_goes_on_but_reads_nothing_is_not_read_either(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(commands_per_second=0, max_connections=5)
        async with raw(server.url, receive_buffer=4096) as tcp:
            await tcp.upgrade()
            (connection,) = server.connection_manager.present()
            sending = asyncio.ensure_future(tcp.send(frame(b"{") * 100_000))
            await eventually(lambda: connection.unsent > CHOKED_BYTES)
            async with http(server.url) as client:
                for _ in range(20):
                    await client.get("/health")
            assert connection.unsent < 2 * CHOKED_BYTES
            for _ in range(100_000):  # and goes on when it does
                opcode, payload = await tcp.frame()
                assert (opcode, valid(payload)["data"]["error"]["code"]) == (TEXT, "invalid_json")
            await sending


class TestJSON:
    async def test_json_of_too_many_values_is_refused_before_it_is_read(
        self, start_server: StartServer
    ) -> None:
        server = await start_server()
        text = dense(8 * MOST_VALUES // 2)
        async with websocket(server.url) as socket:
            await socket.connection.send(text.decode())
            refusal = (await socket.receive())["data"]["error"]
            assert refusal["code"] == "too_many_values"
        async with http(server.url) as client:
            reply = await client.post("/v1/chat/completions", content=text)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "too_many_values")

    async def test_json_of_a_long_text_is_not_refused(self, start_server: StartServer) -> None:
        """A prompt of a megabyte, with the commas of prose."""
        server = await start_server()
        prose = "Between two commas, in prose, stand some thirty letters. " * 17_000
        fields = question(messages=[{"role": "user", "content": prose}], action="cancel")
        async with websocket(server.url) as socket:
            await socket.send(message_type="chat_completion", **fields)
            assert (await socket.receive())["data"]["error"]["param"] == "request_id"


def test_the_attack_is_what_it_says() -> None:
    assert 900_000 < len(TAKEN) < 2**20
    assert parse_object(TAKEN)
    assert all(len(bombs(text)) <= 64 * 1024 for text in (TAKEN, dense(1_000_000)))
