"""File descriptors: every connection needs one; the system's limit, and whether it is enough."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

from streaming_api.config import StreamingConfig

_BESIDES: Final = 128
"""Descriptors for sources, files, the store, and clients that come and go."""


def raise_limit() -> None:
    """Raise the soft limit to the hard one, which harms nothing here (no select)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems have a lower limit than the hard one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def shortage(config: StreamingConfig, workers: int = 1) -> str | None:
    """Return a sentence if the configured limits need more descriptors than there are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.max_connections + config.sse_max_connections + config.pool_size + _BESIDES
    if hard == resource.RLIM_INFINITY or needed <= hard:
        return None
    each = " in each worker" if workers > 1 else ""
    return (
        f"websocket.max_connections, sse.max_connections and connection_management.pool_size need "
        f"{needed} file descriptors{each}, and the system gives {hard}: connections above that are "
        f"refused. Raise LimitNOFILE= in the unit (ulimit -n), or lower the limits."
    )
