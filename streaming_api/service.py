"""StreamingService: the application as an object, which is started and stopped."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from streaming_api.app import leave, make_app
from streaming_api.config import StreamingConfig
from streaming_api.ops.context import CONTEXT
from streaming_api.serving.listening import listening_socket
from streaming_api.web.http_protocol import HttpProtocol

if TYPE_CHECKING:
    from types import TracebackType

    from streaming_api.connections.manager import ConnectionManager
    from streaming_api.ops.context import Context

MakeApp = Callable[[StreamingConfig], web.Application]

HANDSHAKE_SECONDS: Final = 10.0
"""Seconds for a TLS handshake, and for the closing one."""
_FRESH_SECONDS: Final = 0.5
"""Seconds for the first request of a connection that was accepted just before a stop."""
_BACKLOG: Final = 4096


class StreamingService:
    """One server; ``async with StreamingService(config) as service`` serves on ``service.url``.

    Args:
        config: port 0 takes any free one.
        make: makes the application (tests and benchmarks add routes to it).
        listening: a bound socket to serve on; None to bind the configured address.
    """

    def __init__(
        self,
        config: StreamingConfig | None = None,
        *,
        make: MakeApp = make_app,
        listening: socket.socket | None = None,
    ) -> None:
        self.config = config or StreamingConfig()
        self._make = make
        self._socket = listening
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self.port = 0

    def __repr__(self) -> str:
        return f"<StreamingService {self.url if self._runner else 'stopped'}>"

    @property
    def url(self) -> str:
        """The URL at which it serves, ``http://host:port`` without a trailing slash."""
        return url_of(self.config, self.port)

    @property
    def running(self) -> bool:
        """Whether it serves now."""
        return self._runner is not None

    @property
    def context(self) -> Context:
        """The parts of the running application.

        Raises:
            RuntimeError: it is not running.
        """
        if self._runner is None:
            raise RuntimeError("The service has not been started.")
        return self._runner.app[CONTEXT]

    @property
    def connection_manager(self) -> ConnectionManager:
        """The connections of the running application."""
        return self.context.manager

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            OSError: the address cannot be bound.
        """
        config = self.config
        app = self._make(config)
        # handler_cancellation: a handler leaves with its client
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            certificate = app[CONTEXT].certificate
            tls = None if certificate is None else certificate.context
            listening = self._socket or listening_socket(config)
            self._listener = await _listen(runner, app[CONTEXT].manager, tls, listening)
        except BaseException:
            await runner.cleanup()
            raise
        asyncio.get_running_loop().set_default_executor(
            ThreadPoolExecutor(max_workers=config.cpu_cores, thread_name_prefix="executor")
        )
        self._runner = runner
        self.port = self._listener.sockets[0].getsockname()[1]
        await app[CONTEXT].upstream.start()  # loading a model must not delay the first page

    async def stop(self) -> None:
        """Drain and stop: fail health checks, let answers end, then notify clients."""
        listener, self._listener = self._listener, None
        if listener is not None and self._runner is not None:
            await leave(self._runner.app)
            listener.close()
            await _first_requests(self._runner)
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


def url_of(config: StreamingConfig, port: int) -> str:
    """Return the URL of a server with this configuration on this port."""
    scheme = "https" if config.tls_certificate else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)  # noqa: S104 (shown, not bound)
    return f"{scheme}://{host}:{port}"


async def _first_requests(runner: web.AppRunner) -> None:
    """Wait briefly for the requests of connections that were accepted just before the end.

    They would be closed as idle ones, and their clients could not know that nothing was done.
    """
    server = runner.server
    until = time.monotonic() + _FRESH_SECONDS
    while server is not None and time.monotonic() < until:
        # all are ours, except those that have been taken over
        if not any(getattr(one, "is_fresh", False) for one in server.connections):
            return
        await asyncio.sleep(0.01)


async def _listen(
    runner: web.AppRunner,
    manager: ConnectionManager,
    tls: ssl.SSLContext | None,
    listening: socket.socket,
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    server = runner.server
    assert server is not None  # it has been set up by now

    def accepted() -> HttpProtocol:
        return HttpProtocol(server, manager, loop)

    manager.http = accepted
    seconds = None if tls is None else HANDSHAKE_SECONDS
    return await loop.create_server(
        accepted,
        sock=listening,
        backlog=_BACKLOG,
        ssl=tls,
        ssl_handshake_timeout=seconds,
        ssl_shutdown_timeout=seconds,
    )
