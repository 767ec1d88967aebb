"""A request passed on and its response passed back, bytes as they come; knows nothing of chat.

Little is held either way: when nobody reads the response, the upstream waits, and when the upstream
takes no more of the request, whoever sends it waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from streaming_api.upstreams.http1 import (
    REQUEST_TIMEOUT,
    Head,
    ResponseEnd,
    ResponseProtocol,
)
from streaming_api.upstreams.http_faults import broken
from streaming_api.upstreams.reply_errors import UpstreamError, UpstreamFault

if TYPE_CHECKING:
    from streaming_api.upstreams.connections import Connections

MOST_HELD: Final = 256 * 2**10
"""Bytes of a response that wait for its reader; beyond them the upstream is not read."""
_CLOSED: Final = frozenset({ResponseEnd.CUT, ResponseEnd.RESET})


class Relay:
    """One exchange.

    Args:
        connections: to the upstream.
        request: the head, and the whole body if it is here already.
        whole: whether the body is here; only then may a kept connection carry it, for only then it
            can be sent again.
    """

    def __init__(self, connections: Connections, request: bytes, *, whole: bool) -> None:
        self._connections = connections
        self._request = request
        self._whole = whole
        self._head: Head | None = None
        self._held: deque[bytes] = deque()
        self._size = 0
        self._ended: ResponseEnd | None = None
        self._detail = ""
        self._changed = asyncio.Event()  # something has come, or it has ended
        self._writable = asyncio.Event()
        self._writable.set()
        self._stream: ResponseProtocol | None = None

    async def open(self) -> None:
        """Connect and send the request.

        Raises:
            UpstreamError: the upstream cannot be reached.
        """
        stream = self._prepare()
        if self._whole and self._connections.reuse(stream):
            await self._until(lambda: self._head is not None or self._ended is not None)
            if self._head is not None and self._head.status == REQUEST_TIMEOUT:
                stream.abort()  # it had waited in vain until now, as in `Exchange`
                self._forget()
            elif stream.answered or self._ended not in _CLOSED:
                return
            self._ended = None  # it had been closed by the time of this request
            stream = self._prepare()
        error = await self._connections.connect(stream)
        if error is not None:
            raise UpstreamError(error)

    async def head(self) -> Head:
        """Wait for the head of the response.

        Raises:
            UpstreamError: there will be no response.
        """
        await self._until(lambda: self._head is not None or self._ended is not None)
        if self._head is None:
            raise UpstreamError(self._fault())
        return self._head

    async def read(self) -> bytes:
        """Return the bytes of the body that have come; none at its end.

        Raises:
            UpstreamError: the response has been cut.
        """
        await self._until(lambda: bool(self._held) or self._ended is not None)
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._size = 0
            if self._stream is not None:
                self._stream.resume_reading()
            return data
        if self._ended is not ResponseEnd.COMPLETE:
            raise UpstreamError(self._fault())
        return b""

    async def write(self, data: bytes) -> None:
        """Send more of the request's body; what is sent after the response is dropped."""
        await self._writable.wait()
        if self._ended is None and self._stream is not None:
            self._stream.send(data)

    def end_body(self) -> None:
        """Note that the request's body has been sent to its end."""
        if self._stream is not None:
            self._stream.body_pending = False

    def give_up(self) -> None:
        """End the exchange: the request's body does not come to its end."""
        if self._ended is None and self._stream is not None:
            self._stream.give_up("the request broke off")

    def close(self) -> None:
        """Let go of the connection; an incomplete response is cut."""
        if self._ended is None and self._stream is not None:
            self._stream.abort()

    # What the connection calls.

    def head_received(self, head: Head) -> None:
        """Take the head of the response."""
        self._head = head
        self._changed.set()

    def body_received(self, data: bytes) -> None:
        """Hold what has come until it is read."""
        self._held.append(data)
        self._size += len(data)
        if self._size > MOST_HELD and self._stream is not None:
            self._stream.pause_reading()
        self._changed.set()

    def ended(self, outcome: ResponseEnd, detail: str) -> None:
        """Note that the response is over, and how it ended."""
        self._ended = outcome
        self._detail = detail
        self._writable.set()
        self._changed.set()

    # Inside.

    def _forget(self) -> None:
        """Forget a response; another one comes in its place."""
        self._head = None
        self._held.clear()
        self._size = 0

    def _prepare(self) -> ResponseProtocol:
        loop = asyncio.get_running_loop()
        stream = ResponseProtocol(loop, self._request, self, self._connections.silence_timeout)
        stream.on_writable = self._set_writable
        stream.body_pending = not self._whole
        self._stream = stream
        return stream

    def _set_writable(self, writable: bool) -> None:  # noqa: FBT001 (the one thing that it says)
        if writable:
            self._writable.set()
        else:
            self._writable.clear()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _fault(self) -> UpstreamFault:
        return broken(self._ended or ResponseEnd.CUT, self._detail)
