"""The load generator's sockets: HTTP and WebSocket clients that do little work per byte.

A client cuts what it reads into payloads, WebSocket messages or whole server-sent events, and knows
nothing of what is in them; its `Receiver` does.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import re
import struct
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar, cast
from urllib.parse import urlsplit

HEAD_END = b"\r\n\r\n"
EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
OPEN_TIMEOUT = 60.0
OPENING_AT_ONCE = 200
SOURCES = tuple(f"127.0.0.{last}" for last in range(2, 10))
"""Addresses to connect from, in turn: one alone has 28,000 ports."""
TAKEOVER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
WINDOW = b"permessage-deflate; client_no_context_takeover"
DEFLATE_TAIL = b"\x00\x00\xff\xff"
PING, PONG, CLOSE, TEXT = 9, 10, 8, 1
FINAL, COMPRESSED = 0x80, 0x40
LENGTH_16, LENGTH_64 = 126, 127


class Refused(ConnectionError):
    """The peer did not let a client in; says what it answered."""


class Receiver(Protocol):
    """What takes the bytes that a client has read."""

    def received(self, client: Client, data: bytes) -> None:
        """Take one read; `client.split(data)` gives the payloads that it completed."""


class Client(asyncio.Protocol):
    """One connection.

    Attributes:
        opened: Done when the peer has accepted it.
        receiver: Takes everything read afterwards; may be replaced.
        idle: Whether the next request may be sent: an HTTP response has ended completely.
        kept: Whether the connection stays open for another request.
        seen: Number of the last message that the receiver has seen here.
        ready: Whether the receiver has seen here that it is subscribed.
    """

    def __init__(self, receiver: Receiver) -> None:
        """Hand what is read to `receiver`."""
        self.receiver = receiver
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False
        self.idle = True
        self.kept = True
        self.seen = 0
        self.ready = False
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember that the peer has gone."""
        self.closed = True
        if not self.opened.done():
            self.opened.set_exception(Refused(f"closed before it was open: {exc}"))

    def data_received(self, data: bytes) -> None:
        """Read the head of the answer, then leave everything to the receiver."""
        if self.opened.done():
            self.receiver.received(self, data)
            return
        self._rest += data
        head, end, rest = self._rest.partition(HEAD_END)
        if not end:
            return
        self._rest = b""
        if not self._accept(head):
            self.opened.set_exception(Refused((head + end + rest)[:400].decode(errors="replace")))
            return
        self.opened.set_result(None)
        if rest:
            self.receiver.received(self, rest)

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.transport.write(data)

    @property
    def at_boundary(self) -> bool:
        """Whether equal bytes mean equal payloads from here on: nothing is half read."""
        return not self._rest

    def split(self, data: bytes) -> list[bytes]:
        """Cut a read into the payloads that it completes."""
        raise NotImplementedError

    def _accept(self, head: bytes) -> bool:
        raise NotImplementedError


