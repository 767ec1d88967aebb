"""A TCP relay on loopback that cuts connections after so many bytes, wherever that is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit


class _End(asyncio.Protocol):
    """One side of a relayed connection."""

    def __init__(self, other: _End | None = None) -> None:
        self.other = other
        self.transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Back(_End):
    """The server's side: what comes from here is what is cut."""

    def __init__(self, cutter: Cutter, other: _End) -> None:
        super().__init__(other)
        self._cutter = cutter
        self._left = cutter.budgets.pop(0) if cutter.budgets else None

    def data_received(self, data: bytes) -> None:
        if self._left is None or len(data) < self._left:
            super().data_received(data)
            if self._left is not None:
                self._left -= len(data)
            return
        super().data_received(data[: self._left])
        self._cutter.cuts += 1
        self._left = None
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._left is not None:  # it ended before its cut: the next one is cut instead
            self._cutter.budgets.insert(0, self._left)
        super().connection_lost(exc)


class Cutter:
    """Relays connections to a server.

    Attributes:
        url: to connect to instead of the server's.
        budgets: bytes that each connection, one after the other, gets from the server; when they
            are used up nothing is cut any more.
        cuts: connections cut so far.
    """

    def __init__(self, target: str, budgets: list[int]) -> None:
        parts = urlsplit(target)
        self._host = parts.hostname
        self._port = parts.port
        self.budgets = budgets
        self.cuts = 0
        self.url = ""

    def _connected(self) -> asyncio.Protocol:
        front = _Front(self)
        front.other = _Back(self, front)
        return front

    async def connect(self, back: _End) -> None:
        """Connect to the server on behalf of a client."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: back, self._host or "", self._port or 0)

    async def serve(self) -> asyncio.Server:
        """Listen on a port of its own."""
        server = await asyncio.get_running_loop().create_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server


class _Front(_End):
    """The client's side; what it says before the server is connected waits."""

    def __init__(self, cutter: Cutter) -> None:
        super().__init__()
        self._cutter = cutter
        self._early = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        assert self.other is not None
        try:
            await self._cutter.connect(self.other)
        except OSError:
            self.transport.abort()
            return
        self.other.transport.write(self._early)
        if self.transport.is_closing():
            self.other.transport.close()

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if self.other.transport is None:
            self._early += data
        else:
            self.other.transport.write(data)


@asynccontextmanager
async def cutter(target: str, budgets: list[int]) -> AsyncIterator[Cutter]:
    """A relay in front of a server."""
    relay = Cutter(target, budgets)
    server = await relay.serve()
    try:
        yield relay
    finally:
        server.close()
