"""Stores that lose what they had, all of it or the wrong part: it is written again, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from streaming_api.cluster.cluster import Cluster
from streaming_api.cluster.meta import FORMAT
from streaming_api.service import StreamingService
from tests.clients import UNIT, Events, content, events, eventually, http, question, websocket
from tests.conftest import Pair, StartServer
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.stores import RealStore, real_store
from tests.two_servers import numbers, rest, watched_elsewhere

ALL = 43
"""Messages of an answer of 40 tokens: its role, the tokens, why it ended, its end."""


@pytest.fixture
async def store() -> AsyncIterator[RealStore]:
    async with real_store("--repl-diskless-sync-delay", "0", port=True) as store:
        yield store


@pytest.fixture
def gate(upstream: FakeUpstream) -> Gate:
    """Lets the tokens of the model ``gated`` through."""
    return upstream.gated(Script(tokens=40), model="gated")


def cluster_of(server: StreamingService) -> Cluster:
    cluster = server.context.cluster
    assert isinstance(cluster, Cluster)
    return cluster


async def keys(store: RealStore, pattern: str) -> list[str]:
    found = await store.client.keys(f"streaming:{pattern}")
    return [key.decode() for key in found if isinstance(key, bytes)]


async def there(store: RealStore, *patterns: str) -> None:
    """Wait until the store has keys of each pattern."""
    async with asyncio.timeout(UNIT):
        while not all([await keys(store, pattern) for pattern in patterns]):
            await asyncio.sleep(0.01)


async def recorded(server: StreamingService, number: int) -> None:
    """Wait until the store has so many messages of the only answer."""
    await eventually(lambda: server.context.answers.running[0].channel.flushed >= number)
    await eventually(lambda: not cluster_of(server).lag)


@asynccontextmanager
async def three_tokens(server: StreamingService, gate: Gate) -> AsyncIterator[Events]:
    """An answer of which three messages are there, watched and in the store."""
    body = question("gated", request_id="x-1")
    async with events(server.url, "/streaming/sse/chat", body=body) as here:
        gate.release(3)
        await here.until(lambda message: message["sequence_id"] == 3)
        await recorded(server, 3)
        yield here


async def test_a_flush_loses_no_answer_that_has_ended(pair: Pair, store: RealStore) -> None:
    one, other = await pair()
    body = question("ten-tokens", request_id="x-1")
    async with events(one.url, "/streaming/sse/chat", body=body) as stream:
        whole = await stream.rest()
    await eventually(lambda: not cluster_of(one).lag)
    await eventually(lambda: cluster_of(other).figures.joined)
    await store.client.flushall()
    statuses = set()
    async with http(other.url) as client, asyncio.timeout(UNIT):
        while 200 not in statuses:
            statuses.add((await client.get("/streaming/sse/chat/x-1")).status_code)
    assert statuses <= {503, 200}, "nobody is told that it does not exist"
    async with events(other.url, "/streaming/sse/chat/x-1") as stream:
        assert await stream.rest() == whole


async def test_what_a_store_evicts_is_written_again_though_nothing_is_said(
    pair: Pair, store: RealStore, gate: Gate
) -> None:
    """Streams and descriptions alike, while no token comes."""
    one, other = await pair()
    async with three_tokens(one, gate):
        await eventually(lambda: cluster_of(one).figures.round_trip)
        await asyncio.sleep(1.2)  # a heartbeat has seen the store before it loses anything
        await store.client.config_set("maxmemory-policy", "allkeys-lru")
        await store.client.config_set("maxmemory", "1")
        while await keys(store, "[am]:*"):
            await asyncio.sleep(0.01)
        await store.client.config_set("maxmemory", "0")
        await there(store, "a:*", "m:*")
        async with events(other.url, "/streaming/sse/chat/x-1") as watched:
            gate.open()
            assert numbers(await watched.rest()) == list(range(1, ALL + 1))


async def test_answers_go_on_while_a_store_evicts(
    pair: Pair, upstream: FakeUpstream, store: RealStore
) -> None:
    upstream.scripts["paced"] = Script(tokens=60, rate=20)
    one, other = await pair()
    await store.client.config_set("maxmemory-policy", "allkeys-lru")
    expected = Script(tokens=60).text()
    begun: list[str] = []
    over = asyncio.Event()

    async def one_answer(number: int) -> None:
        name = f"e-{number}"
        async with websocket(one.url) as here, websocket(other.url) as away:
            await here.start(name, model="paced")
            first = await here.receive()
            await away.resume(name)
            reading = asyncio.create_task(rest(here))
            seen = [await away.receive()]
            begun.append(name)
            seen += await rest(away)
            assert seen == [first, *await reading]
        assert content(seen) == expected
        assert numbers(seen) == list(range(1, len(seen) + 1))

    async def evict() -> None:
        while not over.is_set():
            await store.client.config_set("maxmemory", "1")
            await asyncio.sleep(0.02)
            await store.client.config_set("maxmemory", "0")
            await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(one_answer(number)) for number in range(10)]
        await eventually(lambda: len(begun) == 10, 3 * UNIT)
        evicting = group.create_task(evict())
        await asyncio.sleep(1.5)  # the time in which the store evicts, over and over
        over.set()
        await evicting
        await asyncio.wait(answers)
    assert (await store.client.info("stats"))["evicted_keys"] > 10


async def test_a_restart_from_what_was_saved_long_ago(
    pair: Pair, store: RealStore, gate: Gate
) -> None:
    """Its data are old, and so are the messages in the inboxes: none is followed again."""
    one, other = await pair()
    await there(store, f"x:{cluster_of(one).instance}")
    await cluster_of(other)._outbox.ask(
        cluster_of(other).store.message(cluster_of(one).instance, "cancel", k="/x-1")
    )

    async def restart() -> None:
        gate.release(3)
        await recorded(one, 4)
        await store.client.save()
        gate.release(8)
        await recorded(one, 12)
        await store.kill()
        await store.start()
        assert await keys(store, "a:*")

    gate.release(1)
    await watched_elsewhere(one, other, "gated", restart, gate.open)


async def test_a_replica_that_is_promoted_some_writes_behind(
    start_server: StartServer,
    upstream: FakeUpstream,
    store: RealStore,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two real servers: the first dies, and the second has not been told everything."""
    async with (
        real_store(port=True, program=store.program) as replica,
        FaultProxy(f"http://127.0.0.1:{store.port}") as proxy,
    ):
        await replica.client.replicaof("127.0.0.1", str(store.port))
        given = {
            "api_gateway_endpoint": upstream.url,
            "cluster_url": proxy.url.replace("http", "redis"),
        }
        one, other = await start_server(**given), await start_server(**given)

        async def replicated() -> bool:
            info = await store.client.info("replication")
            follower = info.get("slave0", {})
            return bool(follower) and follower["offset"] == info["master_repl_offset"]

        async def fail_over() -> None:
            gate.release(3)
            await recorded(one, 4)
            async with asyncio.timeout(3 * UNIT):
                while not await replicated():
                    await asyncio.sleep(0.01)
            await replica.client.replicaof("NO", "ONE")
            for number in range(5, 10):
                gate.release(1)
                await recorded(one, number)
            proxy.target = f"http://127.0.0.1:{replica.port}"
            await store.kill()
            proxy.reset_all()

        gate.release(1)
        await watched_elsewhere(one, other, "gated", fail_over, gate.open)
        assert await keys(replica, "a:*")
    assert "background work failed" not in caplog.text


