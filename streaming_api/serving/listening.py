"""The socket that a server listens on, bound before anybody serves on it."""

from __future__ import annotations

import socket

from streaming_api.config import StreamingConfig
from streaming_api.serving import systemd


def listening_socket(config: StreamingConfig) -> socket.socket:
    """Bind the configured address; with several workers, others may bind it as well.

    Raises:
        OSError: it cannot be bound.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.workers > 1:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _watch_for_silence(listening, config)
        listening.bind((config.host, config.port))
    except BaseException:
        listening.close()
        raise
    return listening


def activated_socket(config: StreamingConfig) -> socket.socket | None:
    """Return the socket that a socket unit has bound, whatever address is configured.

    Raises:
        OSError: what was handed over cannot be served on.
    """
    listening = systemd.activated_socket()
    if listening is not None:
        _watch_for_silence(listening, config)
    return listening


def _watch_for_silence(listening: socket.socket, config: StreamingConfig) -> None:
    """Detect a peer that is gone, or reads nothing, even where no sweep looks.

    Accepted connections inherit all three (a plain reply that nobody takes; RFC 5482, tcp(7)).
    """
    stall = max(1, round(config.stall_timeout))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall * 1000)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, stall)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setblocking(False)  # noqa: FBT003 (the standard library's)
