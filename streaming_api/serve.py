"""The command ``serve``: a process that serves until a signal stops it.

SIGTERM and SIGINT stop it, SIGHUP makes it read its configuration again, SIGUSR1 writes what it is
doing to the log. Several workers get all of them from their supervisor.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from typing import Final

import attrs
import uvloop

from streaming_api.app import make_app
from streaming_api.config import ConfigError, Source, StreamingConfig
from streaming_api.ops import reload
from streaming_api.ops.dump import describe
from streaming_api.service import MakeApp, StreamingService, url_of
from streaming_api.serving import logs, systemd
from streaming_api.serving.descriptors import raise_limit, shortage
from streaming_api.serving.listening import activated_socket
from streaming_api.serving.supervisor import Share, Supervisor
from streaming_api.serving.workers import plan

logger = logging.getLogger(__name__)

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
_COLLECTIONS: Final = (5_000, 5, 20)
"""The garbage collector's thresholds; a connection makes 200 objects, a token leaves none.

Python's own (700, 10, 10) costs a fifth of accepting a connection. With (5,000, 20, 20) an answer
costs 4 % less, and now and then all tokens wait for 20 ms (docs/benchmarks.md).
"""


def serve(source: Source, make: MakeApp = make_app) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    Args:
        source: the configuration, and how to read it again.
        make: as for `StreamingService`.
    """
    config = source.config
    logs.set_up(config)
    raise_limit()
    planned = plan(config)
    for warning in (planned.missing, shortage(config, planned.workers)):
        if warning is not None:
            logger.warning("%s", warning)
    try:
        listening = activated_socket(config)
        if planned.workers == 1:
            # a second signal ends it at once, whatever it is doing
            alone = _Process(
                source, lambda config: config, make, listening,
                lambda port: _ready(config, port), signal.SIG_DFL,
            )  # fmt: skip
            return uvloop.run(alone.run())

        def be_worker(share: Share, listening: socket.socket, ready: Callable[[], None]) -> int:
            worker = _Process(source, share, make, listening, lambda _: ready(), signal.SIG_IGN)
            return uvloop.run(worker.run())

        supervisor = Supervisor(config, planned, be_worker, lambda: _read(source), listening)
        return supervisor.run(lambda port: _ready(config, port))
    except OSError as error:
        print(_cannot_listen(config, error))
        return 1


def _ready(config: StreamingConfig, port: int) -> None:
    """Report that it serves: to the service manager, and to whoever has started it."""
    systemd.notify("READY=1", f"STATUS=Serves on port {port}.")
    print(f"streaming-api serves on {url_of(config, port)}/ (Ctrl+C stops it)", flush=True)
    if not config.api_keys:
        logger.warning("No API keys are configured: whoever reaches this port may use it.")


def _read(source: Source) -> StreamingConfig | None:
    """Read the configuration again; log why, and return None, where it cannot be used."""
    try:
        return source.read()
    except ConfigError as error:
        logger.error("the configuration cannot be used, and nothing is changed:\n%s", error)  # noqa: TRY400 (the lines say it all)
        return None


@attrs.frozen
class _Process:
    """A process that serves.

    Attributes:
        source: the whole service's configuration.
        share: returns this process's share of it.
        listening: a bound socket; None to bind one.
        ready: called with the port once it serves.
        again: called at a second signal to stop.
    """

    source: Source
    share: Share
    make: MakeApp
    listening: socket.socket | None
    ready: Callable[[int], None]
    again: signal.Handlers

    async def run(self) -> int:
        """Serve until a signal to stop; return the exit status."""
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()

        def stop() -> None:
            for number in _STOPS:
                loop.remove_signal_handler(number)
                signal.signal(number, self.again)
            stopping.set()

        for number in _STOPS:
            loop.add_signal_handler(number, stop)
        config = self.share(self.source.config)
        service = StreamingService(config, make=self.make, listening=self.listening)
        loop.add_signal_handler(
            signal.SIGUSR1, lambda: logger.warning("%s", describe(service.context))
        )
        loop.add_signal_handler(signal.SIGHUP, lambda: self._reload(service))
        try:
            await service.start()
        except OSError as error:
            print(_cannot_listen(config, error))
            return 1
        gc.collect()
        gc.freeze()  # what start-up made stays; the collector need not look at it again
        gc.set_threshold(*_COLLECTIONS)
        self.ready(service.port)
        watchdog = asyncio.create_task(_keep_watchdog(), name="watchdog")
        await stopping.wait()
        config, running = service.context.config, len(service.context.answers.running)
        systemd.notify(*systemd.stopping(config.drain_delay + config.drain_seconds))
        logger.info("stopping: %d answers run and get %g s to end", running, config.drain_seconds)
        await service.stop()
        watchdog.cancel()
        return 0

    def _reload(self, service: StreamingService) -> None:
        """Read the configuration again. Whatever is wrong with it, this process goes on."""
        if not service.running or (config := _read(self.source)) is None:
            return
        try:
            reload.apply(service.context, self.share(config))
        except ConfigError as error:
            logger.error("the configuration needs a restart, and nothing is changed:\n%s", error)  # noqa: TRY400


async def _keep_watchdog() -> None:
    """Send heartbeats to a service manager that expects them, while the event loop runs."""
    interval = systemd.watchdog_interval()
    while interval is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _cannot_listen(config: StreamingConfig, error: OSError) -> str:
    if not error.errno:
        return f"streaming-api cannot serve: {error}."
    return (
        f"streaming-api cannot listen on {config.host}:{config.port}: {error.strerror or error}."
        " Is another one running? Choose another port with --port."
    )
