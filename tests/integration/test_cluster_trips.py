"""Round trips to the store are what costs, so they are counted: as the store reads them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import pytest

from streaming_api.answers.answer import Answer
from streaming_api.cluster.connection import Command, Message, StoreError
from streaming_api.cluster.entries import Entry
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.meta import Meta
from streaming_api.cluster.store import Found, Store
from streaming_api.cluster.writer import EARLY, SLOTS, TICKS, Writer
from streaming_api.wire.commands import ChatRequest
from tests.clients import UNIT, events, eventually, question
from tests.conftest import StartServer
from tests.fakes.engine import AMPLE, channel, chat_stream
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.stores import RealStore, documented_user, real_store

Count = Callable[[], Awaitable[int]]
TICK = 0.05


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


def recorded(writer: Writer, name: str) -> Callable[..., None]:
    """Record an answer; what appends to it, or ends it."""
    one = channel(epoch="r")
    stream = chat_stream(one, AMPLE)
    answer = cast("Answer", SimpleNamespace(channel=one, stream=stream, outcome=None))
    writer.add(("", name), answer, Meta("here", "", ChatRequest(name, None, b"{}")))

    def say(*, end: bool = False) -> None:
        if end:
            one.end(stream, b'{"finish_reason":"stop"}')
        else:
            one.append(stream, [b'{"n":1}'])

    return say


async def trips_of(answers: int, store: Store, reads: Count) -> int:
    """A token of each answer, all in one window."""
    writer = Writer(store, Figures(), 0.1, 60, lambda _: None)
    says = [recorded(writer, f"{answers}-{number}") for number in range(answers)]
    for say in says:
        say()
    writing = asyncio.create_task(writer.run())
    await eventually(lambda: not writer.lag, 4 * UNIT)  # the first tokens do not wait
    before, counted = await reads(), store.trips
    for say in says:
        say()
    await eventually(lambda: not writer.lag, 4 * UNIT)
    writing.cancel()
    assert store.trips - counted == await reads() - before
    return store.trips - counted


async def test_a_hundred_answers_cost_the_round_trips_of_ten(store: Store, reads: Count) -> None:
    assert await trips_of(10, store, reads) == SLOTS
    assert await trips_of(100, store, reads) == SLOTS


async def test_a_few_ends_do_not_wait_and_many_share_ticks(store: Store) -> None:
    writer = Writer(store, Figures(), TICKS * TICK, 60, lambda _: None)
    says = [recorded(writer, f"r-{number}") for number in range(30)]
    for say in says:
        say()
    writing = asyncio.create_task(writer.run())
    await eventually(lambda: not writer.lag, 4 * UNIT)
    counted, begun = store.trips, time.monotonic()
    for say in says:
        say(end=True)
        await asyncio.sleep(TICK / 20)
    await eventually(lambda: not writer.lag, 4 * UNIT)
    writing.cancel()
    took = time.monotonic() - begun
    assert EARLY < store.trips - counted <= EARLY * (took + 1) + took / TICK + 1


async def test_what_news_names_is_read_with_the_wait_for_the_next(
    store: Store, reads: Count
) -> None:
    refs = [f"/r-{number}" for number in range(60)]
    for ref in refs:
        await store.run(("XADD", store.key("a", ref), "1-0", "f", 1))
    inbox = store.key("x", "here")
    found: Found = {}

    async def take(some: Found) -> None:
        found.update(some)

    async def listen(refs: list[str]) -> list[tuple[str, str, Message]]:
        return await store.listen({inbox: "0-0"}, inbox, dict.fromkeys(refs, 0), take)

    assert not await listen([])  # it is connected
    before = await reads()
    listening = asyncio.ensure_future(listen([*refs, "/none"]))
    await eventually(lambda: len(found) == 61)
    assert await reads() - before == 1
    assert found == {ref: [Entry(1)] for ref in refs} | {"/none": []}
    await store.run(("XADD", inbox, "1-0", "t", "news"))
    assert await listening == [(inbox, "1-0", {b"t": b"news"})]


async def test_who_makes_trips_anyway_asks_for_messages_with_them(
    store: Store, reads: Count
) -> None:
    inbox = store.key("x", "here")
    await store.run(("XADD", inbox, "1-0", "t", "news"))
    assert store.busy
    before = await reads()
    polling = asyncio.ensure_future(store.poll({inbox: "0-0"}))
    await asyncio.sleep(0)
    await store.run(("PING",))
    assert await polling == [(inbox, "1-0", {b"t": b"news"})]
    assert await reads() - before == 1


async def test_what_was_sent_is_done_before_what_is_asked_next(store: Store) -> None:
    key = store.key("c", "name")
    sent = store.soon(("SET", key, "value"))
    assert await store.ask(("GET", key)) == [b"value"]
    assert await sent == [b"OK"]


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
