"""The connections to one upstream, in use or waiting for another request; knows nothing of chat."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, cast

from streaming_api.upstreams.connect import connect
from streaming_api.upstreams.endpoint import Endpoint
from streaming_api.upstreams.http1 import ResponseProtocol
from streaming_api.upstreams.reply_errors import UpstreamFault

MOST_IDLE: Final = 64
"""Connections that may wait at once; another one is closed instead."""


class Connections:
    """The connections to one server.

    Args:
        endpoint: where the server is.
        connect_timeout: seconds for name look-up, TCP and TLS together.
        silence_timeout: seconds without a byte after which a response has ended.
        keep_alive: seconds that a connection may wait for another request; 0 keeps none.

    Attributes:
        used: those that carry a request.
        idle: those that wait, the newest last.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        connect_timeout: float = 10,
        silence_timeout: float = 300,
        keep_alive: float = 0,
    ) -> None:
        self.endpoint = endpoint
        self.silence_timeout = silence_timeout
        self.used: set[ResponseProtocol] = set()
        self.idle: list[_Idle] = []
        self._tls = ssl.create_default_context() if endpoint.tls else None
        self._connect_timeout = connect_timeout
        self._keep_alive = keep_alive

    async def connect(self, stream: ResponseProtocol) -> UpstreamFault | None:
        """Connect `stream` anew, or return why that was not possible."""
        self._use(stream)
        protocol = cast(asyncio.Protocol, stream)
        try:
            error = await connect(protocol, self.endpoint, self._tls, self._connect_timeout)
        except asyncio.CancelledError:
            self.used.discard(stream)
            raise
        if error is not None:
            self.used.discard(stream)
        return error

    def reuse(self, stream: ResponseProtocol) -> bool:
        """Connect `stream` by an idle connection, as if it were new; return False without one.

        The newest is taken: it is the least likely to be closed by the other side at this moment.
        """
        while self.idle:
            idle = self.idle.pop()
            idle.timer.cancel()
            if not idle.transport.is_closing():
                self._use(stream)
                idle.transport.set_protocol(cast(asyncio.Protocol, stream))
                stream.connection_made(idle.transport)
                return True
        return False

    async def close(self) -> None:
        """Abort what is still open: responses end as cut."""
        while self.idle:
            self.idle[-1].close()
        for stream in list(self.used):
            stream.give_up("this server is shutting down")
        await asyncio.sleep(0)  # transports close in the next iteration of the loop

    def _use(self, stream: ResponseProtocol) -> None:
        self.used.add(stream)
        stream.on_closed = self.used.discard
        stream.on_reusable = self._keep

    def _keep(self, transport: asyncio.Transport) -> None:
        """Keep a connection on which a response has ended."""
        if self._keep_alive <= 0 or len(self.idle) >= MOST_IDLE:
            transport.close()
            return
        idle = _Idle(self.idle, transport)
        transport.set_protocol(idle)
        idle.timer = asyncio.get_running_loop().call_later(self._keep_alive, idle.close)
        self.idle.append(idle)


class _Idle(asyncio.Protocol):
    """A waiting connection; whatever happens on it, it is of no more use."""

    def __init__(self, waiting: list[_Idle], transport: asyncio.Transport) -> None:
        self.transport = transport
        self.timer = cast("asyncio.TimerHandle", None)
        self._waiting = waiting

    def close(self) -> None:
        """Wait no longer."""
        self._forget()
        self.transport.close()

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 (nobody has asked)
        """Close: this answers nothing that was asked."""
        self.close()

    def eof_received(self) -> None:
        """Forget the connection: the other side closes it."""
        self._forget()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (either way)
        """Forget the connection: it is gone."""
        self._forget()

    def _forget(self) -> None:
        self.timer.cancel()
        if self in self._waiting:
            self._waiting.remove(self)
