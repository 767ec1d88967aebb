"""Stores that lose, hang, refuse and forget: every token once, in order, as long as we live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.clients import UNIT, eventually, http, noise, question, websocket
from tests.conftest import Pair, StartServer
from tests.fakes.fault_proxy import FaultProxy, Faults
from tests.fakes.upstream import FakeUpstream, Script
from tests.stores import RealStore, real_store
from tests.two_servers import watched_elsewhere


@pytest.fixture
async def store() -> AsyncIterator[RealStore]:
    async with real_store(port=True) as store:
        yield store


async def nothing() -> None:
    """No trouble."""


async def test_connections_that_are_cut_again_and_again(
    pair: Pair, upstream: FakeUpstream, store: RealStore
) -> None:
    """Replies are lost, and half of them: nobody knows what the store has done."""
    upstream.scripts["paced"] = Script(tokens=120, rate=40)
    async with FaultProxy(f"http://127.0.0.1:{store.port}") as proxy:
        proxy.faults = lambda chance: Faults(cut_after=chance.randint(200, 6_000))
        one, other = await pair(cluster_url=proxy.url.replace("http", "redis"))
        for attempt in range(10):  # a claim may be among what is cut
            async with http(one.url) as client:
                body = question("ten-tokens", request_id=f"try-{attempt}", stream=True)
                if (await client.post("/v1/chat/completions", json=body)).status_code == 200:
                    break
        proxy.faults = Faults()
        proxy.reset_all()
        await asyncio.sleep(0.2)

        async def cut() -> None:
            proxy.faults = lambda chance: Faults(cut_after=chance.randint(500, 20_000))
            proxy.reset_all()

        await watched_elsewhere(one, other, "paced", cut)
        assert proxy.cuts > 2


async def test_a_store_that_is_full_and_has_room_again(
    pair: Pair, upstream: FakeUpstream, store: RealStore
) -> None:
    gate = upstream.gated(Script(tokens=40), model="gated")
    one, other = await pair()

    async def fill() -> None:
        gate.release(3)
        await store.client.config_set("maxmemory", "1mb")
        gate.release(10)
        await eventually(lambda: not one.context.cluster.figures.up)  # type: ignore[union-attr]
        await store.client.config_set("maxmemory", "0")

    gate.release(1)
    await watched_elsewhere(one, other, "gated", fill, gate.open)


async def test_a_store_that_evicts(pair: Pair, upstream: FakeUpstream, store: RealStore) -> None:
    gate = upstream.gated(Script(tokens=40), model="gated")
    one, other = await pair()

    async def evict() -> None:
        gate.release(10)
        for key in await store.client.keys("streaming:a:*"):
            await store.client.delete(key)

    gate.release(1)
    await watched_elsewhere(one, other, "gated", evict, gate.open)


async def test_a_replica_that_is_promoted_some_writes_behind(
    pair: Pair, upstream: FakeUpstream, store: RealStore
) -> None:
    """What was acknowledged is gone from the end of the stream."""
    gate = upstream.gated(Script(tokens=40), model="gated")
    one, other = await pair()

    async def lose() -> None:
        for _ in range(10):
            gate.release(1)
            await asyncio.sleep(0.03)
        (key,) = await store.client.keys("streaming:a:*")
        newest = await store.client.execute_command("XREVRANGE", key, "+", "-", "COUNT", 5)  # type: ignore[no-untyped-call]
        await store.client.xdel(key, *(entry[0] for entry in newest))

    gate.release(1)
    await watched_elsewhere(one, other, "gated", lose, gate.open)


async def test_hints_that_are_lost_cost_time_and_no_tokens(
    pair: Pair, upstream: FakeUpstream, store: RealStore
) -> None:
    upstream.scripts["paced"] = Script(tokens=60, rate=20)
    one, other = await pair()

    async def drop() -> None:
        for _ in range(20):
            for key in await store.client.keys("streaming:x:*"):
                await store.client.xtrim(key, maxlen=0, approximate=False)
            await asyncio.sleep(0.05)

    await watched_elsewhere(one, other, "paced", drop)


async def test_answers_and_messages_that_are_larger_than_an_entry(
    pair: Pair, upstream: FakeUpstream
) -> None:
    large = tuple(noise(300_000, seed) for seed in range(20))
    upstream.scripts["large"] = Script(tokens=large, rate=20)
    one, other = await pair(chat_retention_bytes=16 * 2**20)
    seen = await watched_elsewhere(one, other, "large", nothing)
    assert len(seen) > len(large)


async def test_a_slow_viewer_there_stops_the_upstream_here(
    pair: Pair, upstream: FakeUpstream
) -> None:
    upstream.scripts["flood"] = Script(tokens=(noise(20_000, 1),) * 2_000)
    one, other = await pair(chat_retention_bytes=500_000, stall_timeout=60)
    async with websocket(other.url, max_queue=1) as slow:
        await slow.start("f-1", model="flood")  # begins there, and is resumed here
        await slow.receive()
        async with websocket(one.url, max_queue=1) as second:
            await second.resume("f-1")
            await second.receive()
            answer = other.context.answers.running[0]
            await eventually(lambda: answer.channel.full, 4 * UNIT)
            assert answer.chunks < 1_900
            slow.connection.transport.abort()
            second.connection.transport.abort()


async def test_clients_that_leave_during_their_claim_cost_no_connections(
    pair: Pair, store: RealStore
) -> None:
    one, _ = await pair()
    before = (await store.client.info("stats"))["total_connections_received"]

    async def leave(number: int) -> None:
        body = question("ten-tokens", request_id=f"gone-{number}", stream=True)
        async with http(one.url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await client.post("/v1/chat/completions", json=body)

    for _ in range(20):
        await asyncio.gather(*(leave(number) for number in range(50)))
    after = (await store.client.info("stats"))["total_connections_received"]
    assert after - before < 20


async def test_a_wrong_password_is_said_and_shown_to_nobody(
    start_server: StartServer, upstream: FakeUpstream, store: RealStore,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    server = await start_server(
        api_gateway_endpoint=upstream.url,
        cluster_url=f"redis://streaming:hunter2@127.0.0.1:{store.port}",
    )
    await eventually(lambda: server.context.topics.own.states().get("cluster") == "down")
    async with http(server.url) as client:
        status = (await client.get("/streaming/status")).text
        reply = await client.post("/v1/chat/completions", json=question("ten-tokens", stream=True))
    assert reply.text.endswith("data: [DONE]\n\n"), "answers of its own ids go on"
    assert "hunter2" not in status + caplog.text


async def test_a_store_that_may_evict_is_warned_of(pair: Pair, store: RealStore) -> None:
    await store.client.config_set("maxmemory-policy", "allkeys-lru")
    one, _ = await pair()

    def reason() -> str:
        return one.context.topics.components().get("cluster", {}).get("reason") or ""

    await eventually(lambda: "allkeys-lru" in reason())
