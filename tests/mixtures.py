"""Mixtures of raw HTTP/1.1 requests, and what must come back: each its own reply, in order.

A sequence is what one client sends on one connection: requests of every kind, one behind another,
cut anywhere. Each knows its reply by a mark that no other reply has. Bodies hold what looks like a
request, for ``/streaming/status``, which nobody asks for: its reply anywhere is a fault.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from tests.raw import Raw, dechunked, raw

FILES: Final = {
    path.name: path.read_bytes()
    for path in (Path(__file__).parents[1] / "streaming_api" / "static").glob("*.js")
}
TRAP: Final = b"GET /streaming/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
TRAPPED: Final = b'"capabilities"'
SECONDS: Final = 30.0
"""Seconds that a conversation may take, on the slowest machine."""
_HANDSHAKE: Final = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
_UPGRADE: Final = ("Connection: Upgrade", "Upgrade: websocket")


@attrs.frozen
class Reply:
    """One reply, read by a reader that shares nothing with the server."""

    status: int
    headers: dict[str, str]
    body: bytes


@attrs.frozen
class Asked:
    """One request of a sequence.

    Attributes:
        data: its bytes.
        is_reply: whether this is its reply, and nobody else's.
        head_only: a HEAD, whose reply has no body.
        last: the connection ends with its reply.
        endless: its reply does not end; the first bytes of it must have this in them.
    """

    name: str
    data: bytes
    is_reply: Callable[[Reply], bool]
    head_only: bool = False
    last: bool = False
    endless: bytes = b""


def request(
    method: str, path: str, *lines: str, body: bytes | None = None, chunks: random.Random | None
) -> bytes:
    """A request; its body with its length, or in chunks of any sizes."""
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", *lines]
    if body is None:
        return "\r\n".join([*head, "", ""]).encode()
    if chunks is None:
        head.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*head, "", ""]).encode() + body
    head.append("Transfer-Encoding: chunked")
    parts = ["\r\n".join([*head, "", ""]).encode()]
    at = 0
    while at < len(body):
        piece = body[at : at + chunks.choice((1, 2, 7, 50, 400))]
        extension = chunks.choice((b"", b";name=value", b';name="a b"'))
        parts.append(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece))
        at += len(piece)
    parts.append(
        b"0\r\n" + chunks.choice((b"", b"X-Trailer: 1\r\n", b"A: b\r\nC: d\r\n")) + b"\r\n"
    )
    return b"".join(parts)


class Mixture:
    """Makes sequences at random.

    Args:
        seed: the same seed, the same sequences.
        proxied: only what a proxy passes on as it is.
    """

    def __init__(self, seed: int, *, proxied: bool = False) -> None:
        self._random = random.Random(seed)
        self.seed = seed
        self.proxied = proxied
        self._count = 0
        self._kinds = [
            self._file, self._file, self._head_of_file, self._completion, self._completion,
            self._events, self._head_of_events, self._nowhere, self._not_allowed, self._options,
            self._bad_body, self._unread_body, self._expect,
        ]  # fmt: skip
        self._ends = [self._topics, self._websocket, self._closing, self._bad_events]
        if not proxied:
            self._ends += [self._nonsense, self._old, self._broken_chunk]

    def sequence(self) -> list[Asked]:
        """What one client sends on one connection."""
        asked = [self._random.choice(self._kinds)() for _ in range(self._random.randint(0, 6))]
        asked.append(self._random.choice(self._ends)())
        if self._random.random() < 0.3:  # behind the end: never to be answered
            asked.append(attrs.evolve(self._file(), name="behind the end"))
        return asked

    def cuts(self, data: bytes) -> list[bytes]:
        """The bytes in pieces: in one, in a few, or byte by byte around an end of line."""
        how = self._random.random()
        if how < 0.3:
            return [data]
        if how < 0.8:
            places = self._random.sample(
                range(len(data)), min(len(data), self._random.randint(1, 6))
            )
        else:
            near = self._random.choice([at for at in range(len(data)) if data[at] == 10])
            places = list(range(max(near - 6, 1), min(near + 6, len(data))))
        ends = [*sorted(place for place in places if place), len(data)]
        return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _mark(self) -> str:
        self._count += 1
        return f"mark-{self.seed}-{self._count}-{self._random.randrange(10**9)}"

    def _chunks(self) -> random.Random | None:
        return self._random.choice((None, self._random))

    # Requests that leave the connection open

    def _file(self, *lines: str, last: bool = False) -> Asked:
        name = self._random.choice(sorted(FILES))
        data = request("GET", f"/static/{name}", *lines, chunks=None)
        return Asked(
            f"GET {name}",
            data,
            lambda reply: reply.status == 200 and reply.body == FILES[name],
            last=last,
        )

    def _head_of_file(self) -> Asked:
        name = self._random.choice(sorted(FILES))
        size = str(len(FILES[name]))
        return Asked(
            f"HEAD {name}",
            request("HEAD", f"/static/{name}", chunks=None),
            lambda reply: reply.status == 200 and reply.headers["content-length"] == size,
            head_only=True,
        )

    def _head_of_events(self) -> Asked:
        path = self._random.choice(("/streaming/sse", "/streaming/sse/metrics"))
        return Asked(
            f"HEAD {path}",
            request("HEAD", path, chunks=None),
            lambda reply: reply.headers.get("content-type") == "text/event-stream",
            head_only=True,
        )

    def _chat(self, mark: str, *, stream: bool) -> bytes:
        """A question, with empty lines between its fields and what looks like a request in one."""
        fields = {
            "request_id": mark,
            "model": mark,
            "stream": stream,
            "messages": [{"role": "user", "content": TRAP.decode()}],
        }
        space = self._random.choice((" ", "\r\n\r\n", "\r\n\r\n\r\n"))
        return json.dumps(fields, separators=("," + space, ": ")).encode() + space.encode()

    def _completion(self, *lines: str, last: bool = False) -> Asked:
        mark = self._mark()
        stream = self._random.random() < 0.5
        body = self._chat(mark, stream=stream)
        end = b"data: [DONE]\n\n" if stream else b"}"

        def is_reply(reply: Reply) -> bool:
            text = reply.body
            whole = reply.status == 200 and text.endswith(end) and b"t9 " in text
            return whole and reply.headers["x-request-id"] == mark and mark.encode() in text

        data = request("POST", "/v1/chat/completions", *lines, body=body, chunks=self._chunks())
        return Asked(f"completion, stream={stream}", data, is_reply, last=last)

    def _expect(self) -> Asked:
        return attrs.evolve(self._completion("Expect: 100-continue"), name="Expect")

    def _events(self) -> Asked:
        mark = self._mark()
        gzip = self._random.choice(((), ("Accept-Encoding: gzip",)))
        data = request(
            "POST", "/streaming/sse/chat", *gzip, body=self._chat(mark, stream=True),
            chunks=self._chunks(),
        )  # fmt: skip
        return Asked(
            f"events {gzip}",
            data,
            lambda reply: (
                mark.encode() in unzipped(reply) and b"chat.completion.end" in unzipped(reply)
            ),
        )

    def _nowhere(self) -> Asked:
        return Asked(
            "404",
            request("GET", f"/nowhere/{self._mark()}", chunks=None),
            lambda reply: reply.status == 404 and b'"not_found"' in reply.body,
        )

    def _not_allowed(self) -> Asked:
        path = self._random.choice(("/v1/chat/completions", "/streaming/sse/chat"))
        return Asked(
            "405",
            request("PUT", path, body=TRAP, chunks=self._chunks()),
            lambda reply: reply.status == 405 and reply.headers["allow"] == "OPTIONS, POST",
        )

    def _options(self) -> Asked:
        return Asked(
            "OPTIONS",
            request("OPTIONS", "/streaming/sse", chunks=None),
            lambda reply: reply.status == 204 and reply.headers["allow"] == "GET, HEAD, OPTIONS",
        )

    def _bad_body(self) -> Asked:
        return Asked(
            "bad body",
            request("POST", "/v1/chat/completions", body=TRAP * 3, chunks=self._chunks()),
            lambda reply: reply.status == 400 and b'"invalid_json"' in reply.body,
        )

    def _unread_body(self) -> Asked:
        return Asked(
            "unread body",
            request("POST", "/streaming/tickets", body=TRAP * 2, chunks=self._chunks()),
            lambda reply: reply.status == 201 and b'"ticket"' in reply.body,
        )

    # Requests after which nothing more may be answered

    def _closing(self) -> Asked:
        upgrade = self._random.choice((_UPGRADE, ("Connection: Upgrade", "Upgrade: h2c")))
        lines = self._random.choice((upgrade, ("Connection: close",), (*upgrade, *_HANDSHAKE)))
        return self._random.choice((self._completion, self._file))(*lines, last=True)

    def _topics(self) -> Asked:
        lines = self._random.choice(((), _UPGRADE, (*_UPGRADE, *_HANDSHAKE)))
        data = request("GET", "/streaming/sse/metrics", *lines, chunks=None)
        return Asked("topics", data, lambda _: True, last=True, endless=b"event: metrics_update")

    def _websocket(self) -> Asked:
        data = request("GET", "/streaming/websocket", *_UPGRADE, *_HANDSHAKE, chunks=None)
        frame = b"\x81\x82\0\0\0\0{}"
        return Asked("WebSocket", data + frame, lambda _: True, last=True, endless=b"missing_field")

    def _bad_events(self) -> Asked:
        return Asked(
            "events with a body",
            request("GET", "/streaming/sse", body=TRAP, chunks=self._chunks()),
            lambda reply: reply.status == 400 and b"unexpected_body" in reply.body,
            last=True,
        )

    def _nonsense(self) -> Asked:
        data = self._random.choice(
            (b"\0\0\0\r\n\r\n", b"GET / HTTP/1.1\r\nA b\r\n\r\n", b"GET\r\n\r\n")
        )
        return Asked("nonsense", data + TRAP, is_no_http, last=True)

    def _old(self) -> Asked:
        name = self._random.choice(sorted(FILES))
        return Asked(
            "HTTP/1.0",
            f"GET /static/{name} HTTP/1.0\r\n\r\n".encode(),
            lambda reply: reply.status == 200 and reply.body == FILES[name],
            last=True,
        )

    def _broken_chunk(self) -> Asked:
        data = request("POST", "/v1/chat/completions", "Transfer-Encoding: chunked", chunks=None)
        return Asked(
            "broken chunk", data + b"5\r\nhellogoodbye\r\n\r\n" + TRAP, is_no_http, last=True
        )


def is_no_http(reply: Reply) -> bool:
    """The reply to what is no HTTP, which closes the connection."""
    return reply.status == 400 and b'"invalid_http"' in reply.body


def unzipped(reply: Reply) -> bytes:
    """The body without its coding."""
    return gzip.decompress(reply.body) if "content-encoding" in reply.headers else reply.body


async def speak(url: str, mixture: Mixture) -> None:
    """Send one sequence on a connection of its own, and check every reply.

    Raises:
        AssertionError: a reply is missing, wrong, or nobody's.
    """
    asked = mixture.sequence()
    pieces = mixture.cuts(b"".join(one.data for one in asked))
    under_way: list[Asked] = []
    async with raw(url) as tcp:
        sending = asyncio.create_task(_send(tcp, pieces))
        try:
            async with asyncio.timeout(SECONDS):
                await _check(tcp, asked, under_way, lasting=mixture.proxied)
        except Exception as error:
            names = [one.name for one in asked]
            raise AssertionError(
                f"seed {mixture.seed}, {names}: where the reply to request {len(under_way)}"
                f" ({under_way[-1].name}) was expected, {error!r};"
                f" unread {tcp.received[:300]!r}, sent {pieces!r}"
            ) from error
        finally:
            sending.cancel()


async def _send(tcp: Raw, pieces: list[bytes]) -> None:
    try:
        for piece in pieces:
            await tcp.send(piece)
            for _ in range(3):  # what listens in this process reads it
                await asyncio.sleep(0)
    except OSError:
        pass  # it closes after its last reply, whatever else comes


async def _check(tcp: Raw, asked: list[Asked], under_way: list[Asked], *, lasting: bool) -> None:
    """Each its own reply, in order.

    Args:
        tcp: the connection.
        asked: all that is sent on it.
        under_way: gets the requests whose replies are read, for who has to say what went wrong.
        lasting: a proxy goes on where the server closes.
    """
    over = False
    for one in asked:
        if over and (not lasting or await _at_end(tcp)):
            break
        under_way.append(one)
        if one.endless:
            bytes_read = await tcp.until(one.endless)
            assert bytes_read.count(b"HTTP/1.1 ") == 1, bytes_read
            return
        reply = await _reply(tcp, head_only=one.head_only)
        assert TRAPPED not in reply.body, f"a body was read as a request: {reply}"
        assert one.is_reply(reply), f"not the reply to {one.name}: {reply}"
        over = over or one.last
    if not lasting:
        assert await _at_end(tcp), f"nobody's: {tcp.received!r}"
    assert not tcp.received, f"nobody's: {tcp.received!r}"


async def _at_end(tcp: Raw) -> bool:
    try:
        return not tcp.received and not await tcp.more()
    except ConnectionResetError:  # closed, with bytes of ours unread
        return True


async def _reply(tcp: Raw, *, head_only: bool) -> Reply:
    status = 100
    while status == 100:
        line, *lines = (await tcp.until(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        version, code, _ = line.split(" ", 2)
        assert version == "HTTP/1.1" or (version, code) == ("HTTP/1.0", "200"), line
        status = int(code)
    headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
    body = b""
    if not head_only and status != 204:
        if headers.get("transfer-encoding") == "chunked":
            body = await _chunks(tcp)
        else:
            body = await tcp.take(int(headers["content-length"]))
    return Reply(status, headers, body)


async def _chunks(tcp: Raw) -> bytes:
    parts = []
    while True:
        line = await tcp.until(b"\r\n")
        parts.append(line + await tcp.take(int(line, 16) + 2))
        if line == b"0\r\n":
            return dechunked(b"".join(parts))
