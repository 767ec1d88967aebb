"""Passing on: requests to other paths of the gateway, flat out, with bodies of 1 MB."""

from __future__ import annotations

import asyncio
import re
from typing import cast

from tests.bench import clients
from tests.bench.audience import Incomplete
from tests.bench.bench import Bench
from tests.bench.emitter import LARGE
from tests.bench.measure import measuring
from tests.bench.peers.base import Peer
from tests.bench.peers.nginx import Nginx
from tests.bench.peers.ours import Ours

WORK = "passing on"
DOWN, UP = "1 MB from the gateway", "1 MB to the gateway"
PATHS = {DOWN: "/v1/embeddings", UP: "/v1/audio/transcriptions"}
CONNECTIONS = 10
REQUESTS = 30
"""Requests on each connection, one after the other."""
TIMEOUT = 60.0
NGINX = "nginx, unbuffered"
OURS = "streaming-api"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")


class Unbuffered(Nginx):
    """nginx that passes bodies on as they come, as this server does."""

    name = NGINX
    http = Nginx.http.replace(
        "proxy_buffering off;",
        "proxy_buffering off;\n            proxy_request_buffering off;\n"
        "            client_max_body_size 0;",
    )


class Fetching(asyncio.Protocol):
    """One connection, on which a request is sent again and again.

    Attributes:
        done: Done after the last response.
    """

    def __init__(self, request: bytes, times: int, size: int) -> None:
        """Expect so many bodies of `size` bytes."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._left = times
        self._size = size
        self._head = b""
        self._body: int | None = None  # bytes of it so far; None before it has begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody closes before the end."""
        if not self.done.done():
            self.done.set_exception(Incomplete(f"closed early: {exc}"))

    def data_received(self, data: bytes) -> None:
        """Count the body; ask again at its end."""
        if self._body is None:
            self._head += data
            head, end, data = self._head.partition(clients.HEAD_END)
            if not end:
                return
            length = _LENGTH.search(head + b"\r\n")
            if not head.startswith(b"HTTP/1.1 200") or not length or int(length[1]) != self._size:
                self.done.set_exception(Incomplete(head.decode(errors="replace")[:300]))
                return
            self._head = b""
            self._body = 0
        self._body += len(data)
        if self._body < self._size:
            return
        self._body = None
        self._left -= 1
        if self._left:
            self.transport.write(self._request)
        else:
            self.done.set_result(None)


async def measure(bench: Bench, peer: Peer, case: str) -> None:
    """Every connection asks as often as it shall; CPU for each request."""
    url = f"{peer.base}{PATHS[case]}"
    body = LARGE if case == UP else b'{"input":"x"}'
    size = len(LARGE) if case == DOWN else len(b"{}")
    request = clients.post_request(url, body)
    times = 3 if bench.quick else REQUESTS
    loop = asyncio.get_running_loop()
    port = clients.port_of(url)
    opened: list[Fetching] = []
    try:
        with measuring(peer) as meter:
            for _ in range(CONNECTIONS):
                _, fetching = await loop.create_connection(
                    lambda: Fetching(request, times, size), "127.0.0.1", port
                )
                opened.append(fetching)
            async with asyncio.timeout(TIMEOUT):
                await asyncio.gather(*(fetching.done for fetching in opened))
    finally:
        for fetching in opened:
            fetching.transport.abort()
    face = NGINX if isinstance(peer, Nginx) else OURS
    bench.results.add(meter.sample(work=WORK, case=case, face=face, units=CONNECTIONS * times))


async def run(bench: Bench) -> None:
    """nginx and ours, both ways, in turn, round after round."""
    for number in bench.rounds(5, seconds=30):
        for case in PATHS:
            for kind in (Unbuffered, Ours):
                peer = await bench.peer(kind)
                if peer is not None:
                    what = f"{WORK}, round {number + 1}: {case}, {peer.name}"
                    await bench.attempt(what, measure(bench, peer, case))