async def test_an_inbox_whose_ids_begin_anew_is_found_again(pair: Pair, store: RealStore) -> None:
    """As after a loss on a machine whose clock is behind: every new id is below the last one."""
    one, _ = await pair()
    inbox = f"streaming:x:{cluster_of(one).instance}"
    await there(store, inbox.removeprefix("streaming:"))
    await store.client.xadd(inbox, {"t": "mark"}, id="99999999999999-0")
    await asyncio.sleep(0.1)
    await store.client.delete(inbox)
    await eventually(lambda: not cluster_of(one).figures.up)
    await eventually(lambda: cluster_of(one).figures.up)


async def test_damage_is_repaired_and_hints_that_say_nothing_are_skipped(
    pair: Pair, store: RealStore, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = await pair()
    async with three_tokens(one, gate):
        (stream,) = await keys(store, "a:*")
        await store.client.delete(stream)
        await store.client.xadd(stream, {"f": "1", "z": "no deflate"}, id="3-0")
        for server in (one, other):
            inbox = f"streaming:x:{cluster_of(server).instance}"
            await store.client.xadd(inbox, {"t": "cancel", "k": b"\xff/x-1"})
            await store.client.xadd(inbox, {"b": "no deflate"})
        async with events(other.url, "/streaming/sse/chat/x-1") as watched:
            gate.open()
            assert numbers(await watched.rest()) == list(range(1, ALL + 1))
    assert "background work failed" not in caplog.text


async def test_an_answer_of_a_newer_version_is_left_alone(
    pair: Pair, store: RealStore, gate: Gate
) -> None:
    one, other = await pair()
    async with three_tokens(one, gate) as here:
        (about,) = await keys(store, "m:*")
        await store.client.hset(about, mapping={"v": FORMAT + 1, "request": "of another kind"})
        before = await store.client.xrange((await keys(store, "a:*"))[0])
        async with http(other.url) as client:
            reply = await client.get("/streaming/sse/chat/x-1")
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "server_outdated")

            def reason() -> str:
                return other.context.topics.components().get("cluster", {}).get("reason") or ""

            await eventually(lambda: "newer version" in reason())
            body = question("ten-tokens", request_id="x-1", stream=True)
            reply = await client.post("/v1/chat/completions", json=body)
            assert reply.status_code == 503
        assert await store.client.xrange((await keys(store, "a:*"))[0]) == before
        gate.open()
        assert (await here.rest())[-1]["data"]["finish_reason"] == "stop"


