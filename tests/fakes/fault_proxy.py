"""A TCP proxy on loopback that does what bad networks do; knows no protocol above TCP.

It stands between a client and the server, or between the server and one of its upstreams:

    async with FaultProxy(server.url, Faults(latency=0.05, cut_after=2_000)) as proxy:
        ... proxy.url ...

What a connection suffers is decided when it is accepted, by a `Faults` or by a function that draws
one from the proxy's seeded generator. `reset_all` and `silence_all` act on those that are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, cast
from urllib.parse import urlsplit

import attrs

from tests.lifecycle import Lifecycle

_PACKET: Final = 1_400
"""Bytes that a narrow link passes at a time."""
_MOST_HELD: Final = 65_536
"""Bytes that one direction holds back before its source is read no further."""


@attrs.frozen(kw_only=True)
class Faults:
    """What happens to one connection. The default is nothing at all.

    Attributes:
        latency: seconds that every byte is late, in both directions.
        bandwidth: bytes a second that pass, in each direction; None for any number.
        slices: most bytes that arrive together; each write's size is drawn from 1 up to it.
        cut_after: bytes from the target after which both sides are ended, as `cut` says.
        cut: "rst" (connection reset by peer) or "fin" (an end in good order, at a wrong place).
        silent_after: bytes from the target after which nothing more passes, either way, and nobody
            is told: a cable that was pulled.
        slow_close: seconds that one side's end is kept from the other.
    """

    latency: float = 0.0
    bandwidth: float | None = None
    slices: int = 0
    cut_after: int | None = None
    cut: Literal["rst", "fin"] = "rst"
    silent_after: int | None = None
    slow_close: float = 0.0

    @property
    def delays(self) -> bool:
        """Whether bytes cannot be passed on at once as they came."""
        return bool(self.latency or self.bandwidth or self.slices)


Choose = Callable[[random.Random], Faults]
"""Draws what the next connection suffers."""


class FaultProxy(Lifecycle):
    """The proxy.

    Args:
        target: URL of whom it connects to; may be changed at any time.
        faults: of every connection, or what draws them; may be changed, for those to come.
        seed: of all its chance.

    Attributes:
        accepted: connections so far.
        cuts: connections that were ended by `cut_after` or `reset_all`.
        silenced: connections that were silenced.
    """

    def __init__(self, target: str, faults: Faults | Choose | None = None, seed: int = 0) -> None:
        self.target = target
        self.faults: Faults | Choose = faults or Faults()
        self.accepted = 0
        self.cuts = 0
        self.silenced = 0
        self.chance = random.Random(seed)
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """To connect to instead of the target's."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def open(self) -> int:
        """Connections of now."""
        return len(self._links)

    def reset_all(self, share: float = 1.0) -> int:
        """Reset what is open, or a share of it drawn at random. Returns how many."""
        chosen = [link for link in tuple(self._links) if self.chance.random() < share]
        for link in chosen:
            link.cut("rst")
        return len(chosen)

    def silence_all(self, share: float = 1.0) -> int:
        """Let nothing more pass on what is open, and notify nobody. Returns how many."""
        chosen = [link for link in tuple(self._links) if self.chance.random() < share]
        for link in chosen:
            link.silence()
        return len(chosen)

    async def start(self) -> None:
        """Listen; after a `stop` on the same port again."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._accept, "127.0.0.1", self._port, backlog=4096, reuse_address=True
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and reset what is open."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for link in tuple(self._links):
            link.reset()
        if server is not None:
            await server.wait_closed()

    def _accept(self) -> asyncio.Protocol:
        self.accepted += 1
        faults = self.faults if isinstance(self.faults, Faults) else self.faults(self.chance)
        link = _Link(self, faults)
        self._links.add(link)
        return link.front

    def gone(self, link: _Link) -> None:
        """Both sides of a connection have ended."""
        self._links.discard(link)


class _Link:
    """One connection through the proxy: a side to the client, a side to the target."""

    def __init__(self, proxy: FaultProxy, faults: Faults) -> None:
        self.proxy = proxy
        self.faults = faults
        self.silent = False
        self.front = _Side(self)
        self.back = _Side(self)
        self.front.out = _Pipe(self, self.front, self.back)
        self.back.out = _Pipe(self, self.back, self.front)
        self._left = faults.cut_after
        self._until_silence = faults.silent_after
        self._connecting: asyncio.Task[None] | None = None

    def connect(self) -> None:
        """The client is there: find the target."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        parts = urlsplit(self.proxy.target)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: self.back, parts.hostname or "", parts.port or 80
            )
        except OSError:
            self.back.ended = True
            self.reset()

    def received(self, side: _Side, data: bytes) -> None:
        """Bytes of one side: count, cut, silence, or pass them on."""
        if self.silent:
            return
        cut = hush = False
        if side is self.back:
            if self._until_silence is not None:
                hush = len(data) >= self._until_silence
                data = data[: self._until_silence]
                self._until_silence -= len(data)
            if self._left is not None:
                cut = len(data) >= self._left
                data = data[: self._left]
                self._left -= len(data)
        side.out.put(data)
        if cut:
            self.cut(self.faults.cut)
        elif hush:
            self.silence()

    def cut(self, how: str) -> None:
        """End it in the middle."""
        self.proxy.cuts += 1
        self.silent = True
        if how == "rst":
            self.reset()
            return
        self.front.close()
        self.back.close()

    def silence(self) -> None:
        """From now on it is a cable that was pulled: what is sent stays with its sender."""
        self.proxy.silenced += 1
        self.silent = True
        self.front.pause()
        self.back.pause()

    def reset(self) -> None:
        """Reset both sides."""
        self.front.reset()
        self.back.reset()

    def ended(self, side: _Side) -> None:
        """One side is gone; the other is notified when what is on its way has arrived."""
        if self.front.ended and self.back.ended:
            self.proxy.gone(self)
        elif side is self.front and self.back.transport is None:
            pass  # told when it is connected
        elif not self.silent:
            side.out.end()
        # one that is silenced does not learn of the other's end


