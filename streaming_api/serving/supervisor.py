"""Supervisor: several worker processes on one port, each replaced when it dies. Serves nothing.

It binds one SO_REUSEPORT socket for each worker and keeps it open: connections that the kernel has
queued for a worker that dies are accepted by its successor (closing such a socket drops its queue).
A worker that hangs is killed, and replaced as one that has died. Workers are forked, from a process
that has no threads and no event loop.

SIGTERM and SIGINT are forwarded, and a second one ends the workers at once; SIGHUP and SIGUSR1 are
forwarded, and later workers start with what is read then; SIGUSR2 replaces the workers one after
the other: the successor accepts at once while the predecessor drains.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from streaming_api.background import FIRST_PAUSE, LONGEST_PAUSE, Backoff
from streaming_api.config import StreamingConfig
from streaming_api.serving import systemd
from streaming_api.serving.heartbeats import Heartbeats
from streaming_api.serving.listening import listening_socket
from streaming_api.serving.private_store import PrivateStore, end_with_parent
from streaming_api.serving.workers import MEETING_VARIABLE, Plan

logger = logging.getLogger(__name__)

Share = Callable[[StreamingConfig], StreamingConfig]
"""Returns one worker's share of the whole service's configuration."""

Serve = Callable[[Share, socket.socket, Callable[[], None]], int]
"""Serves on a socket until it is asked to stop, and returns the exit status.

