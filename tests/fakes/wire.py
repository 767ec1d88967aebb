"""The server's side of one HTTP/1.1 connection of the fake upstream, and the records it keeps."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Final, Protocol, cast

import attrs
import httptools

from tests.fakes.script import Script, error_body

PATIENCE: Final = 10.0  # seconds that a wait in a test may take before it fails
LAST_CHUNK: Final = b"0\r\n\r\n"


@attrs.frozen
class Request:
    """A request as it arrived; header names in lower case, several lines of one joined."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        """Return the body, decoded."""
        return cast("dict[str, object]", json.loads(self.body))


@attrs.define(eq=False)
class Generation:
    """One answer that was asked for.

    Attributes:
        sent: tokens of text that were handed to the socket.
        is_blocked: whether the client does not read, so that the socket takes no more.
        finished_at: when everything was said, on the monotonic clock; None while it runs.
        closed_at: when the client's connection went away, on the monotonic clock.
        closed: set at `closed_at`.
    """

    number: int
    model: str
    request: Request
    script: Script
    sent: int = 0
    is_blocked: bool = False
    finished_at: float | None = None
    closed_at: float | None = None
    closed: asyncio.Event = attrs.field(factory=asyncio.Event)

    @property
    def is_running(self) -> bool:
        """Neither finished nor left by its client."""
        return self.finished_at is None and self.closed_at is None

    @property
    def was_abandoned(self) -> bool:
        """The client left before everything was said."""
        return self.finished_at is None and self.closed_at is not None

    async def wait_closed(self, timeout: float = PATIENCE) -> float:  # noqa: ASYNC109
        """Wait until the client's connection is gone; return when that was."""
        async with asyncio.timeout(timeout):
            await self.closed.wait()
        return cast("float", self.closed_at)


class Server(Protocol):
    """What a connection reports to its server.

    Attributes:
        tokens_sent: tokens of text handed to sockets, of all answers.
        keeps_records: whether tests watch what happens here.
    """

    tokens_sent: int
    keeps_records: bool

    def changed(self) -> None:
        """Something happened that a test may wait for."""

    def connected(self, connection: Connection) -> None:
        """A client has come."""

    def disconnected(self, connection: Connection) -> None:
        """A client is gone."""

    def answer(self, connection: Connection, request: Request) -> None:
        """A client asks."""


class Connection(asyncio.Protocol):
    """A client's connection: parses its requests, writes what it is given."""

    def __init__(self, upstream: Server) -> None:
        self.upstream = upstream
        self.generation: Generation | None = None
        self.is_writable = True
        self.on_writable: Callable[[], None] | None = None
        self.transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._keeps_alive = True
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.upstream.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.reply(400, error_body(f"Not HTTP: {exc}.", "invalid_request_error", None))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()
        self.upstream.disconnected(self)

    def pause_writing(self) -> None:
        self.is_writable = False
        if self.generation is not None:
            self.generation.is_blocked = True
        self.upstream.changed()

    def resume_writing(self) -> None:
        self.is_writable = True
        if self.generation is not None:
            self.generation.is_blocked = False
        if self.on_writable is not None:
            self.on_writable()

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        self._keeps_alive = self._parser.should_keep_alive()
        method = self._parser.get_method().decode()
        request = Request(method, self._path.decode(), self._headers, b"".join(self._body))
        self._path, self._headers, self._body = b"", {}, []
        self.upstream.answer(self, request)

    def reply(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/json",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Write a whole reply, and close if the client wants that."""
        self.transport.write(head(status, content_type, headers=headers, length=len(body)) + body)
        self.finish()

    def finish(self) -> None:
        """Note that everything is said. Who closes is up to the client's `Connection` header."""
        if self.generation is not None and self.generation.finished_at is None:
            self.generation.finished_at = time.monotonic()
        if not self._keeps_alive:
            self.transport.close()
        self.upstream.changed()

    def perform(self, performance: Coroutine[None, None, None]) -> None:
        """Run a performance until it ends or the client leaves."""
        self._task = asyncio.get_running_loop().create_task(performance)

    def reset(self) -> None:
        """Break the connection: the client sees ECONNRESET."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def head(
    status: int,
    content_type: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    length: int | None = None,
    chunks: bool = False,
) -> bytes:
    """Return a response's head."""
    lines = [f"HTTP/1.1 {status} Fake", f"Content-Type: {content_type}", "Cache-Control: no-cache"]
    lines += [f"{name}: {value}" for name, value in headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if chunks:
        lines.append("Transfer-Encoding: chunked")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunked(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
