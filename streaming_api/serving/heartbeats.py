"""Heartbeats of workers: to them, the supervisor is what systemd is to a service.

A worker sends ``WATCHDOG=1`` from its event loop to the socket that ``NOTIFY_SOCKET`` names, in
half of ``WATCHDOG_USEC``. The kernel says which process a datagram comes from.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from streaming_api.serving import systemd

_DEFAULT_SECONDS: Final = 30.0
_LEAST_SECONDS: Final = 3.0
"""A busy machine is not taken for a worker that hangs."""
_CREDENTIALS: Final = struct.Struct("iII")
"""``struct ucred`` (unix(7), SCM_CREDENTIALS): process, user, group."""


class Heartbeats:
    """Who has sent a heartbeat, and when.

    Args:
        directory: where the socket is bound.

    Attributes:
        seconds: silence after which a worker is taken to hang: that which a service manager
            allows this process, or 30.
    """

    def __init__(self, directory: Path) -> None:
        interval = systemd.watchdog_interval()
        self.seconds = _DEFAULT_SECONDS if interval is None else max(2 * interval, _LEAST_SECONDS)
        self._path = directory / "heartbeats"
        self._heard: dict[int, float] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.settimeout(0)
        self._socket.bind(str(self._path))

    def expect_mine(self) -> None:
        """Have this process, a worker, send its heartbeats here."""
        self._socket.close()
        os.environ["NOTIFY_SOCKET"] = str(self._path)
        os.environ["WATCHDOG_USEC"] = str(round(self.seconds * 1_000_000))
        os.environ.pop("WATCHDOG_PID", None)

    def silent(self, pids: Iterable[int]) -> list[int]:
        """Return the workers that hang; one's time begins when it is first among them."""
        now = time.monotonic()
        for pid in self._received():
            self._heard[pid] = now
        self._heard = {pid: self._heard.get(pid, now) for pid in pids}
        return [pid for pid, heard in self._heard.items() if now - heard > self.seconds]

    def _received(self) -> Iterator[int]:
        while True:
            try:
                _, ancillary, _, _ = self._socket.recvmsg(256, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                return
            for _, kind, data in ancillary:
                if kind == socket.SCM_CREDENTIALS:
                    yield _CREDENTIALS.unpack(data)[0]

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
