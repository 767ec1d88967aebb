"""Round trips to the store are what costs, so they are counted: as the store reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import pytest

from streaming_api.answers.answer import Answer
from streaming_api.cluster.connection import Command, StoreError
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.meta import Meta
from streaming_api.cluster.store import Store
from streaming_api.cluster.writer import SLOTS, Writer
from streaming_api.wire.commands import ChatRequest
from tests.clients import UNIT, events, eventually, question
from tests.conftest import StartServer
from tests.fakes.engine import AMPLE, channel, chat_stream
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.stores import RealStore, documented_user, real_store

Count = Callable[[], Awaitable[int]]


@pytest.fixture
async def real() -> AsyncIterator[RealStore]:
    async with real_store(*documented_user()) as real:
        yield real


@pytest.fixture
async def store(real: RealStore) -> AsyncIterator[Store]:
    store = Store(real.url, "streaming")
    await store.run(("PING",))  # it is connected
    yield store
    await store.close()


@pytest.fixture
async def reads(real: RealStore) -> Count:
    """How often the store has read from its connections, but for these questions."""
    asked = 0

    async def count() -> int:
        nonlocal asked
        asked += 1
        return int((await real.client.info("stats"))["total_reads_processed"]) - asked

    return count


def said(text: str) -> Command:
    """A question with this reply."""
    return ("EVAL", "return ARGV[1]", 0, text)


async def trips_of(answers: int, store: Store, reads: Count) -> int:
    """A token of each answer, all in one window."""
    writer = Writer(store, Figures(), 0.1, 60, lambda _: None)
    channels = [channel(epoch="r") for _ in range(answers)]
    streams = [chat_stream(each, AMPLE) for each in channels]

    def say() -> None:
        for each, stream in zip(channels, streams, strict=True):
            each.append(stream, [b'{"n":1}'])

    for number, (each, stream) in enumerate(zip(channels, streams, strict=True)):
        answer = cast("Answer", SimpleNamespace(channel=each, stream=stream, outcome=None))
        request = ChatRequest(f"{answers}-{number}", None, b"{}")
        writer.add(("", request.request_id), answer, Meta("here", "", request))
    say()
    writing = asyncio.create_task(writer.run())
    await eventually(lambda: not writer.lag, 4 * UNIT)  # the first tokens do not wait
    before, counted = await reads(), store.trips
    say()
    await eventually(lambda: not writer.lag, 4 * UNIT)
    writing.cancel()
    assert store.trips - counted == await reads() - before
    return store.trips - counted


async def test_a_hundred_answers_cost_the_round_trips_of_ten(store: Store, reads: Count) -> None:
    assert await trips_of(10, store, reads) == SLOTS
    assert await trips_of(100, store, reads) == SLOTS


async def test_what_can_wait_goes_along(store: Store, reads: Count) -> None:
    before = await reads()
    waiting = [asyncio.ensure_future(store.along(said(text))) for text in ("one", "two")]
    await asyncio.sleep(0)
    assert await store.run(said("three")) == [b"three"]
    assert await asyncio.gather(*waiting) == [[b"one"], [b"two"]]
    assert await reads() - before == 1


async def test_what_can_wait_goes_by_itself_if_nothing_else_goes(store: Store) -> None:
    assert await store.along(said("one")) == [b"one"]


async def test_what_goes_along_learns_of_a_failure(store: Store, real: RealStore) -> None:
    await real.kill()
    waiting = asyncio.ensure_future(store.along(said("one")))
    await asyncio.sleep(0)
    for asked in (store.run(("PING",)), waiting):
        with pytest.raises(StoreError):
            await asked


async def test_what_goes_along_outlives_who_takes_it_along(store: Store) -> None:
    """Nobody waits for ever for a reply that somebody else was to bring."""
    waiting = asyncio.ensure_future(store.along(said("one")))
    await asyncio.sleep(0)
    taking = asyncio.ensure_future(store.run(said("two")))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(StoreError):
        await asyncio.wait_for(waiting, UNIT)


async def test_a_connection_that_is_reset_while_idle_fails_nobody() -> None:
    async with (
        real_store(port=True) as real,
        FaultProxy(f"http://127.0.0.1:{real.port}") as proxy,
    ):
        store = Store(proxy.url.replace("http", "redis"), "streaming")
        await store.run(said("one"))
        (idle,) = store._main._client.connection_pool._available_connections
        proxy.reset_all()
        await eventually(lambda: idle._writer is None or idle._writer.transport.is_closing())
        assert await store.run(said("two")) == [b"two"]
        assert proxy.accepted == 2
        await store.close()


async def test_an_owner_is_told_of_all_that_is_shown_elsewhere_at_once(
    start_server: StartServer, upstream: FakeUpstream, real: RealStore
) -> None:
    """Once a second, one message for all of its answers."""
    upstream.scripts["gated"] = Script(tokens=2, gate=(gate := Gate()))
    given = {"api_gateway_endpoint": upstream.url, "cluster_url": real.url}
    one, other = await start_server(**given), await start_server(**given)
    names = ["x-1", "x-2", "x-3"]

    async def watch(name: str) -> None:
        async with (
            events(one.url, "/streaming/sse/chat", body=question("gated", request_id=name)) as own,
            events(other.url, f"/streaming/sse/chat/{name}") as there,
        ):
            assert await there.rest() == await own.rest()

    async def told() -> bool:
        for key in await real.client.keys("streaming:x:*"):
            for _, fields in await real.client.xrange(key) or []:
                lines = cast("bytes", (fields or {}).get(b"k", b"")).splitlines()
                told = [line.split()[0].rpartition(b"/")[2].decode() for line in lines]
                if sorted(told) == names:
                    return True
        return False

    watching = asyncio.gather(*map(watch, names))
    async with asyncio.timeout(6 * UNIT):
        while not await told():
            await asyncio.sleep(0.05)
    gate.open()
    await watching
