"""Mixtures of raw HTTP/1.1 requests, by many seeds: each its own reply, directly and in nginx."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import uvloop

from streaming_api.config import StreamingConfig
from streaming_api.service import StreamingService
from tests.conformance.result import Result, table
from tests.fakes.upstream import FakeUpstream
from tests.mixtures import Mixture, speak
from tests.nginx import NGINX, nginx

SUITE: Final = "Mixtures"
SEEDS: Final = 4_000
SHORT_SEEDS: Final = 200
CLIENTS: Final = 4
"""Conversations at a time; through nginx they share its connections to the server."""
SECONDS: Final = 900.0
"""Seconds that either way may take; on two idle cores it takes a tenth."""
_MOST_FAILURES: Final = 5


@attrs.define
class _Run:
    """What became of the seeds that went one way."""

    way: str
    spoken: int = 0
    seconds: float = 0.0
    failures: list[str] = attrs.field(factory=list)


def run(*, short: bool) -> Result:
    """Every seed directly, then as many others through nginx."""
    if NGINX is None:
        return Result(suite=SUITE, missing="nginx is missing: apt-get install nginx")
    runs = uvloop.run(_both_ways(SHORT_SEEDS if short else SEEDS))
    rows = [(run.way, f"{run.spoken:,}", f"{run.seconds:.0f} s") for run in runs]
    return Result(
        suite=SUITE,
        lines=[table(("way", "conversations, a seed each", "time"), rows)],
        failures=[f"{run.way}: {failure}" for run in runs for failure in run.failures],
        seconds=sum(run.seconds for run in runs),
    )


async def _both_ways(seeds: int) -> list[_Run]:
    async with _server() as url:
        direct = await _speak(_Run("directly"), url, range(seeds), proxied=False)
        port = int(url.rpartition(":")[2])
        with tempfile.TemporaryDirectory() as folder:
            async with nginx(Path(folder), port) as proxy:
                others = range(seeds, 2 * seeds)
                return [direct, await _speak(_Run("nginx"), proxy, others, proxied=True)]


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    """The application without limits on how often, and a healthy upstream."""
    async with FakeUpstream() as upstream:
        upstream.keeps_records = False
        config = StreamingConfig(
            host="127.0.0.1",
            port=0,
            embedded_model="none",
            api_gateway_endpoint=upstream.url,
            connections_per_minute=0,
            commands_per_second=0,
            chat_retention_seconds=1,
            drain_delay=0,
        )
        async with StreamingService(config) as service:
            yield service.url


async def _speak(run: _Run, url: str, seeds: range, *, proxied: bool) -> _Run:
    """One conversation for each seed, a few at a time, until some have failed or time is up."""
    begun = time.monotonic()
    left = iter(seeds)
    try:
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(_client(run, url, left, proxied=proxied))
    except TimeoutError:
        run.failures.append(f"only {run.spoken:,} of {len(seeds):,} in {SECONDS:.0f} seconds")
    run.seconds = time.monotonic() - begun
    return run


async def _client(run: _Run, url: str, left: Iterator[int], *, proxied: bool) -> None:
    for seed in left:
        try:
            await speak(url, Mixture(seed, proxied=proxied))
        except AssertionError as failure:
            run.failures.append(str(failure))
        run.spoken += 1
        if len(run.failures) >= _MOST_FAILURES:
            return
