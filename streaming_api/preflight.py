"""Preflight: what ``serve`` would stumble over on this machine, for ``check``. Starts nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from streaming_api.config import StreamingConfig
from streaming_api.config.certificate import load_key_pair
from streaming_api.serving.descriptors import shortage
from streaming_api.serving.listening import listening_socket
from streaming_api.serving.workers import plan

WARN_BEFORE: Final = timedelta(days=14)
"""How long before its expiry a certificate should be renewed."""


def warnings(config: StreamingConfig, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each thing that is amiss; none where all is well."""
    planned = plan(config)
    if planned.missing is not None:
        yield planned.missing
    if (short := shortage(config, planned.workers)) is not None:
        yield short
    yield from _port(config)
    yield from _certificate(config)
    if directory := environ.get("LOGS_DIRECTORY"):
        folder = Path(directory.split(":")[0])
        if not os.access(folder, os.W_OK):
            why = "cannot be written" if folder.exists() else "is not there"
            yield f"The log directory {folder} {why}: the log goes to standard error only."
    if not config.api_keys and config.host not in {"127.0.0.1", "::1", "localhost"}:
        yield f"No API keys are configured, and {config.host} is reached from other machines."


def _port(config: StreamingConfig) -> Iterator[str]:
    where = f"{config.host}:{config.port}"
    try:
        listening_socket(config).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield f"{where} is taken now (by this service, if it runs)."
        elif error.errno == errno.EACCES:
            yield (
                f"{where} is a port below 1024, which this user may not open: choose another, or "
                "add AmbientCapabilities=CAP_NET_BIND_SERVICE to the unit."
            )
        else:
            yield f"{where} cannot be listened on: {error.strerror or error}."


def _certificate(config: StreamingConfig) -> Iterator[str]:
    if config.tls_certificate is None or config.tls_key is None:
        return
    expires = load_key_pair(config.tls_certificate, config.tls_key).not_after
    if expires - datetime.now(UTC) < WARN_BEFORE:
        yield f"The TLS certificate expires on {expires:%Y-%m-%d}; renew it."
