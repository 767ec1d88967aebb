"""Hostile clients and upstreams: what each of them gets, and that the others do not notice.

`Others` are a WebSocket and an event stream that watch the alerts. After each attack, and in the
middle of those that go on, an alert is fired: both must get it, on the connections they had.
"""

from __future__ import annotations

import array
import asyncio
import gzip
import itertools
import json
import logging
import re
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import httpx
import pytest

from streaming_api.connections.connection import Connection
from streaming_api.service import StreamingService
from streaming_api.web import body as body_module
from streaming_api.web import http_protocol
from streaming_api.wire.frame_parser import INVALID_TEXT, POLICY, PROTOCOL_ERROR, TOO_BIG
from tests.clients import (
    UNIT,
    Events,
    Message,
    Socket,
    content,
    events,
    eventually,
    fire,
    http,
    name_of,
    question,
    webhook,
    websocket,
)
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import PING, TEXT, Raw, messages_of, raw

MIB: Final = 2**20
BINARY: Final = 0x2
MASK: Final = b"\0\0\0\0"  # which leaves the payload as it is
UPGRADE: Final = (
    "GET /streaming/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
DEFLATE: Final = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
FLOOD: Final = "flood"


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True, bits: int = 0) -> bytes:
    """A masked frame, with whatever bits."""
    first = (0x80 if fin else 0) | bits | opcode
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 2**16:
        head = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return head + MASK + payload


@attrs.frozen
class Others:
    """Clients that did nothing wrong."""

    server: StreamingService
    socket: Socket
    stream: Events
    numbers: Iterator[int]

    async def are_served(self) -> None:
        """An alert reaches both."""
        name = f"alert-{next(self.numbers)}"
        await fire(self.server.url, name)
        for client in (self.socket, self.stream):
            message = await client.receive()
            while message["data"]["alert"]["source"] == "streaming-api":  # that it has become slow
                message = await client.receive()
            assert name_of(message) == name, message


@asynccontextmanager
async def others(server: StreamingService) -> AsyncIterator[Others]:
    """Two clients who watch, before, during and after."""
    async with (
        websocket(server.url) as watching,
        events(server.url, "/streaming/sse/alerts") as stream,
    ):
        await watching.subscribe("alert")
        await stream.receive()
        clients = Others(server, watching, stream, itertools.count())
        await clients.are_served()
        yield clients
        await clients.are_served()


async def attacked(
    server: StreamingService, data: bytes, *, extensions: str = ""
) -> tuple[bytes, int | None]:
    """What the server sends after these frames, up to its end, and the code in its close frame."""
    async with raw(server.url) as tcp:
        await tcp.send((UPGRADE + extensions + "\r\n").encode())
        await tcp.until(b"\r\n\r\n")
        reading = asyncio.ensure_future(rest(tcp))
        with suppress(ConnectionError):
            await tcp.send(data)
        got = await reading
    at = got.rfind(b"\x88")
    return got, int.from_bytes(got[at + 2 : at + 4], "big") if at >= 0 else None


async def rest(tcp: Raw) -> bytes:
    """All that comes until the end, also an abrupt one."""
    got = b""
    with suppress(ConnectionError):
        while True:
            got += tcp.received
            tcp.received = b""
            if not await tcp.more():
                return got
    return got + tcp.received


def deflated(data: bytes, *, level: int = 9) -> bytes:
    """One message as permessage-deflate has it."""
    squeeze = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def command(size: int) -> bytes:
    """A command of exactly so many bytes."""
    empty = json.dumps({"message_type": "status_update", "x": ""}).encode()
    return empty[:-2] + b"a" * (size - len(empty)) + empty[-2:]


