"""A task for as long as requests are answered, and none for a connection that waits for one.

aiohttp's task waits on a future for the next request and, before Python 3.12, begins a second task
for it. Each wait is a turn of the event loop, behind everything else that is ready. Here a request
begins a task once its head is there; that task answers it and whatever follows by then, and ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.web_protocol import ERROR, PayloadAccessError

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader
    from aiohttp.web_protocol import _ErrInfo

_READ: PayloadAccessError = PayloadAccessError()


class RequestTask(web.RequestHandler):
    """aiohttp's protocol, whose task lasts as long as there are requests to answer."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request, for as long as for any other."""
        self.transport = cast("asyncio.Transport", transport)  # TCP_NODELAY is set, by every loop
        if self._manager is not None:
            self._manager.connection_made(self, self.transport)
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )

    def _process_keepalive(self) -> None:
        """Close the connection if no request has come for long enough."""
        self._keepalive_handle = None
        if self._force_close or not self._keepalive:
            return
        if self._loop.time() < self._next_keepalive_close_time:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        elif self._task_handler is None:
            self.force_close()

    def close(self) -> None:
        """Answer what has been asked, then close the connection; now, if nothing has been."""
        super().close()
        if self._task_handler is None and self.transport is not None:
            self.transport.close()

    def take_up(self) -> None:
        """Answer the requests that have been read, unless that is being done."""
        if self._task_handler is None:
            self._task_handler = self._loop.create_task(self.start())

    async def start(self) -> None:
        """Answer requests until there is none left, or the connection has to end."""
        goes_on = True
        while self._messages and goes_on and not self._force_close:
            goes_on = await self._answer(*self._messages.popleft())
            if self._messages:  # sent behind the one before: others have their turn first
                await asyncio.sleep(0)
        self._task_handler = None
        if not self._force_close:
            if goes_on:
                self._wait_for_request()
            elif self.transport is not None:
                self.transport.close()

    async def _answer(self, message: RawRequestMessage | _ErrInfo, body: StreamReader) -> bool:
        """Answer one request; return whether another may follow on the connection."""
        assert self._manager is not None
        assert self._request_factory is not None
        assert self._request_handler is not None
        if self._parser is not None:
            self._parser.message_consumed()
        self._manager.requests_count += 1
        handler = self._request_handler
        if not isinstance(message, RawRequestMessage):
            handler = self._make_error_handler(message)
            message = ERROR
        task = cast("asyncio.Task[None]", self._task_handler or asyncio.current_task())
        writer = StreamWriter(self, self._loop)
        request = self._request_factory(message, body, self, writer, task)
        try:
            response, is_over = await self._handle_request(request, None, handler)
            self._keepalive = bool(response.keep_alive)
            if not is_over:
                await self._read_the_rest(body)
            body.set_exception(_READ)
        except ConnectionError:
            return False
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            self.logger.exception("Unhandled exception")
            self.force_close()
            return False
        finally:
            request._task = None  # type: ignore[assignment] # noqa: SLF001 (no cycle is left)
            del task  # its error would keep this frame, and this frame the task
        return self._keepalive and not is_over and not self._close

    async def _read_the_rest(self, body: StreamReader) -> None:
        """Discard for a while what is left of a body, so that its sender gets the reply."""
        if body.is_eof() or self._force_close:
            return
        try:
            async with asyncio.timeout(self._lingering_time):
                while not body.is_eof():
                    await body.readany()
                    await self._pause()  # all of a compressed one may be here
        except TimeoutError:
            self.close()

    async def _pause(self) -> None:
        """Let others have their turn."""
        await asyncio.sleep(0)
