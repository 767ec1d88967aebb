"""Work as a budget, under attack: ``/health`` beside hostile sockets, and how soon SIGTERM ends it.

The server, its gateway and the attackers are processes of their own. ``/health`` is asked all the
while from here, so what is measured is the server and the machine, and the latter is measured, too:
by the same requests before anybody attacks.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.clients import http
from tests.soak.figures import Report, percentile
from tests.soak.hostile import KINDS, SOCKETS
from tests.soak.memory import TOKENS
from tests.soak.processes import ROOT, Gateway, Server

PROMISED: Final = 0.1
"""Seconds within which ``/health`` answers, at the median."""
GRACE: Final = 10.0
"""Seconds within which a process under attack is gone after SIGTERM."""
SECONDS: Final = 10.0
"""Of each attack."""
_PAUSE: Final = 0.05
SETTINGS: Final = {"STREAMING_COMMANDS_PER_SECOND": "1000", "STREAMING_DRAIN_TIMEOUT": "3"}
"""The default, and less time for answers that run."""


async def health(url: str, seconds: float) -> list[float]:
    """How long ``/health`` took, each time that it was asked."""
    took: list[float] = []
    async with http(url, timeout=60) as client:
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(took) < 10:
            begun = time.monotonic()
            reply = await client.get("/health")
            assert reply.status_code == 200, reply.text
            took.append(time.monotonic() - begun)
            await asyncio.sleep(_PAUSE)
    return took


@asynccontextmanager
async def attacked(url: str, kind: str) -> AsyncIterator[None]:
    """Hostile sockets of a kind, in a process of their own."""
    command = (sys.executable, "-m", "tests.soak.hostile", url, kind)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def work(folder: Path, report: Report, seconds: float = SECONDS) -> None:
    """Each attack in turn, on a server of its own, which is stopped in the middle of it."""
    async with Gateway(folder, rate=0, tokens=TOKENS) as gateway:
        for kind in KINDS:
            name = kind.replace(" ", "-")
            server = Server(folder, gateway.url, SETTINGS, name)
            await server.start()
            idle = statistics.median(await health(server.url, 1.0))
            async with attacked(server.url, kind):
                await asyncio.sleep(1)
                took = await health(server.url, seconds)
                begun = time.monotonic()
                status = await server.stop()
                ended = time.monotonic() - begun
            median = statistics.median(took)
            report.say(
                f"{SOCKETS} sockets, {kind}: /health {1000 * idle:.0f} ms before; beside them p50 "
                f"{1000 * median:.0f} ms, p90 {1000 * percentile(took, 0.9):.0f} ms, the slowest "
                f"{1000 * max(took):.0f} ms of {len(took)}; {ended:.1f} s from SIGTERM to the end"
            )
            report.promise(f"{kind}: the median is at most 100 ms", median <= PROMISED)
            report.promise(f"{kind}: gone within {GRACE:g} s", status == 0 and ended <= GRACE)