class TestFrames:
    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (b"\x81\x05Hello", PROTOCOL_ERROR),  # not masked
            (b"\x89\x00", PROTOCOL_ERROR),  # nor is this ping
            (b"\x81\xff" + (2**62).to_bytes(8, "big") + MASK, TOO_BIG),
            (b"\x81\xff" + (2**63).to_bytes(8, "big") + MASK, PROTOCOL_ERROR),
            (frame(b"{}", bits=0x40), PROTOCOL_ERROR),
            (frame(b"{}", bits=0x20), PROTOCOL_ERROR),
            (frame(b"{}", bits=0x10), PROTOCOL_ERROR),
            *((frame(b"", opcode), PROTOCOL_ERROR) for opcode in (*range(3, 8), *range(11, 16))),
            (frame(b"", PING, fin=False), PROTOCOL_ERROR),
            (frame(b"x" * 126, PING), PROTOCOL_ERROR),
            (frame(b"", 0), PROTOCOL_ERROR),  # a continuation of nothing
            (frame(b"{", fin=False) + frame(b"}"), PROTOCOL_ERROR),
            (frame(b"\x03", 8), PROTOCOL_ERROR),
            (frame((1005).to_bytes(2, "big"), 8), PROTOCOL_ERROR),
            (frame(b"\xff\xfe"), INVALID_TEXT),
            (frame(b"\xed\xa0\x80"), INVALID_TEXT),  # a surrogate
            (frame(b"\xf0\x9f", fin=False) + frame(b"{", 0, fin=False), INVALID_TEXT),
            (frame((1000).to_bytes(2, "big") + b"\xff", 8), INVALID_TEXT),
        ],
    )
    async def test_frames_that_break_the_protocol_end_the_connection_with_its_code(
        self, server: StreamingService, data: bytes, code: int
    ) -> None:
        async with others(server):
            _, found_code = await attacked(server, data)
            assert found_code == code

    async def test_frames_of_exactly_a_mebibyte_are_taken_and_one_byte_more_is_1009(
        self, server: StreamingService
    ) -> None:
        async with others(server):
            for wire, extensions in ((frame, ""), (compressed, DEFLATE)):
                closing = frame((1000).to_bytes(2, "big"), 8)
                got, code = await attacked(
                    server, wire(command(MIB)) + closing, extensions=extensions
                )
                assert code == 1000
                assert b"subscribed" in got or b"\xc1" in got
                _, code = await attacked(server, wire(command(MIB + 1)), extensions=extensions)
                assert code == TOO_BIG

    @pytest.mark.parametrize("size", [100, 60_000])
    async def test_frames_without_end_are_1009(self, server: StreamingService, size: int) -> None:
        async with others(server) as present:
            more = frame(b"[" * size, 0, fin=False) * (MIB // size + 1)
            _, code = await attacked(server, frame(b"[" * size, fin=False) + more)
            assert code == TOO_BIG
            await present.are_served()

    async def test_frames_that_are_empty_are_1008_after_a_thousand(
        self, server: StreamingService
    ) -> None:
        async with others(server):
            data = frame(b"", fin=False) + frame(b"", 0, fin=False) * 50_000
            _, code = await attacked(server, data)
            assert code == POLICY

    async def test_frames_that_are_pings_are_1008_above_the_rate(
        self, server: StreamingService
    ) -> None:
        async with others(server):
            got, code = await attacked(server, frame(b"x", PING) * 100_000)
            assert code in {POLICY, None}  # a reset, for what it still sends, may overtake it
            assert got.count(b"\x8a\x01x") <= 100
            async with raw(server.url) as tcp:
                await tcp.upgrade()
                await tcp.send(frame(b"x", PING) * 30)
                assert await tcp.take(90) == b"\x8a\x01x" * 30
        assert server.context.telemetry.endings["websocket", "policy"] == 1

    async def test_frames_that_are_bombs_are_1009(self, server: StreamingService) -> None:
        """A gigabyte of blanks in a megabyte; and a bomb in a message that a bomb came before."""
        async with others(server):
            bomb = deflated(b" " * (64 * MIB)) * 16
            for data in (
                frame(bomb, bits=0x40),
                frame(bomb[:1000], bits=0x40, fin=False) + frame(bomb[1000:], 0),
            ):
                before = memory(server)
                _, code = await attacked(server, data, extensions=DEFLATE)
                assert code == TOO_BIG
                assert memory(server) - before < 32 * MIB

    async def test_frames_of_garbage_end_that_connection_and_nothing_else(
        self, server: StreamingService
    ) -> None:
        async with others(server):
            noise = bytes((7 * n * n + n) % 256 for n in range(100_000))
            for start in range(0, 50_000, 5_000):
                await attacked(server, noise[start:] + b"\xff" * 20)


def compressed(data: bytes) -> bytes:
    return frame(deflated(data), bits=0x40)


def memory(server: StreamingService) -> int:
    return server.context.process.memory_bytes()


class TestRequests:
    @pytest.mark.parametrize(
        "lines",
        [
            ("POST /streaming/alerts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            ("POST /streaming/alerts HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            "Content-Length: 4\r\n\r\n0\r\n\r\n"),
            ("POST /streaming/alerts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
            "Content-Length: 3\r\n\r\n{}x"),
            "POST /streaming/alerts HTTP/1.1\r\nHost: localhost\r\nContent-Length: +2\r\n\r\n{}",
            ("POST /streaming/alerts HTTP/1.1\r\nHost: localhost\r\n"
            "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
            ("POST /streaming/alerts HTTP/1.1\r\nHost: localhost\r\n"
            "Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n"),
            "GET /health HTTP/1.1\nHost: localhost\n\n",
            "GET /health HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
            "GET /health HTTP/1.1\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: localhost\r\nX: \x1b[31m\r\n\r\n",
            "GET /he\x1balth HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "GET /health\r\n\r\n",
            "GET /" + "a" * 9_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + "a" * 9_000 + "\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: localhost\r\n" + "X: a\r\n" * 200 + "\r\n",
            "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n",
            UPGRADE + "Content-Length: 2\r\n\r\n{}",
            UPGRADE + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            UPGRADE + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /streaming/sse/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
        ],
    )  # fmt: skip
    async def test_requests_that_are_ambiguous_are_400_and_what_follows_is_none(
        self, server: StreamingService, lines: str
    ) -> None:
        follows = "GET /streaming/schema HTTP/1.1\r\nHost: localhost\r\n\r\n"
        async with others(server), raw(server.url) as tcp:
            await tcp.send((lines + follows).encode("latin-1"))
            reply = await rest(tcp)
        assert re.match(rb"HTTP/[01].[019] 400 ", reply), reply
        replies = re.findall(rb"HTTP/[01]\.[019] \d", reply)
        assert len(replies) == 1, "the connection ends with its reply"
        assert b'{"error":{"type":"invalid_request_error"' in reply

    async def test_requests_for_another_protocol_leave_no_request_behind(
        self, server: StreamingService
    ) -> None:
        """Refused or passed over, what follows an upgrade was not meant for us."""
        follows = "GET /streaming/schema HTTP/1.1\r\nHost: localhost\r\n\r\n"
        async with others(server):
            for request in (
                UPGRADE.replace("/streaming/websocket", "/health"),
                UPGRADE.replace("Version: 13", "Version: 8"),
                UPGRADE.replace("AAAA==", "AAAA"),
                UPGRADE.replace("localhost", "evil.example"),
            ):
                async with raw(server.url) as tcp:
                    await tcp.send((request + "\r\n" + follows).encode())
                    reply = await rest(tcp)
                assert reply.count(b"HTTP/1.1 ") == 1, reply

    @pytest.mark.parametrize(
        "parts",
        [
            (b"GET /hea", b"l"),
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n"),
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", b"y"),
        ],
        ids=["line", "headers", "one header"],
    )
    async def test_requests_that_dribble_in_are_cut(
        self, start_server: StartServer, monkeypatch: pytest.MonkeyPatch, parts: tuple[bytes, bytes]
    ) -> None:
        assert http_protocol.HEAD_SECONDS <= 15
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.4)
        server = await start_server()
        async with others(server) as present, raw(server.url) as tcp:
            begun = time.monotonic()
            await tcp.send(parts[0])
            assert await dribbled(tcp, parts[1]) == b""
            assert time.monotonic() - begun >= 0.3
            await present.are_served()

    async def test_requests_that_dribble_in_behind_a_good_one_are_cut(
        self, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.4)
        server = await start_server()
        async with others(server), raw(server.url) as tcp:
            await tcp.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
            assert (await dribbled(tcp, b"l")).count(b"HTTP/1.1 ") == 1

    @pytest.mark.parametrize(
        ("head", "more"),
        [("Content-Length: 100000", b" "), ("Transfer-Encoding: chunked", b"1\r\n \r\n")],
    )
    @pytest.mark.parametrize(
        "path", ["/v1/chat/completions", "/streaming/sse/chat", "/streaming/alerts"]
    )
    async def test_requests_whose_body_dribbles_in_are_cut(
        self,
        start_server: StartServer,
        monkeypatch: pytest.MonkeyPatch,
        path: str,
        head: str,
        more: bytes,
    ) -> None:
        assert body_module.BODY_SECONDS + http_protocol.LINGER_SECONDS <= 15
        monkeypatch.setattr(body_module, "BODY_SECONDS", 0.3)
        monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.1)
        server = await start_server()
        async with others(server), raw(server.url) as tcp:
            await tcp.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
            reply = await dribbled(tcp, more)
        assert reply.startswith(b"HTTP/1.1 400 ")
        assert b'"code":"slow_body"' in reply
        assert reply.count(b"HTTP/1.1 ") == 1

    async def test_requests_whose_body_nobody_wants_are_not_waited_for(
        self, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_protocol, "LINGER_SECONDS", 0.1)
        server = await start_server()
        async with others(server), raw(server.url) as tcp:
            await tcp.send(
                b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n"
            )
            assert (await dribbled(tcp, b" ")).startswith(b"HTTP/1.1 200 ")

    async def test_requests_that_are_gzip_bombs_are_413(self, start_server: StartServer) -> None:
        server = await start_server(body_size_limit=MIB)
        bomb = gzip.compress(b" " * (64 * MIB), 9)
        async with others(server), http() as client:
            before = memory(server)
            for path in ("/streaming/alerts", "/v1/chat/completions", "/streaming/sse/chat"):
                reply = await client.post(
                    server.url + path, content=bomb, headers={"Content-Encoding": "gzip"}
                )
                assert reply.status_code == 413
            assert memory(server) - before < 32 * MIB

    async def test_requests_whose_replies_nobody_reads_do_not_stay(
        self, start_server: StartServer
    ) -> None:
        """Thousands of requests on one connection, pipelined, and not one reply read."""
        server = await start_server(stall_timeout=1)
        async with others(server) as present, raw(server.url, receive_buffer=4096) as tcp:
            request = b"GET /streaming/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.5):
                    while True:
                        await tcp.send(request * 1000)
            await present.are_served()
            await eventually(lambda: is_gone(server, tcp), 4 * UNIT)

    async def test_requests_from_a_page_elsewhere_are_403_whatever_the_path(
        self, server: StreamingService
    ) -> None:
        """Cross-site WebSocket hijacking and DNS rebinding."""
        async with others(server):
            for origin in ("http://evil.example", "null", "http://localhost.evil.example"):
                async with raw(server.url) as tcp:
                    await tcp.send((UPGRADE + f"Origin: {origin}\r\n\r\n").encode())
                    assert (await rest(tcp)).startswith(b"HTTP/1.1 403 ")
            async with raw(server.url) as tcp:
                rebound = UPGRADE.replace("localhost", "rebound.evil.example")
                own = "Origin: http://rebound.evil.example\r\n\r\n"
                await tcp.send((rebound + own).encode())
                assert (await rest(tcp)).startswith(b"HTTP/1.1 403 ")