async def test_a_seal_holds_even_when_the_store_no_longer_has_it(
    pair: Pair, store: RealStore, gate: Gate
) -> None:
    """An owner that was cut off for longer than the store keeps what others have ended."""
    one, _ = await pair()
    async with three_tokens(one, gate) as here:
        (stream,) = await keys(store, "a:*")
        await store.client.set(stream.replace(":a:", ":g:"), "sealed")
        await store.client.delete(stream)
        gate.release(1)
        end = (await here.rest())[-1]["data"]
        assert end["error"]["code"] == "server_lost"
    assert not await keys(store, "a:*")


async def test_an_answer_that_nobody_has_any_more_holds_nobody_up(
    pair: Pair, store: RealStore
) -> None:
    """Its description is all that is left: who watches is told, and does not wait for ever."""
    one, other = await pair(chat_retention_seconds=1)
    body = question("ten-tokens", request_id="x-1")
    async with events(one.url, "/streaming/sse/chat", body=body) as stream:
        await stream.rest()
    await eventually(lambda: not cluster_of(one).lag)
    (about,) = await keys(store, "m:*")
    await store.client.persist(about)
    async with http(one.url) as client, asyncio.timeout(UNIT):
        while await keys(store, "a:*") or "0 recorded" not in repr(cluster_of(one)):
            await client.get("/streaming/sse/chat/another")  # it forgets when it is asked
            await asyncio.sleep(0.05)
    async with events(other.url, "/streaming/sse/chat/x-1") as stream:
        (end,) = await stream.rest()
    assert end["data"]["error"]["code"] == "server_lost"


async def test_a_claim_that_is_not_used_is_given_up_at_once(
    pair: Pair, upstream: FakeUpstream, store: RealStore
) -> None:
    """A server that refuses to start an answer leaves its id to the next one."""
    one, other = await pair()
    body = question("ten-tokens", request_id="x-1")
    async with http(one.url) as client, http(other.url) as client_of_other:
        store.freeze()
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await eventually(lambda: "cluster claim" in str(asyncio.all_tasks()))
        one.context.answers.draining = True
        store.thaw()
        assert (await asking).json()["error"]["code"] == "draining"
        reply = await client_of_other.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["finish_reason"] == "stop"
    assert upstream.started == 1