class _Side(asyncio.Protocol):
    """One end of a link."""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.out = cast("_Pipe", None)
        self.transport: asyncio.Transport | None = None
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The front leads to the back; the back lets what waited through."""
        self.transport = cast("asyncio.Transport", transport)
        if self is self.link.front:
            self.link.connect()
        elif self.link.front.ended:
            self.transport.abort()
        else:
            self.link.front.out.flush()

    def data_received(self, data: bytes) -> None:
        """Bytes of this side."""
        self.link.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """This side has ended; a reset is handed on as one."""
        self.ended = True
        if exc is not None and not self.link.silent:
            self.link.reset()
        self.link.ended(self)

    def pause_writing(self) -> None:
        """What leads here is read no further."""
        self.other.pause()

    def resume_writing(self) -> None:
        """It is read again."""
        if not self.link.silent:
            self.other.resume()

    @property
    def other(self) -> _Side:
        """The side across the link."""
        return self.link.back if self is self.link.front else self.link.front

    def pause(self) -> None:
        """Read no further."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self) -> None:
        """End in good order."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """End with RST: no linger."""
        if self.transport is None or self.ended:
            return
        sock: socket.socket | None = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class _Pipe:
    """One direction of a link, with what is on its way in it."""

    def __init__(self, link: _Link, source: _Side, sink: _Side) -> None:
        self._link = link
        self._source = source
        self._sink = sink
        self._held: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._free = 0.0
        self._timer: asyncio.Handle | None = None
        self._ending = False

    def put(self, data: bytes) -> None:
        """Send bytes on their way."""
        faults = self._link.faults
        sink = self._sink.transport
        if sink is not None and sink.is_closing():
            return
        if not faults.delays and sink is not None and not self._held:
            sink.write(data)
            return
        now = asyncio.get_running_loop().time()
        for piece in self._pieces(data):
            due = now + faults.latency
            if faults.bandwidth:
                due = self._free = max(due, self._free) + len(piece) / faults.bandwidth
            self._held.append((due, piece))
        self._size += len(data)
        if self._size > _MOST_HELD:
            self._source.pause()
        self.flush()

    def _pieces(self, data: bytes) -> list[bytes]:
        faults = self._link.faults
        if not faults.slices and not faults.bandwidth:
            return [data]
        pieces = []
        start = 0
        while start < len(data):
            size = _PACKET
            if faults.slices:
                size = self._link.proxy.chance.randint(1, faults.slices)
            end = start + size
            pieces.append(data[start:end])
            start = end
        return pieces

    def flush(self) -> None:
        """Write what is due; slices one a turn of the loop, so that they arrive as slices."""
        if self._timer is not None or self._sink.transport is None:
            return
        self._step()

    def _step(self) -> None:
        self._timer = None
        sink = self._sink.transport
        if sink is None or sink.is_closing():
            return
        loop = asyncio.get_running_loop()
        while self._held and self._held[0][0] <= loop.time():
            _, piece = self._held.popleft()
            self._size -= len(piece)
            if not self._link.silent:
                sink.write(piece)
            if self._link.faults.slices:
                break
        if self._held:
            self._timer = loop.call_later(max(0.0, self._held[0][0] - loop.time()), self._step)
        elif self._ending:
            self._close()
        if self._size <= _MOST_HELD // 2 and not self._link.silent:
            self._source.resume()

    def end(self) -> None:
        """The source has ended; so does the sink, later."""
        self._ending = True
        if not self._held:
            self._close()

    def _close(self) -> None:
        asyncio.get_running_loop().call_later(self._link.faults.slow_close, self._sink.close)