async def dribbled(tcp: Raw, piece: bytes) -> bytes:
    """What the server says while a byte comes now and then, until it hangs up."""
    reading = asyncio.ensure_future(rest(tcp))
    while not reading.done():
        with suppress(ConnectionError):
            await tcp.send(piece)
        await asyncio.wait([reading], timeout=0.05)
    return reading.result()


def is_gone(server: StreamingService, tcp: Raw) -> bool:
    """Whether the kernel has no socket left at the server's end (proc(5), /proc/net/tcp)."""
    ends = (server.url.rpartition(":")[2], tcp._sock.getsockname()[1])
    here, there = (f":{int(port):04X}" for port in ends)
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return not any(row[1].endswith(here) and row[2].endswith(there) for row in table)


class TestReaders:
    @pytest.mark.parametrize("how", ["websocket", "sse"])
    async def test_readers_that_are_stuck_are_gone_in_time_and_hold_nobody_back(
        self, start_server: StartServer, upstream: FakeUpstream, how: str
    ) -> None:
        """While one reads nothing, an alert of 8 kB after the other reaches everybody else."""
        server = await start_server(
            api_gateway_endpoint=upstream.url, stall_timeout=1, commands_per_second=0
        )
        upstream.scripts[FLOOD] = Script(tokens=("x" * 8_000,) * 4_000)
        manager = server.connection_manager
        async with others(server) as present, raw(server.url, receive_buffer=4096) as tcp:
            if how == "sse":
                await tcp.request("POST", "/streaming/sse/chat", question(FLOOD))
            else:
                await tcp.upgrade()
                await tcp.command(message_type="chat_completion", **question(FLOOD))
            await eventually(lambda: stuck(server))
            begun = time.monotonic()
            (connection,) = stuck(server)
            while connection.number in manager.connections:
                await present.are_served()
                assert connection.unsent < 8 * MIB
            assert time.monotonic() - begun < UNIT
            await eventually(lambda: is_gone(server, tcp))
            assert server.context.telemetry.endings[how, "stalled"] == 1

    @pytest.mark.parametrize("how", ["websocket", "sse"])
    async def test_readers_that_are_gone_are_found_out_by_the_kernel_as_well(
        self, start_server: StartServer, how: str
    ) -> None:
        server = await start_server(stall_timeout=7)
        async with raw(server.url) as tcp:
            if how == "sse":
                await tcp.request("GET", "/streaming/sse/alerts")
            else:
                await tcp.upgrade()
            await eventually(lambda: server.connection_manager.connections)
            (connection,) = server.connection_manager.connections.values()
            kept = connection.transport.get_extra_info("socket")
            assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
            assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7_000

    @pytest.mark.parametrize("how", ["websocket", "sse"])
    async def test_readers_whose_machine_is_gone_without_a_word_are_noticed(
        self, start_server: StartServer, how: str
    ) -> None:
        """Half-open: not a single packet comes back, neither data nor FIN nor RST."""
        server = await start_server(
            heartbeat_interval=0.5, sse_keep_alive_interval=0.2, stall_timeout=1
        )
        async with others(server) as present, raw(server.url) as tcp:
            if how == "sse":
                await tcp.request("GET", "/streaming/sse/alerts")
            else:
                await tcp.upgrade()
                await tcp.command(message_type="alert")
            await tcp.until(b"snapshot")
            drop_everything(tcp)
            await eventually(lambda: server.connection_manager.open[how] == 1, 4 * UNIT)
            await present.are_served()
            endings = server.context.telemetry.endings
            assert endings[how, "ping_timeout"] + endings[how, "broken"] == 1


