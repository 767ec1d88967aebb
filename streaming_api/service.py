"""StreamingService: the application as an object; `run` serves it until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import uvloop
from aiohttp import web

from streaming_api import systemd
from streaming_api.app import leave, make_app
from streaming_api.config import StreamingConfig
from streaming_api.listening import activated_socket, listening_socket
from streaming_api.ops.context import CONTEXT
from streaming_api.ops.dump import describe
from streaming_api.supervisor import Supervisor
from streaming_api.web.http_protocol import HttpProtocol
from streaming_api.workers import plan

if TYPE_CHECKING:
    from types import TracebackType

    from streaming_api.connections.manager import ConnectionManager
    from streaming_api.ops.context import Context

logger = logging.getLogger(__name__)

MakeApp = Callable[[StreamingConfig], web.Application]

HANDSHAKE_SECONDS: Final = 10.0
"""Seconds for a TLS handshake, and for the goodbye of one."""
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
_BACKLOG: Final = 4096
_COLLECTIONS: Final = (5_000, 5, 20)
"""When the garbage collector looks; a connection makes some 200 objects, a token leaves none.

Python's own (700, 10, 10) costs a fifth of accepting a connection (docs/benchmarks.md).
"""


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
        """Where it serves, ``http://host:port`` without a slash at the end."""
        return _url(self.config, self.port)

    @property
    def running(self) -> bool:
        """Whether it serves now."""
        return self._runner is not None

    @property
    def context(self) -> Context:
        """The parts of the running application.

        Raises:
            RuntimeError: it does not run.
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
        """Drain and end: health checks are told, answers end, then clients are told."""
        listener, self._listener = self._listener, None
        if listener is not None and self._runner is not None:
            await leave(self._runner.app)
            listener.close()
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


def _url(config: StreamingConfig, port: int) -> str:
    scheme = "https" if config.tls_certificate else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)  # noqa: S104 (shown, not bound)
    return f"{scheme}://{host}:{port}"


async def _listen(
    runner: web.AppRunner,
    manager: ConnectionManager,
    tls: ssl.SSLContext | None,
    listening: socket.socket,
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    server = runner.server
    assert server is not None  # it has been set up

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


def run(config: StreamingConfig, make: MakeApp = make_app) -> int:
    """Serve until SIGTERM or SIGINT; the exit status.

    Args:
        config: all of it.
        make: as for `StreamingService`.
    """
    _set_up_logging(config)
    planned = plan(config)
    if planned.missing is not None:
        logger.warning("%s", planned.missing)
    try:
        listening = activated_socket(config)
    except OSError as error:
        print(f"streaming-api cannot serve: {error}.")
        return 1
    if planned.workers == 1:
        # told once more, it ends at once, whatever it is doing
        serving = _serve(config, make, listening, lambda port: _ready(config, port), signal.SIG_DFL)
        return uvloop.run(serving)

    def serve(share: StreamingConfig, listening: socket.socket, ready: Callable[[], None]) -> int:
        return uvloop.run(_serve(share, make, listening, lambda _: ready(), signal.SIG_IGN))

    try:
        return Supervisor(config, planned, serve, listening).run(lambda port: _ready(config, port))
    except OSError as error:
        print(_cannot_listen(config, error))
        return 1


def _ready(config: StreamingConfig, port: int) -> None:
    """Say that it serves: to the service manager, and to whoever has started it."""
    systemd.notify("READY=1", f"STATUS=Serves on port {port}.")
    url = _url(config, port)
    print(f"streaming-api serves on {url}/ (Ctrl+C stops it)", flush=True)
    if not config.api_keys:
        logger.warning("No API keys are configured: whoever reaches this port may use it.")


def _set_up_logging(config: StreamingConfig) -> None:
    """To standard error, and under systemd also to its logs directory."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if directory := os.environ.get("LOGS_DIRECTORY"):
        handlers.append(WatchedFileHandler(Path(directory.split(":")[0]) / "streaming-api.log"))
    logging.basicConfig(
        level=config.log_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=handlers,
    )


async def _serve(
    config: StreamingConfig,
    make: MakeApp,
    listening: socket.socket | None,
    ready: Callable[[int], None],
    again: signal.Handlers,
) -> int:
    """Serve until a signal says stop; ``again``: what the next one does."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop() -> None:
        for number in _STOPS:
            loop.remove_signal_handler(number)
            signal.signal(number, again)
        stopping.set()

    for number in _STOPS:
        loop.add_signal_handler(number, stop)
    service = StreamingService(config, make=make, listening=listening)
    loop.add_signal_handler(signal.SIGUSR1, lambda: logger.warning("%s", describe(service.context)))
    try:
        await service.start()
    except OSError as error:
        print(_cannot_listen(config, error))
        return 1
    gc.collect()
    gc.freeze()  # what start-up made stays; the collector need not look at it again
    gc.set_threshold(*_COLLECTIONS)
    ready(service.port)
    watchdog = asyncio.create_task(_keep_watchdog(), name="watchdog")
    await stopping.wait()
    running = len(service.context.answers.running)
    systemd.notify(*systemd.stopping(config.drain_delay + config.drain_seconds))
    logger.info("stopping: %d answers run and get %g s to end", running, config.drain_seconds)
    await service.stop()
    watchdog.cancel()
    return 0


async def _keep_watchdog() -> None:
    """Tell a service manager that asks for it that the event loop turns."""
    interval = systemd.watchdog_interval()
    while interval is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _cannot_listen(config: StreamingConfig, error: OSError) -> str:
    return (
        f"streaming-api cannot listen on {config.host}:{config.port}: {error.strerror or error}."
        " Is another one running? Choose another port with --port."
    )
