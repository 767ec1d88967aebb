"""Connections to the upstream that wait for another request. Knows no HTTP."""

from __future__ import annotations

import asyncio
from typing import Final, cast

MOST_IDLE: Final = 64
"""Connections that may wait at once; another one is closed instead."""


class KeptAlive:
    """Idle connections to one server, the newest first.

    Args:
        seconds: how long one may wait; 0 keeps none.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._idle: list[_Idle] = []

    def __len__(self) -> int:
        return len(self._idle)

    def put(self, transport: asyncio.Transport) -> None:
        """Keep a connection on which a response has ended."""
        if self._seconds <= 0 or len(self._idle) >= MOST_IDLE:
            transport.close()
            return
        idle = _Idle(self._idle, transport)
        transport.set_protocol(idle)
        loop = asyncio.get_running_loop()
        idle.timer = loop.call_later(self._seconds, idle.close)
        self._idle.append(idle)

    def take(self, protocol: asyncio.Protocol) -> bool:
        """Give a connection to a protocol, as if it were new; return False if there is none.

        The newest is taken: it is the least likely to be closed by the other side at this moment.
        """
        while self._idle:
            idle = self._idle.pop()
            idle.timer.cancel()
            if not idle.transport.is_closing():
                idle.transport.set_protocol(protocol)
                protocol.connection_made(idle.transport)
                return True
        return False

    def close(self) -> None:
        """Close all of them."""
        while self._idle:
            self._idle[-1].close()


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
