"""Limits and usage of keys over one real store: the same on every process, whichever is asked."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from streaming_api.service import StreamingService
from tests.clients import UNIT, Message, bearer, eventually, http, key, question, websocket
from tests.conftest import Pair, StartServer
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.stores import RealStore

TOKENS = 17
"""What the model ``ten-tokens`` reports: 7 of the question and 10 of the answer."""


@pytest.fixture
def start(start_server: StartServer, upstream: FakeUpstream, store: RealStore) -> StartServer:
    """One more server of the service."""

    async def start(**settings: object) -> StreamingService:
        given = {"api_gateway_endpoint": upstream.url, "cluster_url": store.url}
        return await start_server(**(given | settings))

    return start


async def ask(server: StreamingService, name: str, model: str = "ten-tokens") -> httpx.Response:
    async with http(server.url, timeout=2 * UNIT) as client:
        path = "/v1/chat/completions"
        return await client.post(path, json=question(model), headers=bearer(name))


async def usage(server: StreamingService) -> dict[str, Message]:
    """What ``/streaming/usage`` says, by key."""
    async with http(server.url) as client:
        reply = await client.get("/streaming/usage", headers=bearer("ops"))
    return {row["key"]: row for row in reply.json()["keys"]}


class TestTokens:
    async def test_tokens_of_a_minute_are_refused_by_all_once_they_are_used_up(
        self, pair: Pair
    ) -> None:
        servers = await pair(api_keys=[key("page", tokens_per_minute=3 * TOKENS)])
        for number in range(3):
            reply = await ask(servers[number % 2], "page")
            assert reply.status_code == 200
        replies = [await ask(server, "page") for server in servers]
        for refused in replies:
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                429,
                "rate_limit_exceeded",
            )
            assert 0 < int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
        assert len({reply.json()["error"]["message"] for reply in replies}) == 1

    async def test_tokens_of_a_day_survive_every_process_that_has_counted_them(
        self, start: StartServer
    ) -> None:
        keys = [key("page", tokens_per_day=TOKENS), key("ops", "admin")]
        first = await start(api_keys=keys)
        assert (await ask(first, "page")).status_code == 200
        assert (await usage(first))["page"]["answers"] == 1
        await first.stop()
        second = await start(api_keys=keys)
        refused = await ask(second, "page")
        assert refused.status_code == 429
        assert refused.headers["x-ratelimit-reset-tokens"].removesuffix("s").isdigit()

    async def test_tokens_are_counted_here_while_the_store_is_down(
        self, pair: Pair, store: RealStore
    ) -> None:
        keys = [key("page", tokens_per_minute=2 * TOKENS), key("ops", "admin")]
        one, other = await pair(api_keys=keys)
        assert (await ask(one, "page")).status_code == 200
        assert (await usage(other))["page"]["output_tokens"] == 10
        await store.kill()
        assert (await ask(other, "page")).status_code == 200
        assert (await ask(other, "page")).status_code == 429
        await store.start()

    async def test_tokens_that_the_store_loses_are_put_back(
        self, pair: Pair, store: RealStore
    ) -> None:
        keys = [key("page", tokens_per_minute=TOKENS), key("ops", "admin")]
        one, other = await pair(api_keys=keys)
        assert (await ask(one, "page")).status_code == 200
        before = (await usage(other))["page"]
        await store.client.flushall()
        await usage(one)
        assert (await usage(one))["page"] == before
        assert (await usage(other))["page"] == before
        assert (await ask(other, "page")).status_code == 429
        late = await usage(one)
        assert late["page"] == before


class TestUsage:
    async def test_usage_is_that_of_the_service_on_every_process(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        upstream.scripts["gated"] = Script(tokens=3, gate=(gate := Gate()))
        servers = await pair(api_keys=[key("page"), key("idle"), key("ops", "admin")])
        for server in servers * 2:
            assert (await ask(server, "page")).status_code == 200
        assert (await ask(servers[0], "page", "rate-limited")).status_code == 429
        running = asyncio.create_task(ask(servers[1], "page", "gated"))
        await upstream.until(lambda: upstream.started == 6)
        for server in servers:
            rows = await usage(server)
            assert sorted(rows) == ["idle", "ops", "page"]
            page = rows["page"]
            assert (page["answers"], page["failed"], page["running"]) == (5, 1, 1)
            assert (page["input_tokens"], page["output_tokens"]) == (28, 40)
            assert page["today"] == {
                name: page[name] for name in ("answers", "failed", "input_tokens", "output_tokens")
            }
            assert rows["idle"]["answers"] == 0
        gate.open()
        await running
        assert [(await usage(server))["page"]["running"] for server in servers] == [0, 0]

    async def test_usage_counts_each_answer_once_although_replies_are_lost(
        self, pair: Pair, store: RealStore
    ) -> None:
        one, other = await pair(api_keys=[key("page"), key("ops", "admin")])
        assert (await usage(one)).keys() == {"page", "ops"}
        store.freeze()  # what is sent now is done later, when nobody waits for the reply
        assert (await ask(one, "page")).status_code == 200
        assert one.context.cluster is not None
        await eventually(lambda: not one.context.cluster.figures.up)  # type: ignore[union-attr]
        await asyncio.sleep(1.2)  # longer than a reply is waited for, and it is asked again
        store.thaw()
        for server in (one, other):
            async with asyncio.timeout(2 * UNIT):
                while (await usage(server))["page"]["answers"] != 1:
                    await asyncio.sleep(0.05)
        await asyncio.sleep(0.6)  # a count that came twice would have come by now
        assert [(await usage(server))["page"]["answers"] for server in (one, other)] == [1, 1]

    async def test_usage_forgets_what_ran_in_a_process_that_is_gone(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        upstream.scripts["gated"] = Script(tokens=3, gate=Gate())
        keys = [key("page"), key("ops", "admin")]
        one, other = await pair(api_keys=keys, cluster_lease=2, drain_timeout=0.1)
        bearer = {"Authorization": "Bearer page"}
        async with websocket(one.url, additional_headers=bearer) as socket:
            await socket.start("r-1", model="gated")
            await eventually(lambda: one.context.answers.running)
            await usage(one)
            assert (await usage(other))["page"]["running"] == 1
        await one.stop()
        assert (await usage(other))["page"]["running"] == 0


async def test_the_answers_of_one_key_are_limited_together(
    pair: Pair, upstream: FakeUpstream
) -> None:
    upstream.scripts["gated"] = Script(tokens=3, gate=(gate := Gate()))
    keys = [key("page", answers=1), key("ops", "admin")]
    one, other = await pair(api_keys=keys)
    running = asyncio.create_task(ask(one, "page", "gated"))
    await upstream.until(lambda: upstream.started == 1)
    await usage(one)
    await usage(other)
    for server in (one, other):
        refused = await ask(server, "page")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_answers")
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    gate.open()
    assert (await running).status_code == 200
    async with asyncio.timeout(UNIT):
        while (await ask(other, "page")).status_code != 200:
            await asyncio.sleep(0.02)


async def knock(server: StreamingService, source: str = "127.0.0.1") -> int:
    """Open an event stream of topics and leave; the status."""
    transport = httpx.AsyncHTTPTransport(local_address=source)
    async with (
        httpx.AsyncClient(transport=transport, base_url=server.url, trust_env=False) as client,
        client.stream("GET", "/streaming/sse/alerts") as reply,
    ):
        return reply.status_code


class TestRates:
    async def test_the_rate_of_new_connections_holds_for_all_together(self, pair: Pair) -> None:
        one, other = await pair(connections_per_minute=6)
        assert [await knock(one) for _ in range(2)] == [200, 429]
        await known_to_all(one, other)
        assert await knock(other) == 200  # it had not asked about this address yet
        await known_to_all(one, other)
        assert await knock(other) == 429
        assert await knock(other, "127.0.0.2") == 200

    async def test_rates_are_those_of_this_process_while_the_store_is_down(
        self, pair: Pair, store: RealStore
    ) -> None:
        one, other = await pair(connections_per_minute=6)
        await store.kill()
        for server in (one, other):
            assert [await knock(server) for _ in range(2)] == [200, 429]
        await store.start()

    async def test_the_rate_of_commands_holds_for_all_together(self, pair: Pair) -> None:
        servers = await pair(commands_per_second=5)
        taken, begun = 0, time.monotonic()
        async with websocket(servers[0].url) as one, websocket(servers[1].url) as other:
            for _ in range(4):
                for socket in (one, other):
                    for _ in range(5):
                        await socket.send(message_type="status_update", action="unsubscribe")
                        message = await socket.until(lambda m: "gap" not in str(m))
                        taken += "error" not in message[-1]["data"]
                await known_to_all(*servers)
        burst, rate = 10, 5
        assert taken <= 2 * burst + rate * (time.monotonic() - begun)


async def known_to_all(*servers: StreamingService) -> None:
    """Wait until each server knows what the others have counted."""
    for server in servers:
        cluster = server.context.cluster
        assert cluster is not None
        assert await cluster.used()


class TestConnections:
    async def test_connections_of_one_address_are_limited_together(self, pair: Pair) -> None:
        one, other = await pair(max_connections_per_ip=2)
        async with websocket(one.url), websocket(one.url):
            await known_to_all(one, other)
            assert [await knock(server) for server in (one, other)] == [503, 503]
            assert await knock(other, "127.0.0.2") == 200
        async with asyncio.timeout(UNIT):
            while await knock(other) != 200:
                await asyncio.sleep(0.05)

    async def test_connections_of_a_process_that_is_gone_do_not_count(
        self, pair: Pair, store: RealStore
    ) -> None:
        one, other = await pair(max_connections_per_ip=1, cluster_lease=2)
        async with websocket(one.url):
            await known_to_all(one, other)
            assert await knock(other) == 503
            await store.client.delete("streaming:open:processes")  # as if it had been silent
            await known_to_all(one, other)
            assert await knock(other) == 503, "it has reported them again"
        await one.stop()
        await known_to_all(other)
        assert await knock(other) == 200

    async def test_connections_are_limited_here_while_the_store_is_down(
        self, pair: Pair, store: RealStore
    ) -> None:
        one, other = await pair(max_connections_per_ip=1)
        async with websocket(one.url):
            await known_to_all(one, other)
            await store.kill()
            await eventually(lambda: not other.context.manager.admission.full)
            assert [await knock(server) for server in (one, other)] == [503, 200]
            await store.start()
            async with asyncio.timeout(2 * UNIT):
                while await knock(other) != 503:
                    await asyncio.sleep(0.05)


class TestAgreement:
    async def test_a_process_with_other_keys_or_limits_is_named(
        self, start: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = await start(api_keys=[key("page")], cluster_name="one")

        def reason() -> str | None:
            return one.context.topics.components().get("cluster", {}).get("reason")

        same = await start(api_keys=[key("page")], cluster_name="same")
        await known_to_all(one, same)
        await eventually(lambda: one.context.topics.states().get("cluster") == "up")
        assert reason() is None
        await start(api_keys=[key("page", answers=1)], answers_per_key=9, cluster_name="other")
        await eventually(lambda: "same keys and limits: other differs" in str(reason()))
        assert sum("same keys and limits: other" in text for text in caplog.messages) >= 1
