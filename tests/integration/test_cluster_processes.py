"""Workers of the real program that are killed together, hang, or hang while they only look on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.clients import UNIT, both_see, eventually, websocket
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.two_servers import numbers, rest
from tests.workers import Service, on_both, serving

LEASE = 2
"""Seconds; the claims of the default of 6 are tested in ``test_cluster_faults``."""
TOLD_SECONDS = 9.0


@pytest.fixture
async def service(upstream: FakeUpstream) -> AsyncIterator[Service]:
    """Two workers with a private store."""
    async with serving(
        STREAMING_WORKERS="2",
        STREAMING_CLUSTER_LEASE=str(LEASE),
        API_GATEWAY_ENDPOINT=upstream.url,
        STREAMING_LOG_LEVEL="WARNING",
        WATCHDOG_USEC="60000000",
    ) as service:
        yield service


@pytest.fixture
def gate(upstream: FakeUpstream) -> Gate:
    """Lets the tokens of the model ``gated`` through."""
    return upstream.gated(Script(tokens=40), model="gated")


async def all_killed(service: Service, processes: list[int]) -> None:
    """Kill processes at once, and wait until others have taken their places."""
    for pid in processes:
        os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        now = {*service.workers, service.store}
        return len(now - {0}) == 3 and not now & {*processes}

    await eventually(replaced, 4 * UNIT)


async def test_an_answer_whose_workers_all_die_ends_for_whoever_comes_back(
    service: Service, gate: Gate
) -> None:
    """Again and again: what was seen is kept, what follows is the truth, nothing is doubled."""
    async with AsyncExitStack() as stack:
        for turn in range(2):
            name = f"both-{turn}"
            first, second, *_ = await on_both(service, stack)
            gate.release(4)
            await both_see(first, second, name, 5)
            await all_killed(service, service.workers)
            began = time.monotonic()
            back = await stack.enter_async_context(websocket(service.url))
            await back.resume(name, after=5)
            after = await rest(back)
            assert time.monotonic() - began < TOLD_SECONDS
            assert numbers(after) == [6]
            assert after[-1]["data"]["error"]["code"] == "server_lost"


async def test_when_store_and_workers_die_together_an_answer_is_reported_as_gone(
    service: Service, gate: Gate
) -> None:
    async with AsyncExitStack() as stack:
        first, *_ = await on_both(service, stack)
        await first.start("all-1", model="gated")
        gate.release(5)
        await first.until(lambda message: message.get("sequence_id") == 5)
        await all_killed(service, [*service.workers, service.store])
        back = await stack.enter_async_context(websocket(service.url))
        await back.resume("all-1", after=5)
        refusal = await back.receive()
        assert refusal["data"]["error"]["code"] == "stream_not_found"


async def test_a_worker_that_hangs_while_it_looks_on_shows_the_rest_when_it_wakes(
    service: Service, gate: Gate
) -> None:
    await asyncio.sleep(LEASE)
    async with AsyncExitStack() as stack:
        first, second, _, reader = await on_both(service, stack)
        gate.release(5)
        await both_see(first, second, "look-1", 5)
        os.kill(reader, signal.SIGSTOP)
        try:
            gate.release(20)
            seen = await first.until(lambda message: message.get("sequence_id") == 25)
            await asyncio.sleep(LEASE + 2.5)  # longer than it may be silent
        finally:
            os.kill(reader, signal.SIGCONT)
        gate.open()
        seen += await rest(first)
        assert await rest(second) == seen
        assert seen[-1]["data"]["finish_reason"] == "stop"


async def test_a_worker_that_hangs_is_replaced() -> None:
    async with serving(STREAMING_WORKERS="2", WATCHDOG_USEC="1000000") as service:
        workers = service.workers
        os.kill(workers[0], signal.SIGSTOP)
        await service.logged(f"process {workers[0]} hangs")
        await eventually(
            lambda: len(service.workers) == 2 and workers[0] not in service.workers, 4 * UNIT
        )