def stuck(server: StreamingService) -> list[Connection]:
    return [one for one in server.connection_manager.present() if one.paused]


def drop_everything(tcp: Raw) -> None:
    """Let the kernel drop every packet to this socket: a filter that takes none of its bytes."""
    take_nothing = array.array("B", struct.pack("HBBI", 0x06, 0, 0, 0))
    address, _ = take_nothing.buffer_info()
    program = struct.pack("HP", 1, address)
    tcp._sock.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER


CURSORS: Final = [
    "garbage", "-1", "0", "1e9", ":", "a:b", "a:-1", "a:" + "9" * 18, "a:" + "9" * 400,
    "x" * 6_000, "' OR 1=1 --", "<script>", "%00", "\u2028", "\xff",
    "{epoch}:-1", "{epoch}:999999999999999999", "{epoch}:0x1", "{epoch}:\uff11",
    "{epoch}:", "{epoch}", "0" * 16 + ":1",
]  # fmt: skip
"""Last-Event-ID and its like; ``{epoch}`` is the server's."""


class TestCursors:
    @pytest.mark.parametrize("where", ["header", "query", "command"])
    async def test_cursors_of_every_bad_shape_are_reported_and_then_the_snapshot_comes(
        self, server: StreamingService, where: str
    ) -> None:
        async with others(server):
            async with events(server.url, "/streaming/sse/status") as stream:
                epoch = (await stream.receive())["cursor"].partition(":")[0]
            for shape in (*CURSORS, "") if where == "command" else CURSORS:
                cursor = shape.replace("{epoch}", epoch)
                seen = await resumed(server, where, cursor)
                assert seen[0]["data"]["event"] == "gap", (cursor, seen)
                assert seen[0]["data"]["reason"] in {"malformed", "epoch", "future"}
                assert seen[1]["data"]["event"] == "snapshot"

    @pytest.mark.parametrize(
        "after", ["-1", "1.5", "x", "", "9" * 30, "٣", "1e3", "0x1", "NaN", " 1"]
    )
    async def test_cursors_of_an_answer_that_are_no_numbers_are_400(
        self, server: StreamingService, after: str
    ) -> None:
        async with others(server), websocket(server.url) as socket:
            await socket.start("r-1")
            await socket.answer()
            async with http() as client:
                reply = await client.get(
                    f"{server.url}/streaming/sse/chat/r-1", params={"after": after}
                )
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")
            await socket.resume("r-1", after)
            assert (await socket.receive())["data"]["error"]["param"] == "after"


