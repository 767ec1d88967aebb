"""Servers under test: each a process of its own that says where it listens, and is ended after."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.conformance.environments import ROOT

_OURS: Final = ("STREAMING_", "WEBSOCKET_", "SSE_", "CONNECTION_")
_STOP_SECONDS: Final = 20


@contextmanager
def serving(module: str, *arguments: str) -> Iterator[str]:
    """``with serving("tests.conformance.echo") as url``: runs while the block does.

    Raises:
        RuntimeError: it did not start.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if " on http" not in line:
            raise RuntimeError(f"{module} did not start: {line!r}")
        yield line.partition(" on ")[2].strip()
        if process.poll() is not None:
            raise RuntimeError(f"{module} ended by itself with status {process.returncode}")
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
