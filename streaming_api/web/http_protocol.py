"""The protocol of a connection that has not been taken over: aiohttp's, with three differences.

A process that is short of file descriptors says so and hangs up at once; bytes
that are not HTTP are answered with an error in the usual shape; and they are counted, not logged,
for a client that sends nonsense must not fill the log, least of all with its own bytes, which may
contain a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import orjson
from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError

from streaming_api.errors import ApiError, BadRequest, Unavailable
from streaming_api.web.body import UNSUPPORTED_CODING
from streaming_api.web.guard import error_response
from streaming_api.web.headers import COMMON
from streaming_api.web.one_request import OneRequest

if TYPE_CHECKING:
    import asyncio

    from streaming_api.connections.manager import ConnectionManager

HEAD_SECONDS: Final = 10.0
"""Seconds for a request's line and headers, and for the next request on a kept-alive connection."""
LINGER_SECONDS: Final = 2.0
"""Seconds in which the rest of an unread body is still read, so that its sender gets the reply."""
_NOT_HTTP: Final = BadRequest(
    "This is not HTTP/1.1, or its line or a header is longer than 8190 bytes.", "invalid_http"
)
_SHORT: Final = orjson.dumps(
    {
        "error": Unavailable(
            "The server is short of file descriptors; try again later.", "descriptors"
        ).body()
    }
)
_SHORT_REPLY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
    b"Retry-After: 5\r\nConnection: close\r\n%bContent-Length: %d\r\n\r\n%b"
    % (
        b"".join(f"{name}: {value}\r\n".encode() for name, value in COMMON.items()),
        len(_SHORT),
        _SHORT,
    )
)


class HttpProtocol(OneRequest):
    """One connection, from when it is accepted until it ends or is taken over.

    Args:
        server: aiohttp's server, which handles the requests.
        manager: knows how many descriptors are left, and counts refusals.
        loop: the event loop.
    """

    __slots__ = ("_connections",)

    def __init__(
        self, server: web.Server, manager: ConnectionManager, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=HEAD_SECONDS,
            lingering_time=LINGER_SECONDS,
            tcp_keepalive=False,  # inherited from the listening socket
            access_log=None,  # type: ignore[arg-type]  # run_app passes None, too: no access log
        )
        self._connections = manager
        self._start_reading(manager.turns)

    @property
    def is_fresh(self) -> bool:
        """Whether no request has arrived on this connection yet."""
        return self._request_count == 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, or hang up at once if descriptors are short."""
        sock = transport.get_extra_info("socket")
        if sock is not None and self._connections.admission.is_last_descriptor(sock.fileno()):
            self._connections.telemetry.refused("descriptors")
            self.close()  # nothing that the client sends is read
            accepted = cast("asyncio.Transport", transport)
            accepted.write(_SHORT_REPLY)
            accepted.close()
            return
        super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the reply to bytes that never became a request; the connection ends with it."""
        if not isinstance(exc, HttpProcessingError):
            response = super().handle_error(request, status, exc, message)
        else:
            coded = isinstance(exc, ContentEncodingError)  # in a way that is not installed
            error = UNSUPPORTED_CODING if coded else _NOT_HTTP
            self._connections.refused(error)
            response = _closing(error)
            request._version = HttpVersion11  # noqa: SLF001 (aiohttp assumes HTTP/1.0 if unparsed)
        response.headers.update(COMMON)
        return response


def _closing(error: ApiError) -> web.Response:
    response = error_response(error)
    response.force_close()
    return response
