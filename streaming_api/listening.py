"""The socket that a server listens on, bound before anybody serves on it."""

from __future__ import annotations

import socket

from streaming_api.config import StreamingConfig


def listening_socket(config: StreamingConfig) -> socket.socket:
    """Bind the address of a configuration; with several workers others may bind it as well.

    Raises:
        OSError: it cannot be bound.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.workers > 1:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Accepted connections inherit all three: a peer that is gone, or reads nothing, is found
        # out even where no sweep looks (a plain reply that nobody takes; RFC 5482, tcp(7)).
        stall = max(1, round(config.stall_timeout))
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, stall)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setblocking(False)  # noqa: FBT003 (the standard library's)
        listening.bind((config.host, config.port))
    except BaseException:
        listening.close()
        raise
    return listening
