"""Every face over one real store: begun on one server, continued and ended on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests import faces
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream
from tests.stores import real_store

AT_ONCE = 4


@pytest.fixture
async def servers(
    start_server: StartServer, upstream: FakeUpstream
) -> AsyncIterator[tuple[str, str]]:
    """Two servers of one service, where every start has to be claimed."""
    upstream.scripts.update(faces.SCRIPTS)
    async with real_store() as store:
        settings: dict[str, object] = {
            "api_gateway_endpoint": upstream.url,
            "cluster_url": store.url,
            "answers_per_key": 1_000,
        }
        yield (await start_server(**settings)).url, (await start_server(**settings)).url


@pytest.mark.parametrize("face", faces.CONTINUED)
async def test_an_answer_is_continued_on_the_other_process(
    face: str, servers: tuple[str, str]
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            one, other = servers if number % 2 else reversed(servers)
            group.create_task(faces.CONTINUED[face](one, other, f"{face}-{number}"))


@pytest.mark.parametrize("face", faces.ENDED)
async def test_an_answer_is_ended_on_the_other_process(
    face: str, servers: tuple[str, str], upstream: FakeUpstream
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            one, other = servers if number % 2 else reversed(servers)
            group.create_task(faces.ENDED[face](one, other, f"{face}-{number}"))
    await upstream.until(lambda: not upstream.running)
    assert upstream.started == AT_ONCE