class HttpClient(Client):
    """Reads server-sent events from a response, one response after the other."""

    def __init__(self, receiver: Receiver) -> None:
        """Start before a response."""
        super().__init__(receiver)
        self._chunked = False
        self._gzip: zlib._Decompress | None = None
        self._event = b""

    def ask(self, request: bytes, receiver: Receiver) -> None:
        """Send the next request on a connection whose last response has ended."""
        self.receiver = receiver
        self.opened = asyncio.get_running_loop().create_future()
        self.idle = False
        self.send(request)

    @property
    def at_boundary(self) -> bool:
        """As in `Client`; a compressed stream never is, its bytes depend on what came before."""
        return not self._rest and not self._event and self._gzip is None

    def _accept(self, head: bytes) -> bool:
        low = head.lower()
        self._chunked = b"transfer-encoding: chunked" in low
        self._gzip = zlib.decompressobj(31) if b"content-encoding: gzip" in low else None
        self._event = b""
        self.kept = b"connection: close" not in low
        return head.split(b" ", 2)[1] == b"200"

    def split(self, data: bytes) -> list[bytes]:
        """Whole events; one payload may hold several of them."""
        body = self._unchunk(data) if self._chunked else data
        if self._gzip is not None:
            body = self._gzip.decompress(body)
        if self._event:
            body = self._event + body
        if body.endswith(EVENT_ENDS):
            self._event = b""
            return [body]
        cut = max(body.rfind(end) + len(end) if end in body else 0 for end in EVENT_ENDS)
        self._event = body[cut:]
        return [body[:cut]] if cut else []

    def _unchunk(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        pieces = []
        position, size = 0, len(data)
        while position < size:
            line = data.find(b"\r\n", position)
            if line < 0:
                break
            start = line + 2
            end = start + int(data[position:line], 16)
            if end + 2 > size:
                break
            pieces.append(data[start:end])
            position = end + 2
            self.idle = end == start
        self._rest = data[position:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class WebSocketClient(Client):
    """Reads WebSocket messages (RFC 6455), compressed ones too when that was negotiated."""

    inflated: dict[bytes, bytes] = {}  # noqa: RUF012 - shared: equal bytes, equal messages
    """Messages are independent of each other without context takeover, so each is inflated once."""

    _window: zlib._Decompress | None = None

    def _accept(self, head: bytes) -> bool:
        if b"permessage-deflate" in head and b"server_no_context_takeover" not in head:
            self._window = zlib.decompressobj(-15)
        return head.split(b" ", 2)[1] == b"101"

    def split(self, data: bytes) -> list[bytes]:
        """Messages completed by this read; answers pings."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        payloads = []
        position, size = 0, len(data)
        while size - position >= 2:
            first, length, start = data[position], data[position + 1], position + 2
            if length == LENGTH_16:
                if size < start + 2:
                    break
                length = int.from_bytes(data[start : start + 2])
                start += 2
            elif length == LENGTH_64:
                if size < start + 8:
                    break
                length = int.from_bytes(data[start : start + 8])
                start += 8
            end = start + length
            if end > size:
                break
            payload = data[start:end]
            position = end
            if first & 0x0F == TEXT:
                payloads.append(self._inflate(payload) if first & COMPRESSED else payload)
            else:
                self._control(first, payload)
        self._rest = data[position:]
        return payloads

    def _control(self, first: int, payload: bytes) -> None:
        opcode = first & 0x0F
        if opcode == PING:
            self.send(client_frame(payload, PONG))
        elif opcode not in {PONG, CLOSE} or not first & FINAL:
            raise ValueError(f"the benchmark cannot read a frame that begins with {first:#x}")

    def _inflate(self, payload: bytes) -> bytes:
        if self._window is not None:
            return self._window.decompress(payload + DEFLATE_TAIL)
        message = self.inflated.get(payload)
        if message is None:
            message = zlib.decompressobj(-15).decompress(payload + DEFLATE_TAIL)
            self.inflated[payload] = message
        return message


class Ignore:
    """A receiver for what does not matter."""

    def received(self, client: Client, data: bytes) -> None:
        """Drop the payloads, but answer pings."""
        client.split(data)


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A client's frame; masked with zeros, which leaves the payload as it is."""
    size = len(payload)
    if size < LENGTH_16:
        return struct.pack("!BB4x", FINAL | opcode, 0x80 | size) + payload
    return struct.pack("!BBH4x", FINAL | opcode, 0x80 | LENGTH_16, size) + payload


def upgrade_request(url: str, extension: bytes = b"") -> bytes:
    """The opening handshake for `url`, which offers an extension."""
    offer = b"Sec-WebSocket-Extensions: %b\r\n" % extension if extension else b""
    key = base64.b64encode(os.urandom(16))
    return (
        _request_line("GET", url)
        + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        + b"Sec-WebSocket-Key: %b\r\n%b\r\n" % (key, offer)
    )


def get_request(url: str, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A GET for an event stream."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
    return _request_line("GET", url) + b"Accept: text/event-stream\r\n" + extra + b"\r\n"


def post_request(url: str, body: bytes, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """A POST of JSON."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
    fixed = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    return _request_line("POST", url) + fixed + extra + b"\r\n" + body


def _request_line(method: str, url: str) -> bytes:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n".encode()


_sources = itertools.cycle(SOURCES)
C = TypeVar("C", bound=Client)


async def connect(port: int, make: Callable[[], C]) -> C:
    """Open a TCP connection to the server under test, from the next source address."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        make, "127.0.0.1", port, local_addr=(next(_sources), 0)
    )
    return client


async def open_all(count: int, opening: Callable[[], Awaitable[C]]) -> list[C]:
    """Open many clients, `OPENING_AT_ONCE` at a time."""
    clients: list[C] = []
    async with asyncio.timeout(OPEN_TIMEOUT + count / 100):
        while len(clients) < count:
            some = min(OPENING_AT_ONCE, count - len(clients))
            clients += await asyncio.gather(*(opening() for _ in range(some)))
    return clients


async def close_all(clients: Sequence[Client]) -> None:
    """Close every connection and wait until each is gone on our side."""
    for client in clients:
        if not client.closed:
            client.transport.abort()
    while not all(client.closed for client in clients):
        await asyncio.sleep(0.01)


def port_of(url: str) -> int:
    """The port in a URL."""
    found = re.search(r":(\d+)", url)
    if found is None:
        raise ValueError(f"no port in {url}")
    return int(found[1])
