"""Fixtures: the real application on a real socket, and a fake upstream with the real protocol."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest
import uvloop
from hypothesis import settings

from streaming_api.config import StreamingConfig
from streaming_api.service import StreamingService
from tests.clients import http
from tests.fakes.upstream import FakeUpstream
from tests.stores import RealStore, real_store

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

StartServer = Callable[..., Awaitable[StreamingService]]
Pair = Callable[..., Awaitable[tuple[StreamingService, StreamingService]]]


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 (the hook's signature)
    item: pytest.Item,  # noqa: ARG001
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that production runs."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _no_foreign_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the shell that runs the tests must not reach them."""
    for name in list(os.environ):
        if name.startswith(("STREAMING_", "WEBSOCKET_", "SSE_", "CONNECTION_")):
            monkeypatch.delenv(name)


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """``await start_server(resume_grace=1)``: the application, by default with no upstream."""
    async with AsyncExitStack() as stack:

        async def start(**settings: object) -> StreamingService:
            defaults: dict[str, object] = {
                "host": "127.0.0.1",
                "port": 0,
                "embedded_model": "none",
                "commands_per_second": 10_000,
                "drain_delay": 0,
                "drain_timeout": 3,
            }
            config = StreamingConfig(**(defaults | settings))  # type: ignore[arg-type]
            return await stack.enter_async_context(StreamingService(config))

        yield start


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """An OpenAI-compatible server that can misbehave."""
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def server(start_server: StartServer, upstream: FakeUpstream) -> StreamingService:
    """The application with the fake upstream behind it."""
    return await start_server(api_gateway_endpoint=upstream.url)


@pytest.fixture
async def caller(server: StreamingService) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of that application."""
    async with http(server.url) as client:
        yield client


@pytest.fixture
async def store() -> AsyncIterator[RealStore]:
    """A store of several processes."""
    async with real_store() as store:
        yield store


@pytest.fixture
def pair(start_server: StartServer, upstream: FakeUpstream, store: RealStore) -> Pair:
    """Starts two servers of one service: ``await pair(resume_grace=1)``."""

    async def both(**settings: object) -> tuple[StreamingService, StreamingService]:
        given = {"api_gateway_endpoint": upstream.url, "cluster_url": store.url} | settings
        return await start_server(**given), await start_server(**given)

    return both
