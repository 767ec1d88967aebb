"""Viewers of one face, and the numbered messages that each must receive whole and in order."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Sequence
from typing import cast

from tests.bench import clients
from tests.bench.peers.base import Peer, ViewFace

MARK = re.compile(rb"#(\d{6})@(\d{19})#")
READY_TIMEOUT = 30.0
DELIVERY_TIMEOUT = 30.0
INTERVAL = 0.015
"""Least seconds between two publications: 66 a second, so that no peer's rate limit is measured."""


class Incomplete(AssertionError):
    """Something was lost, doubled, out of order or not what was sent; the figures mean nothing."""


class Publisher(asyncio.Protocol):
    """A kept connection over which messages are published.

    Attributes:
        answered: Responses so far.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.answered = 0
        self.refused = b""
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Some servers close idle connections."""
        del exc
        self.closed = True

    def data_received(self, data: bytes) -> None:
        """Count responses."""
        self.answered += data.count(b"HTTP/1.1 2")
        if re.search(rb"HTTP/1\.1 [^12]", data):
            self.refused = data[:300]

    def send(self, requests: bytes) -> None:
        """Publish."""
        self.transport.write(requests)


class Audience:
    """So many viewers on one face.

    Attributes:
        viewers: The open clients.
        latencies: Nanoseconds from publication to each delivery.
    """

    def __init__(self, peer: Peer, face: ViewFace) -> None:
        """Begin with nobody."""
        self.viewers: list[clients.Client] = []
        self.latencies: list[int] = []
        self._peer = peer
        self._face = face
        self._publisher: Publisher | None = None
        self._last = 0
        self._text = b""
        self._known: dict[bytes, tuple[tuple[int, int], ...]] = {}
        self._missing = 0
        self._ready = 0
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def gather(self, count: int) -> None:
        """Open viewers until there are `count`, each of them subscribed.

        Raises:
            Incomplete: Some were never told that they are.
        """
        await clients.open_all(count - len(self.viewers), self._join)
        if self._face.ready is None:
            return
        deadline = time.monotonic() + READY_TIMEOUT
        while self._ready < count:
            if time.monotonic() > deadline:
                raise Incomplete(f"{count - self._ready} viewers were never subscribed")
            await asyncio.sleep(0.01)

    async def _join(self) -> clients.Client:
        client = await self._face.connect(self)
        client.seen = client.seen or self._last  # a replay may have begun already
        self.viewers.append(client)
        return client

    async def leave(self) -> None:
        """Close every viewer, and the publisher."""
        if self._publisher is not None:
            self._publisher.transport.close()
        await clients.close_all(self.viewers)
        self.viewers.clear()

    async def _open_publisher(self) -> Publisher:
        if self._publisher is None or self._publisher.closed:
            loop = asyncio.get_running_loop()
            port = self._peer.port
            _, self._publisher = await loop.create_connection(Publisher, "127.0.0.1", port)
        return self._publisher

    def received(self, client: clients.Client, data: bytes) -> None:
        """Take a read: one that is known as a whole costs one look-up."""
        now = time.monotonic_ns()
        whole = client.at_boundary and client.ready
        marks = self._known.get(data) if whole else None
        if marks is None:
            payloads = client.split(data)
            marks = self._marks(payloads)
            if not client.ready:
                self._greet(client, payloads)
            elif whole and client.at_boundary:
                self._known[data] = marks
        for number, sent in marks:
            client.seen += 1
            if number != client.seen:
                raise self._fail(f"message {number} instead of {client.seen}")
            self.latencies.append(now - sent)
        self._missing -= len(marks)
        if marks and not self._missing:
            self._all.set_result(None)

    def _greet(self, client: clients.Client, payloads: Sequence[bytes]) -> None:
        ready = self._face.ready
        if ready is None or any(ready in payload for payload in payloads):
            client.ready = True
            self._ready += 1

    def _marks(self, payloads: Sequence[bytes]) -> tuple[tuple[int, int], ...]:
        marks = []
        for payload in payloads:
            found = MARK.findall(payload)
            if len(found) != (payload.count(self._text) if found else 0):
                raise self._fail(f"a message with other content: {payload[:200]!r}")
            marks += [(int(number), int(sent)) for number, sent in found]
        return tuple(marks)

    def _fail(self, what: str) -> Incomplete:
        error = Incomplete(f"{self._face.name}: {what}")
        if not self._all.done():
            self._all.set_exception(error)
        return error

    async def broadcast(self, size: int, burst: int, times: int) -> int:
        """Publish `burst` messages of `size` bytes at once, `times` over; return the deliveries.

        Each publication waits until everyone has the one before.

        Raises:
            Incomplete: Somebody did not receive each message once, in order and whole.
        """
        self.latencies.clear()
        for _ in range(times):
            started = time.monotonic()
            await self._publish(size, burst)
            await asyncio.sleep(max(0.0, INTERVAL - (time.monotonic() - started)))
        return len(self.latencies)

    def expect(self, viewers: int, messages: int, size: int) -> asyncio.Future[None]:
        """Done when so many viewers have received so many messages each, from number 1 on."""
        self._known.clear()
        self._all = asyncio.get_running_loop().create_future()
        self._missing = viewers * messages
        self._text = text_of(size)
        return self._all

    async def _publish(self, size: int, burst: int) -> None:
        publisher = await self._open_publisher()
        clients.WebSocketClient.inflated.clear()
        everyone = self.expect(len(self.viewers), burst, size)
        now = time.monotonic_ns()
        payloads = [payload_of(self._last + n, now, self._text) for n in range(1, burst + 1)]
        self._last += burst
        requests, _ = self._peer.publication(payloads)
        publisher.send(requests)
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT):
                await everyone
        except TimeoutError:
            refused = publisher.refused.decode(errors="replace")
            what = f"{self._face.name}: {self._missing} deliveries missing {refused}"
            raise Incomplete(what) from None


FRAME = b'{"mark":"%b","text":"%b"}'
EMPTY_MARK = b"#%06d@%019d#" % (0, 0)
_words = [
    first + middle + last
    for first in ("ka", "lo", "mi", "ne", "po", "ru", "sa", "ti")
    for middle in ("b", "d", "ll", "nd", "r", "st", "v", "z")
    for last in ("a", "ed", "ing", "o", "um", "er", "ion", "ix")
]
_texts: dict[int, bytes] = {}


def text_of(size: int) -> bytes:
    """Words that make a payload `size` bytes long, always the same; they compress as text does."""
    if size not in _texts:
        draw = random.Random(size)
        length = size - len(FRAME % (EMPTY_MARK, b""))
        words = " ".join(draw.choice(_words) for _ in range(size // 4 + 1))
        _texts[size] = words[:length].encode().ljust(length, b".")
    return _texts[size]


def payload_of(number: int, sent: int, text: bytes) -> bytes:
    """A message: a JSON object with its number, its time and the text."""
    return FRAME % (b"#%06d@%019d#" % (number, sent), text)
