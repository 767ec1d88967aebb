"""The private store: a Redis or Valkey server of this service alone, on a unix socket."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_SHARE: Final = 0.1
"""The share of ``performance.memory_limit_gb`` that the store may fill."""
_START_SECONDS: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the process that started it has ended."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)


class PrivateStore:
    """A server that keeps nothing on disk: what it loses, the workers write again.

    Args:
        program: ``valkey-server`` or ``redis-server``.
        memory_gb: the memory of the whole service.
    """

    def __init__(self, program: str, memory_gb: float) -> None:
        self._program = program
        self._memory = max(32 * 2**20, round(memory_gb * 2**30 * _SHARE))
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        if not runtime:
            self._temporary = tempfile.TemporaryDirectory(prefix="streaming-api-")
        self.directory = Path(self._temporary.name if self._temporary else runtime)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL at which the workers find it."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """Its process id; 0 if it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def _socket(self) -> Path:
        return self.directory / "store.sock"

    def start(self) -> None:
        """Start the server, and wait until it listens.

        Raises:
            OSError: the server cannot be started, or does not come up.
        """
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(  # noqa: S603 (found on the PATH, or in our environment)
            [
                self._program, "--port", "0", "--unixsocket", str(self._socket),
                "--unixsocketperm", "700", "--save", "", "--appendonly", "no",
                "--maxmemory", str(self._memory), "--maxmemory-policy", "noeviction",
                "--dir", str(self.directory), "--daemonize", "no", "--loglevel", "warning",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl+C is for us, who stop it last
            preexec_fn=_before_exec,  # noqa: PLW1509 (no thread runs here)
        )  # fmt: skip
        until = time.monotonic() + _START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                message = f"{self._program} does not start"
                raise OSError(message)
            time.sleep(0.01)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(self._socket))
            return True
        return False

    def poll(self) -> bool:
        """Return whether it still runs; reap it if not."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop the server, and remove what it left behind."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # nothing is lost: it keeps nothing on disk
            process.wait()

    def close(self) -> None:
        """Stop the server for good."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()


def _before_exec() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    end_with_parent()
