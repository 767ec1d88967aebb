"""Raw clients: bytes on a TCP socket, read when a test asks, for what real packages never do."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from tests.clients import UNIT, Message, valid

TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9
_MASK: Final = b"\x01\x02\x03\x04"


class Raw:
    """A TCP connection; what has arrived stays in the kernel until it is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self.received = b""

    async def send(self, data: bytes) -> None:
        """Write all of it."""
        async with asyncio.timeout(UNIT):
            await self._loop.sock_sendall(self._sock, data)

    async def more(self) -> bool:
        """Read once; whether anything came before the end."""
        async with asyncio.timeout(UNIT):
            data = await self._loop.sock_recv(self._sock, 2**18)
        self.received += data
        return bool(data)

    async def until(self, mark: bytes) -> bytes:
        """What came up to and with the mark; the rest stays."""
        while mark not in self.received:
            assert await self.more(), f"the end before {mark!r}: {self.received[-200:]!r}"
        before, _, self.received = self.received.partition(mark)
        return before + mark

    async def take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        while len(self.received) < size:
            assert await self.more(), f"the end before {size} bytes: {self.received!r}"
        taken, self.received = self.received[:size], self.received[size:]
        return taken

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        parts = [self.received]
        self.received = b""
        async with asyncio.timeout(2 * UNIT):
            while await self.more():
                parts.append(self.received)
                self.received = b""
        return b"".join(parts)

    async def flood(self, data: bytes) -> None:
        """Send the same again and again, and drop what comes, until the server closes."""
        reading = asyncio.ensure_future(self._drop())
        try:
            while not reading.done():
                await self.send(data)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)  # whoever is cancelled here, is

    async def _drop(self) -> None:
        with suppress(TimeoutError):
            while await self.more():
                self.received = b""

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection: the server sees ECONNRESET."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    # HTTP

    async def request(self, method: str, path: str, body: object = None, *extra: str) -> None:
        """Send a request; the connection ends with its response unless ``extra`` says not to."""
        if not any(line.startswith("Connection:") for line in extra):
            extra = (*extra, "Connection: close")
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *extra]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        await self.send("\r\n".join([*lines, "", ""]).encode() + data)

    # WebSocket

    async def upgrade(self, path: str = "/streaming/websocket") -> str:
        """Shake hands; the head of the reply."""
        await self.request(
            "GET",
            path,
            None,
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        )
        return (await self.until(b"\r\n\r\n")).decode()

    async def send_frame(self, payload: bytes, opcode: int = TEXT) -> None:
        """One masked, final frame."""
        await self.send(masked_frame(payload, opcode))

    async def command(self, **fields: object) -> None:
        """One command."""
        await self.send_frame(json.dumps(fields).encode())

    async def frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload."""
        first, size = await self.take(2)
        if size == 126:
            size = int.from_bytes(await self.take(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.take(8), "big")
        return first & 0x0F, await self.take(size)

    async def messages_and_close(self) -> tuple[list[Message], int]:
        """Every message up to the close frame, and its code."""
        messages = []
        while True:
            opcode, payload = await self.frame()
            if opcode == TEXT:
                messages.append(valid(payload))
            elif opcode == CLOSE:
                return messages, int.from_bytes(payload[:2], "big")


def masked_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """The bytes of one masked, final frame."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 2**16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    key = (_MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return head + _MASK + masked.to_bytes(size, "big")


@asynccontextmanager
async def raw(
    url: str, *, receive_buffer: int | None = None, address: str | None = None
) -> AsyncIterator[Raw]:
    """A TCP connection to a server, with a small receive buffer or from an address if wanted."""
    parts = urlsplit(url)
    sock = socket.socket()
    try:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if address is not None:
            sock.bind((address, 0))
        sock.setblocking(False)  # noqa: FBT003 (so it is called)
        await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        yield Raw(sock)
    finally:
        sock.close()


def dechunked(body: bytes) -> bytes:
    """The content of a chunked body that must have ended in good order (RFC 9112 section 7.1)."""
    content: list[bytes] = []
    at = 0
    while True:
        start = body.index(b"\r\n", at) + 2
        end = start + int(body[at : start - 2], 16)
        at = end + 2
        assert body[end:at] == b"\r\n", "a chunk was cut"
        if start == end:
            assert at == len(body), f"bytes after the last chunk: {body[at : at + 100]!r}"
            return b"".join(content)
        content.append(body[start:end])


def messages_of(stream: bytes) -> list[Message]:
    """The messages of an event stream."""
    lines = stream.split(b"\n")
    return [valid(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: ")]
