"""systemd, as far as a service speaks to it: readiness, the watchdog, sockets that it has opened.

sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3), without their library. Where another
manager runs the process, or none, all of it does nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

_FIRST_DESCRIPTOR: Final = 3
"""The first of the sockets that were handed over (SD_LISTEN_FDS_START)."""

_LAST_SECONDS: Final = 10
"""Seconds that notifying all clients takes at most, after the answers have ended."""


def notify(*states: str) -> None:
    """Notify the service manager, e.g. ``READY=1``. A manager that does not listen is no fault."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(0)  # whoever listens may hang; we do not wait
        manager.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
        manager.send("\n".join(states).encode())


def stopping(seconds: float) -> tuple[str, str]:
    """Return the states of a service that stops within ``seconds``; the manager waits for it."""
    microseconds = round((seconds + _LAST_SECONDS) * 1_000_000)
    return "STOPPING=1", f"EXTEND_TIMEOUT_USEC={microseconds}"


def watchdog_interval() -> float | None:
    """Return the seconds between two heartbeats; None where the manager expects none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2_000_000 if text.isdigit() and int(text) else None


def activated_socket() -> socket.socket | None:
    """Return the listening socket of a socket unit; None where this process opens its own.

    Raises:
        OSError: the descriptor that was handed over is no TCP socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    if os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    listening = socket.socket(fileno=_FIRST_DESCRIPTOR)
    inet = listening.family in {socket.AF_INET, socket.AF_INET6}
    if not inet or listening.type != socket.SOCK_STREAM:
        listening.detach()
        raise OSError("the socket unit hands over what is no TCP socket (ListenStream=PORT)")
    listening.set_inheritable(False)
    return listening