async def resumed(server: StreamingService, where: str, cursor: str) -> list[Message]:
    """The first two messages after a cursor."""
    if where == "command":
        async with websocket(server.url) as socket:
            await socket.send(message_type="status_update", cursor=cursor)
            await socket.until(lambda message: message["data"].get("event") == "subscribed")
            return [await socket.receive(), await socket.receive()]
    path, headers = "/streaming/sse/status", {}
    if where == "query":
        path += "?" + str(httpx.QueryParams({"cursor": cursor}))
    else:
        headers = {"Last-Event-ID": cursor.encode()}
    async with events(server.url, path, headers=headers) as stream:  # type: ignore[arg-type]
        return [await stream.receive(), await stream.receive()]


EVIL: Final = "a\r\n\r\nevent: evil\rdata: {}\n\nid: 9\u2028\u0085\x0b\0<script>alert(1)</script>"


class TestText:
    async def test_text_that_looks_like_events_stays_text(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        """In a label, an annotation, a token, a model's name: one event, and the text unharmed."""
        upstream.scripts[EVIL] = Script(tokens=(EVIL, "end"))
        async with others(server) as present:
            body = webhook("evil")
            body["alerts"][0]["labels"]["evil"] = EVIL
            body["alerts"][0]["annotations"]["summary"] = EVIL
            async with http() as client:
                reply = await client.post(f"{server.url}/streaming/alerts", json=body)
            assert reply.status_code == 200
            for client_ in (present.socket, present.stream):
                alert = (await client_.receive())["data"]["alert"]
                assert (alert["labels"]["evil"], alert["annotations"]["summary"]) == (EVIL, EVIL)
            async with events(
                server.url, "/streaming/sse/chat", body=question(EVIL, request_id="r-1")
            ) as stream:
                assert content(await stream.rest()) == EVIL + "end"
            async with raw(server.url) as tcp:  # byte for byte: no event of theirs
                await tcp.request("GET", "/streaming/sse/chat/r-1")
                got = await tcp.rest()
            assert b"\nevent: evil" not in got
            assert b"\revent: evil" not in got
            assert messages_of(got)[-1]["data"]["finish_reason"] == "stop"

    async def test_text_of_a_client_is_never_a_page(self, server: StreamingService) -> None:
        async with others(server), http() as client:
            for path in ("/<script>alert(1)</script>", "/streaming/sse/chat/<script>",
                         "/streaming/sse?topics=<script>", "/static/<script>"):  # fmt: skip
                reply = await client.get(server.url + path)
                assert reply.status_code in {400, 404}
                kind = reply.headers["Content-Type"]
                assert kind.startswith("application/json"), (path, reply.text)
                assert reply.headers["X-Content-Type-Options"] == "nosniff"

    async def test_text_in_the_log_is_one_line_and_no_escape(
        self, server: StreamingService, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with others(server):
            for path in (
                "/streaming/websocket",
                "/streaming/sse/chat/%0a%1b[31mFORGED",
                "/%0d%0aX",
            ):
                for value in ("\x1b[31mFORGED", "x\tFORGED", "\x85FORGED", "\x9b31mFORGED"):
                    lines = (
                        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {value}\r\n"
                        f"X-Forwarded-For: {value}\r\nReferer: {value}\r\n"
                        f"Last-Event-ID: {value}\r\nX-Request-Id: {value}\r\n\r\n"
                    )
                    async with raw(server.url) as tcp:
                        await tcp.send(lines.encode("latin-1") + b"\r\n")
                        tcp.half_close()
                        await rest(tcp)
        ours = [r for r in caplog.records if not r.name.startswith(("websockets", "http"))]
        assert ours
        for record in ours:
            line = record.getMessage()
            assert line.isprintable(), line
            assert "\x1b" not in line
            assert "FORGED" not in line or "%0a%1b" in line

    async def test_text_that_is_no_http_is_counted_in_one_line(
        self, server: StreamingService, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with others(server):
            for _ in range(200):
                async with raw(server.url) as tcp:
                    await tcp.send(b"GET / HTTP/1.1\r\nX: secret\x1b\r\n\r\n")
                    await rest(tcp)
        await server.stop()
        lines = [m for m in caplog.messages if "no HTTP" in m]
        assert 1 <= len(lines) <= 3
        assert sum(int(re.findall(r"refused (\d+) times", line)[0]) for line in lines) == 200
        assert "secret" not in caplog.text


class TestUpstreams:
    @pytest.mark.parametrize(
        ("model", "code"),
        [
            ("redirect", "upstream_redirect"),
            ("not-json", "upstream_invalid_response"),
            ("wrong-type", "upstream_invalid_response"),
            ("huge-line", None),
            ("too-long", "upstream_event_too_large"),
        ],
    )
    async def test_upstreams_that_send_nonsense_are_reported_and_hold_nobody_up(
        self, server: StreamingService, upstream: FakeUpstream, model: str, code: str | None
    ) -> None:
        upstream.scripts["too-long"] = Script(tokens=("x" * 40_000_000,))
        async with others(server) as present, websocket(server.url) as socket:
            await socket.start("r-1", model=model)
            served = asyncio.ensure_future(present.are_served())
            end = (await socket.answer())[-1]["data"]
            await served
            assert end.get("error", {}).get("code") == code
            assert (end["finish_reason"] == "stop") == (code is None)
            await socket.start("r-2", model="ten-tokens")
            assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"

    async def test_upstreams_that_stream_without_end_fill_no_memory(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        """Read, they are bounded by the retention; left, they are closed."""
        async with others(server) as present, websocket(server.url) as socket:
            await socket.start("r-1", model=FLOOD, on_disconnect="cancel")
            for _ in range(300):
                await socket.receive()
            (answer,) = server.context.answers.running
            assert answer.stream.size <= server.config.chat_retention_bytes + MIB
            await present.are_served()
            socket.connection.transport.abort()
            await (await upstream.generation()).wait_closed()


class TestTheWallClock:
    @pytest.mark.parametrize("jump", [3_600, -3_600], ids=["forward", "back"])
    async def test_the_wall_clock_may_jump_an_hour_and_nothing_expires_or_stays(
        self,
        start_server: StartServer,
        upstream: FakeUpstream,
        monkeypatch: pytest.MonkeyPatch,
        jump: int,
    ) -> None:
        server = await start_server(
            api_gateway_endpoint=upstream.url,
            heartbeat_interval=0.2,
            sse_keep_alive_interval=0.2,
            cleanup_interval=0.05,
            max_idle_time=60,
            resume_grace=60,
            topic_retention_seconds=60,
        )
        ticket_of = server.context.access
        real, real_ns = time.time, time.time_ns
        async with others(server) as present:
            async with websocket(server.url) as socket:
                await socket.start("r-1", model="endless")
                last = (await socket.until(lambda m: m.get("sequence_id") == 5))[-1]
            client = next(iter(server.connection_manager.present())).client
            ticket = ticket_of.issue_ticket(client)
            monkeypatch.setattr(time, "time", lambda: real() + jump)
            monkeypatch.setattr(time, "time_ns", lambda: real_ns() + jump * 10**9)
            for _ in range(5):  # heartbeats, sweeps and comments have their turn
                await asyncio.sleep(0.1)
                await present.are_served()
            ticket_of.redeem(ticket)
            async with websocket(server.url) as socket:  # the answer ran on within its grace
                await socket.resume("r-1", 5)
                message = await socket.receive()
                assert message["sequence_id"] == 6
                assert (message["timestamp"] > last["timestamp"]) == (jump > 0)
                await socket.cancel("r-1")
                assert (await socket.answer())[-1]["data"]["finish_reason"] == "cancelled"
        assert not server.context.telemetry.endings["websocket", "idle"]
        assert not server.context.telemetry.endings["websocket", "ping_timeout"]
