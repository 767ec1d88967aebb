"""Several processes and a real store: the topics have one order, which outlives any of them."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from tests.clients import (
    UNIT,
    Message,
    Socket,
    eventually,
    fire,
    http,
    name_of,
    question,
    valid,
    websocket,
)
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.lifecycle import Lifecycle
from tests.stores import RealStore, documented_user, real_store
from tests.workers import Service, serving

LEASE = 2
"""Seconds; what the processes of these tests hold the lease for."""

Start = Callable[[str], Awaitable[Service]]
Trouble = Callable[[RealStore], Awaitable[None]]


class Exposition(Lifecycle):
    """A source whose one value grows with each request, and who asks for it."""

    def __init__(self) -> None:
        self.value = 0
        self.clients: list[int] = []
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Begin to serve."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/metrics"

    async def stop(self) -> None:
        """End."""
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.value += 1
        peer = request.transport.get_extra_info("peername") if request.transport else None
        assert peer is not None
        self.clients.append(peer[1])
        return web.Response(text=f"value {self.value}\n")


@pytest.fixture
async def store() -> AsyncIterator[RealStore]:
    async with real_store(*documented_user()) as store:
        yield store


@pytest.fixture
async def source() -> AsyncIterator[Exposition]:
    async with Exposition() as source:
        yield source


@pytest.fixture
async def start(store: RealStore, source: Exposition) -> AsyncIterator[Start]:
    """Starts processes of one service, each by its name."""
    async with AsyncExitStack() as stack:

        async def begin(name: str) -> Service:
            return await stack.enter_async_context(one_process(name, store, source))

        yield begin


def one_process(
    name: str, store: RealStore, source: Exposition, lease: float = LEASE, **variables: str
) -> AbstractAsyncContextManager[Service]:
    return serving(
        **variables,
        STREAMING_CLUSTER=store.url,
        STREAMING_CLUSTER_NAME=name,
        STREAMING_CLUSTER_LEASE=str(lease),
        STREAMING_POLL_INTERVAL="0.1",
        STREAMING_DRAIN_DELAY="0",
        CUSTOM_METRICS_ENDPOINT=source.url,
    )


@asynccontextmanager
async def subscribed(url: str, *types: str, cursor: str | None = None) -> AsyncIterator[Socket]:
    """A socket that watches topics."""
    async with websocket(url) as socket:
        for name in types or ("metrics_update",):
            command = {"message_type": name, "action": "subscribe"}
            await socket.send(**command | ({"cursor": cursor} if cursor else {}))
        yield socket


def shows(value: int) -> Callable[[Message], bool]:
    """Whether a message is of this value of the source, or of a later one."""

    def at_least(message: Message) -> bool:
        values = message["data"].get("values", {}).get("exposition", {})
        return bool(values.get("value", 0) >= value)

    return at_least


async def settled(*services: Service) -> tuple[Service, ...]:
    """Processes, the one that makes the topics first."""
    async with asyncio.timeout(4 * UNIT):
        while True:
            roles = {service: role_of(service) for service in services}
            if list(roles.values()).count("leads") == 1 and all(roles.values()):
                return tuple(sorted(services, key=lambda each: roles[each] != "leads"))
            await asyncio.sleep(0.02)


def role_of(service: Service) -> str | None:
    said = [line for line in service.log if "polls the sources" in line]
    if not said:
        return None
    if "another process" in said[-1]:
        return "follows"
    return "leads" if said[-1].endswith("this process polls the sources") else "alone"


def position(message: Message) -> tuple[str, int]:
    epoch, _, number = message["cursor"].partition(":")
    return epoch, int(number)


def in_order(messages: list[Message]) -> bool:
    """Whether there is one epoch, and every number is larger than the one before."""
    positions = [position(message) for message in messages if "cursor" in message]
    return all(a[0] == b[0] and a[1] < b[1] for a, b in pairwise(positions))


def gaps(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message["data"].get("event") == "gap"]


async def test_a_cursor_of_one_process_is_good_on_the_other(
    start: Start, source: Exposition
) -> None:
    one, other = await start("one"), await start("other")
    async with subscribed(one.url) as first, subscribed(other.url) as second:
        whole = await first.until(shows(source.value + 3))
        begun = whole[len(whole) // 2]
        mine = await first.until(shows(source.value + 3))
        theirs = await second.until(lambda message: message == mine[-1])
        assert mine[1:] == theirs[-len(mine) + 1 :]
    for url in (one.url, other.url):
        async with subscribed(url, cursor=begun["cursor"]) as again:
            rest = await again.until(lambda message: message == mine[-1])
        later = [m for m in (*whole, *mine) if "cursor" in m and position(m) > position(begun)]
        assert [m for m in rest if "cursor" in m] == later
        assert not gaps(rest)


async def test_one_polls_and_another_takes_over_from_it_when_it_is_killed(
    start: Start, source: Exposition
) -> None:
    leader, other = await settled(await start("one"), await start("other"))
    async with subscribed(other.url, "metrics_update", "status_update") as watcher:
        before = await watcher.until(shows(source.value + 5))
        assert len(set(source.clients)) == 1
        leader.process.kill()
        after = await watcher.until(shows(source.value + 5))
        seen = [m for m in before + after if m["message_type"] == "metrics_update"]
        assert in_order(seen)
        assert not gaps(before + after)
    assert len(set(source.clients)) == 2
    values = [m["data"]["values"]["exposition"]["value"] for m in seen if shows(1)(m)]
    assert values == sorted(set(values))


async def test_one_that_is_told_to_stop_hands_over_at_once(
    store: RealStore, source: Exposition
) -> None:
    async with (
        one_process("one", store, source, lease=600) as one,
        one_process("other", store, source, lease=600) as another,
    ):
        leader, other = await settled(one, another)
        async with subscribed(other.url) as watcher:
            seen = await watcher.until(shows(source.value + 3))
            leader.signal(signal.SIGTERM)
            assert await leader.ended() == 0
            seen += await watcher.until(shows(source.value + 3))
            assert in_order(seen)
            assert not gaps(seen)


@asynccontextmanager
async def two_with_answers(
    store: RealStore, source: Exposition
) -> AsyncIterator[tuple[Service, Service]]:
    """Two processes, the one that makes the topics first; each has an answer that waits."""
    gate = Gate()
    async with FakeUpstream() as upstream, AsyncExitStack() as stack:
        upstream.scripts["gated"] = Script(tokens=3, gate=gate)
        begin = functools.partial(
            one_process, store=store, source=source, lease=600, API_GATEWAY_ENDPOINT=upstream.url
        )
        one = await stack.enter_async_context(begin("one"))
        other = await stack.enter_async_context(begin("other"))
        answers = [
            asyncio.create_task(answer_of(service), name="answer") for service in (one, other)
        ]
        await upstream.until(lambda: upstream.started == 2)
        leader, follower = await settled(one, other)
        yield leader, follower
        gate.open()
        assert await asyncio.gather(*answers) == [200, 200]


async def answer_of(service: Service) -> int:
    """An answer on a wire whose clients cannot come back: it is shown to its end where it is."""
    async with http(service.url, timeout=6 * UNIT) as client:
        reply = await client.post("/v1/chat/completions", json=question("gated", stream=True))
        assert reply.text.endswith("data: [DONE]\n\n")
        return reply.status_code


async def test_one_that_waits_for_its_answers_to_end_has_handed_over_before(
    store: RealStore, source: Exposition
) -> None:
    async with (
        two_with_answers(store, source) as (leader, other),
        subscribed(other.url) as watcher,
    ):
        seen = await watcher.until(shows(source.value + 3))
        leader.signal(signal.SIGTERM)
        await other.logged("this process polls the sources")
        await eventually(lambda: role_of(leader) == "follows", 2 * UNIT)
        assert leader.process.returncode is None
        seen += await watcher.until(shows(source.value + 3))
        assert in_order(seen)
        assert not gaps(seen)


async def test_while_all_wait_for_their_answers_to_end_one_goes_on(
    store: RealStore, source: Exposition
) -> None:
    """Whichever is told first, and also if both are told at once."""
    async with (
        two_with_answers(store, source) as (leader, other),
        subscribed(other.url) as watcher,
    ):
        seen = await watcher.until(shows(source.value + 3))
        for service in (leader, other):
            service.signal(signal.SIGTERM)
        seen += await watcher.until(shows(source.value + 20))
        assert in_order(seen)
        assert not gaps(seen)


async def test_a_store_that_restarts_from_what_it_had_long_ago_begins_a_new_epoch(
    start: Start, source: Exposition, store: RealStore
) -> None:
    one, other = await start("one"), await start("other")
    async with subscribed(one.url) as first, subscribed(other.url) as second:
        await first.until(shows(source.value + 3))
        await store.client.save()
        for socket in (first, second):
            await socket.until(shows(source.value + 5))
        await store.kill()
        await store.start()
        for socket in (first, second):
            async with asyncio.timeout(3 * UNIT):
                assert (await until_gap(socket))["data"]["reason"] == "epoch"
        mine = await first.until(shows(source.value + 3))
        assert mine[-1] in await second.until(lambda message: message == mine[-1])


async def test_one_that_hung_and_wakes_appends_nothing(start: Start, source: Exposition) -> None:
    leader, other = await settled(await start("one"), await start("other"))
    async with subscribed(other.url) as watcher, subscribed(leader.url) as there:
        before = await watcher.until(shows(source.value + 5))
        os.kill(leader.process.pid, signal.SIGSTOP)
        await other.logged("this process polls the sources")
        before += await watcher.until(shows(source.value + 5))
        os.kill(leader.process.pid, signal.SIGCONT)
        await eventually(lambda: role_of(leader) == "follows", 2 * UNIT)
        before += await watcher.until(shows(source.value + 5))
        assert in_order(before)
        assert not gaps(before)
        same = await there.until(lambda message: message == before[-1])
        assert in_order(same)
        assert not gaps(same)


async def test_a_store_that_has_lost_everything_is_a_gap_and_the_same_state(
    start: Start, source: Exposition, store: RealStore
) -> None:
    one, other = await start("one"), await start("other")
    await fire(one.url, "DiskFull")
    async with (
        subscribed(one.url, "alert", "metrics_update") as first,
        subscribed(other.url, "alert", "metrics_update") as second,
    ):
        for socket in (first, second):
            await socket.until(shows(source.value + 3))
        await store.client.flushall()
        seen = [await socket.until(lambda m: bool(gaps([m]))) for socket in (first, second)]
        assert [message[-1]["data"]["reason"] for message in seen] == ["epoch", "epoch"]
        for socket in (first, second):
            again = await socket.until(lambda m: m["data"].get("event") == "snapshot")
            again += await socket.until(shows(source.value + 2))
            told = [m for m in again if m["message_type"] == "alert" and "alerts" in m["data"]]
            assert [a["labels"]["alertname"] for a in told[-1]["data"]["alerts"]] == ["DiskFull"]
        last = await first.until(shows(source.value + 2))
        assert last[-1] in await second.until(lambda message: message == last[-1])


async def freeze(store: RealStore) -> None:
    store.freeze()


async def thaw(store: RealStore) -> None:
    store.thaw()


async def forbid(store: RealStore) -> None:
    await store.client.execute_command("ACL", "SETUSER", "streaming", "-xadd")  # type: ignore[no-untyped-call]


async def permit(store: RealStore) -> None:
    await store.client.execute_command("ACL", "SETUSER", "streaming", "+xadd")  # type: ignore[no-untyped-call]


async def fill(store: RealStore) -> None:
    await store.client.config_set("maxmemory", 1)


async def empty(store: RealStore) -> None:
    await store.client.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("trouble", "mend"),
    [(RealStore.kill, RealStore.start), (freeze, thaw), (forbid, permit), (fill, empty)],
    ids=["gone", "hangs", "forbids", "full"],
)
async def test_without_the_store_each_polls_for_itself_and_then_one_again(
    start: Start, source: Exposition, store: RealStore, trouble: Trouble, mend: Trouble
) -> None:
    one, other = await start("one"), await start("other")
    async with subscribed(one.url) as first, subscribed(other.url) as second:
        await first.until(shows(source.value + 2))
        await trouble(store)
        for socket in (first, second):
            async with asyncio.timeout(3 * UNIT):
                alone = await until_gap(socket)
            assert alone["data"]["reason"] == "epoch"
            await socket.until(shows(source.value + 2))
        await eventually(lambda: role_of(one) == role_of(other) == "alone")
        async with http() as client:
            for service in (one, other):
                status = (await client.get(f"{service.url}/streaming/status")).json()
                assert status["components"]["cluster"]["state"] == "down"
        await mend(store)
        for socket in (first, second):
            async with asyncio.timeout(3 * UNIT):
                await until_gap(socket)
        mine = await first.until(shows(source.value + 5))
        assert mine[-1] in await second.until(lambda message: message == mine[-1])
    await settled(one, other)


async def until_gap(socket: Socket) -> Message:
    while True:
        message = valid(await socket.connection.recv())  # nothing comes for some seconds
        if gaps([message]):
            return message


async def test_a_webhook_is_taken_by_any_and_shown_by_all_also_after_a_restart_of_all(
    store: RealStore, source: Exposition
) -> None:
    async with (
        one_process("one", store, source) as one,
        one_process("other", store, source) as other,
        subscribed(one.url, "alert") as first,
    ):
        await fire(other.url, "DiskFull")
        fired = await first.until(lambda message: message["data"].get("event") == "firing")
        assert name_of(fired[-1]) == "DiskFull"
        async with http(one.url) as client, asyncio.timeout(2 * UNIT):
            while len((await client.get("/streaming/history")).json()["times"]) < 3:
                await asyncio.sleep(0.1)
            kept = (await client.get("/streaming/history")).json()
        for service in (one, other):
            service.signal(signal.SIGTERM)
        for service in (one, other):
            assert await service.ended() == 0
    async with (
        one_process("one", store, source) as one,
        subscribed(one.url, "alert", cursor=fired[-1]["cursor"]) as first,
        http(one.url) as client,
    ):
        await fire(one.url, "DiskFull", status="resolved")
        over = await first.until(lambda message: message["data"].get("event") == "resolved")
        assert not gaps(over)
        assert in_order(over)
        told = (await client.get("/streaming/history")).json()
        assert told["times"][: len(kept["times"])] == kept["times"]
        for name, column in kept["series"].items():
            assert told["series"][name][: len(column)] == column
        assert told["marks"][: len(kept["marks"])] == kept["marks"]


async def test_the_page_is_the_same_on_both_and_its_figures_are_the_services(start: Start) -> None:
    one, other = await start("one"), await start("other")
    async with http() as client, subscribed(one.url, "alert"), subscribed(other.url, "alert"):

        async def both(path: str) -> list[Any]:
            return [(await client.get(s.url + path)).json() for s in (one, other)]

        async with asyncio.timeout(4 * UNIT):
            while True:
                series = (await both("/streaming/history"))[0]["series"]
                if series.get("connections_websocket", [0])[-1] == 2:
                    break
                await asyncio.sleep(0.1)
            mine, theirs = await both("/streaming/history")
            until = min(len(mine["times"]), len(theirs["times"]))
            assert mine["times"][:until] == theirs["times"][:until]
            assert mine["marks"] == theirs["marks"]
            assert {"one", "other"} <= {m["name"] for m in mine["marks"] if m["event"] == "started"}
            for name, column in mine["series"].items():
                assert column[:until] == theirs["series"][name][:until], name
            while True:
                first, second = await both("/streaming/status")
                if first["components"] == second["components"]:
                    break
            assert first["components"]["cluster"]["state"] == "up"
            snapshot = (await client.get(f"{one.url}/streaming/snapshot?topics=metrics")).json()
    process = snapshot["messages"][0]["data"]["values"]["process"]
    assert {'open_fds{worker="one"}', 'open_fds{worker="other"}'} <= process.keys()
