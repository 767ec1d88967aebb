"""A request's life on a connection: each request gets its own reply, in order, or it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streaming_api.service import StreamingService
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream
from tests.mixtures import Mixture, speak
from tests.nginx import NGINX, nginx

SEEDS = range(20)
SEQUENCES = 15


@pytest.fixture
async def patient(start_server: StartServer, upstream: FakeUpstream) -> StreamingService:
    """The application without limits on how often."""
    return await start_server(
        api_gateway_endpoint=upstream.url,
        connections_per_minute=0,
        commands_per_second=0,
        chat_retention_seconds=1,
    )


@pytest.mark.parametrize("seed", SEEDS)
async def test_any_mixture_of_requests(patient: StreamingService, seed: int) -> None:
    mixture = Mixture(seed)
    for _ in range(SEQUENCES):
        await speak(patient.url, mixture)


@pytest.mark.skipif(NGINX is None, reason="nginx is missing: apt-get install nginx")
async def test_any_mixture_through_nginx(patient: StreamingService, tmp_path: Path) -> None:
    async with nginx(tmp_path, int(patient.url.rpartition(":")[2])) as url:

        async def client(seed: int) -> None:
            mixture = Mixture(seed, proxied=True)
            for _ in range(SEQUENCES):
                await speak(url, mixture)

        async with asyncio.TaskGroup() as clients:  # who share its connections to the server
            for seed in range(1000, 1008):
                clients.create_task(client(seed))