The last argument is called once it serves."""

_SIGNALS: Final = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD,
)  # fmt: skip
_BACKLOG: Final = 4096
_LOOK_SECONDS: Final = 1.0


@attrs.define(eq=False)
class _Worker:
    """One worker's place: its socket, and the process that serves on it now.

    Attributes:
        name: what it is called in figures and logs.
        pid: 0 while none runs.
        due: monotonic seconds at which it is started again.
    """

    name: str
    socket: socket.socket
    backoff: Backoff = attrs.field(factory=lambda: Backoff(FIRST_PAUSE / 5, LONGEST_PAUSE))
    pid: int = 0
    since: float = 0.0
    due: float = 0.0


class Supervisor:
    """Runs the workers of a plan.

    Args:
        config: that of the whole service; each worker gets its share of memory and cores.
        plan: the number of workers, and the private store's program.
        serve: what a worker does.
        reread: reads the configuration again, for workers that are started later.
        listening: a socket that is bound already, for all of them; None to bind one for each.
    """

    def __init__(
        self,
        config: StreamingConfig,
        plan: Plan,
        serve: Serve,
        reread: Callable[[], object],
        listening: socket.socket | None = None,
    ) -> None:
        self._listening = listening
        self._config = config
        self._plan = plan
        self._serve = serve
        self._reread = reread
        self._store = PrivateStore(plan.server, config.memory_gb) if plan.server else None
        self._store_backoff = Backoff(FIRST_PAUSE / 5, LONGEST_PAUSE)
        self._store_due = 0.0
        self._meeting = tempfile.TemporaryDirectory(prefix="streaming-api-")  # of the workers
        self._heartbeats = Heartbeats(Path(self._meeting.name))
        self._workers: list[_Worker] = []
        self._leaving: set[int] = set()  # processes that drain
        self._replacing: list[_Worker] = []
        self._stopping = False
        self._notified = 0.0

    def run(self, announce: Callable[[int], None]) -> int:
        """Start everything, wait until asked to stop, and return the exit status.

        Args:
            announce: called with the port once every worker serves.

        Raises:
            OSError: the address cannot be bound, or the store does not start.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._bind()
            if self._store is not None:
                self._store.start()
            for worker in self._workers:
                if not self._start(worker):
                    return 1
            announce(self._workers[0].socket.getsockname()[1])
            while any(worker.pid for worker in self._workers) or not self._stopping:
                self._wait()
            return 0
        finally:
            for pid in self._pids():
                os.kill(pid, signal.SIGKILL)
            if self._store is not None:
                self._store.close()
            self._heartbeats.close()
            self._meeting.cleanup()

    def _bind(self) -> None:
        config = self._config
        for number in range(1, self._plan.workers + 1):
            if self._listening is not None:
                listening = self._listening.dup()
            else:
                listening = listening_socket(config)
                listening.listen(_BACKLOG)
            config = attrs.evolve(config, port=listening.getsockname()[1])
            self._workers.append(_Worker(f"worker-{number}", listening))
        self._config = config

    def _pids(self) -> list[int]:
        return [*(worker.pid for worker in self._workers if worker.pid), *self._leaving]

    # Starting

    def _start(self, worker: _Worker) -> bool:
        """Start a worker's process and wait until it serves, or has ended."""
        ready, started = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            os._exit(self._be(worker, started))
        os.close(started)
        worker.pid, worker.since, worker.due = pid, time.monotonic(), 0.0
        serves = os.read(ready, 1) != b""
        os.close(ready)
        if serves:
            logger.info("%s serves (process %d)", worker.name, pid)
        else:
            logger.error("%s (process %d) ended before it served", worker.name, pid)
        return serves

    def _be(self, worker: _Worker, started: int) -> int:
        """Run as the worker, in the new process; return the exit status."""
        end_with_parent(signal.SIGTERM)
        for other in self._workers:
            if other is not worker:
                other.socket.close()
        os.environ[MEETING_VARIABLE] = self._meeting.name
        self._heartbeats.expect_mine()  # only the supervisor speaks to the service manager
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

        def ready() -> None:
            os.write(started, b"1")
            os.close(started)

        try:
            return self._serve(lambda config: self._share(worker, config), worker.socket, ready)
        except BaseException:
            logger.exception("%s failed", worker.name)
            return 1

    def _share(self, worker: _Worker, config: StreamingConfig) -> StreamingConfig:
        count = self._plan.workers
        name = f"{config.cluster_name}-{worker.name}" if config.cluster_name else worker.name
        return attrs.evolve(
            config,
            memory_gb=config.memory_gb / count,
            drain_timeout=config.drain_seconds,  # a private store is no cluster
            cpu_cores=max(1, config.cpu_cores // count),
            cluster_url=self._store.url if self._store is not None else config.cluster_url,
            cluster_name=name,
        )

    # Staying

    def _wait(self) -> None:
        """Wait for a signal, or until something is due, and do what it asks for."""
        self._heartbeat()
        got = signal.sigtimedwait(_SIGNALS, _LOOK_SECONDS if not self._due() else 0.05)
        number = got.si_signo if got is not None else signal.SIGCHLD
        if number in {signal.SIGTERM, signal.SIGINT}:
            self._stop(signal.SIGKILL if self._stopping else signal.SIGTERM)
        elif number in {signal.SIGHUP, signal.SIGUSR1}:
            if number == signal.SIGHUP:
                self._reread()
            for pid in self._pids():
                os.kill(pid, number)
        elif number == signal.SIGUSR2 and not self._replacing:
            logger.info("replacing the workers one after the other")
            self._replacing = list(self._workers)
        self._end_hung()
        self._reap()
        if not self._stopping:
            self._restart()

    def _heartbeat(self) -> None:
        interval = systemd.watchdog_interval()
        now = time.monotonic()
        if interval is not None and now - self._notified >= min(interval, _LOOK_SECONDS):
            self._notified = now
            systemd.notify("WATCHDOG=1")

    def _end_hung(self) -> None:
        """End workers that hang: `_reap` finds them, and others are started."""
        for pid in self._heartbeats.silent(self._pids()):
            logger.error("process %d hangs; it is killed", pid)
            os.kill(pid, signal.SIGKILL)

    def _due(self) -> bool:
        return bool(
            self._replacing or self._store_due or any(worker.due for worker in self._workers)
        )

    def _stop(self, number: signal.Signals) -> None:
        """Ask the workers to stop; once their sockets are closed, nobody listens."""
        self._stopping = True
        logger.info("stopping the workers")
        systemd.notify(*systemd.stopping(self._config.drain_delay + self._config.drain_seconds))
        for worker in self._workers:
            worker.socket.close()
        for pid in self._pids():
            os.kill(pid, number)

    def _reap(self) -> None:
        """Take note of processes that have ended."""
        for pid in self._pids():
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
            if pid in self._leaving:
                self._leaving.discard(pid)
                continue
            worker = next(worker for worker in self._workers if worker.pid == pid)
            worker.pid = 0
            if not self._stopping:
                now = time.monotonic()
                if now - worker.since > LONGEST_PAUSE:
                    worker.backoff.reset()
                worker.due = now + worker.backoff.pause()
                logger.error("%s (process %d) has ended; another is started", worker.name, pid)
        if self._store is not None and not self._store.poll() and not self._store_due:
            self._store_due = time.monotonic() + self._store_backoff.pause()
            logger.error("the private store has ended; it is started again")

    def _restart(self) -> None:
        """Restart the workers, and the store, that are due."""
        now = time.monotonic()
        if self._store is not None and self._store_due and now >= self._store_due:
            try:
                self._store.start()
                self._store_due = 0.0
            except OSError as error:
                logger.error("%s", error)  # noqa: TRY400 (the sentence says it all)
                self._store_due = now + self._store_backoff.pause()
        for worker in self._workers:
            if worker.due and now >= worker.due and not self._start(worker):
                worker.due = 0.0  # `_reap` sets it again
        if self._replacing and not self._leaving:
            worker = self._replacing.pop(0)
            if worker.pid:
                before = worker.pid
                if self._start(worker):
                    self._leaving.add(before)
                    os.kill(before, signal.SIGTERM)
