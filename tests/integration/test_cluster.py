"""Two servers over one real store: what was started on one is there on the other."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import ClassVar

import httpx
import pytest
import websockets

from tests.clients import (
    UNIT,
    bearer,
    both_see,
    content,
    events,
    eventually,
    fire,
    http,
    is_end,
    key,
    name_of,
    question,
    webhook,
    websocket,
)
from tests.conftest import Pair, StartServer
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.stores import RealStore, documented_user, real_store


@pytest.fixture
async def store() -> AsyncIterator[RealStore]:
    async with real_store(*documented_user()) as store:
        yield store


def numbers(messages: list[dict[str, object]]) -> list[object]:
    return [message["sequence_id"] for message in messages if "sequence_id" in message]


def gated(upstream: FakeUpstream, tokens: int = 20) -> Gate:
    return upstream.gated(Script(tokens=tokens), model="gated")


def test_without_a_cluster_redis_is_not_imported() -> None:
    code = (
        "import sys; from streaming_api.app import build; from streaming_api.config import"
        " StreamingConfig; build(StreamingConfig(embedded_model='none'));"
        " print({'redis', 'hiredis', 'streaming_api.cluster'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


class TestOnTheOther:
    async def test_a_running_answer_is_watched_and_resumed_on_the_other(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        gate = gated(upstream)
        one, other = await pair()
        async with websocket(one.url) as first, websocket(other.url) as second:
            gate.release(5)
            await both_see(first, second, "r-1", 6)
            gate.open()
            assert await first.answer() == await second.answer()

    async def test_a_finished_answer_is_on_every_face_of_the_other(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        one, other = await pair()
        async with events(
            one.url, "/streaming/sse/chat", body=question("ten-tokens", request_id="r-2")
        ) as stream:
            whole = await stream.rest()
        async with events(other.url, "/streaming/sse/chat/r-2?after=4") as stream:
            rest = await stream.rest()
        assert rest == whole[4:]
        last = {"Last-Event-ID": str(whole[-1]["cursor"])}
        async with http(other.url) as client:
            assert (await client.get("/streaming/sse/chat/r-2", headers=last)).status_code == 204
            body = question("ten-tokens", request_id="r-2", stream=True)
            reply = await client.post("/v1/chat/completions", json=body)
            assert reply.text.endswith("data: [DONE]\n\n")
            assert reply.text.count("data: {") == len(whole) - 1
            assert (await client.get("/streaming/sse/chat/nobody")).status_code == 404
        assert upstream.started == 1

    async def test_the_same_id_on_both_at_once_is_one_generation(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        servers = await pair()

        async def ask(url: str, name: str) -> str:
            async with events(
                url, "/streaming/sse/chat", body=question("ten-tokens", request_id=name)
            ) as stream:
                return content(await stream.rest())

        names = [f"same-{number}" for number in range(10)]
        texts = await asyncio.gather(
            *(ask(server.url, name) for name in names for server in servers * 2)
        )
        assert set(texts) == {"t0 t1 t2 t3 t4 t5 t6 t7 t8 t9 "}
        assert upstream.started == len(names)

    async def test_what_is_no_longer_kept_is_410_on_both(self, pair: Pair) -> None:
        one, other = await pair(chat_retention_seconds=1)
        async with events(
            one.url, "/streaming/sse/chat", body=question("ten-tokens", request_id="r-4")
        ) as stream:
            await stream.rest()
        async with http() as client:
            for server in (one, other):
                async with asyncio.timeout(2 * UNIT):
                    while True:
                        reply = await client.get(f"{server.url}/streaming/sse/chat/r-4")
                        if reply.status_code != 200:
                            break
                        await asyncio.sleep(0.2)
                assert reply.status_code == 410

    async def test_what_is_asked_for_there_again_and_again_is_kept_no_longer(
        self, pair: Pair
    ) -> None:
        one, other = await pair(chat_retention_seconds=1)
        async with events(
            one.url, "/streaming/sse/chat", body=question("ten-tokens", request_id="r-4")
        ) as stream:
            await stream.rest()
        async with http(other.url) as client, asyncio.timeout(UNIT):
            assert (await client.get("/streaming/sse/chat/r-4")).status_code == 200
            while (reply := await client.get("/streaming/sse/chat/r-4")).status_code == 200:
                await asyncio.sleep(0.05)
        assert reply.status_code == 410

    async def test_a_viewer_there_keeps_an_answer_here_alive(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        gate = gated(upstream)
        one, other = await pair(resume_grace=0.3)
        async with websocket(other.url) as second:
            async with websocket(one.url) as first:
                await first.start("r-5", model="gated")
                gate.release(1)
                await first.receive()
                await second.resume("r-5")
                await second.receive()
                answer = one.context.answers.running[0]
                await eventually(lambda: len(answer.channel.viewers()) == 2)
            await eventually(lambda: len(answer.channel.viewers()) == 1)
            await asyncio.sleep(0.6)
            gate.open()
            assert (await second.answer())[-1]["data"]["finish_reason"] == "stop"

    async def test_when_the_last_viewer_there_leaves_the_answer_here_is_abandoned(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        gate = gated(upstream)
        one, other = await pair(resume_grace=0.2)
        async with websocket(one.url) as first:
            await first.start("r-6", model="gated")
            gate.release(1)
            await first.receive()
            async with websocket(other.url) as second:
                await second.resume("r-6")
                await second.receive()
        generation = await upstream.generation()
        await asyncio.wait_for(generation.closed.wait(), UNIT)

    async def test_commands_behind_one_that_waits_keep_their_order(self, pair: Pair) -> None:
        one, _ = await pair()
        async with websocket(one.url) as socket:
            for number in range(5):
                await socket.start(f"o-{number}", model="ten-tokens")
                await socket.cancel(f"o-{number}")
            ends: list[str] = []
            while len(ends) < 5:
                message = await socket.receive()
                assert "error" not in message["data"] or is_end(message)
                if is_end(message):
                    ends.append(message["request_id"])
        assert sorted(ends) == [f"o-{number}" for number in range(5)]


class TestTheStore:
    async def test_a_store_that_loses_everything_is_written_again(
        self, pair: Pair, upstream: FakeUpstream, store: RealStore
    ) -> None:
        gate = gated(upstream)
        one, other = await pair()
        async with websocket(one.url) as first, websocket(other.url) as second:
            gate.release(3)
            before = await both_see(first, second, "s-1", 3)
            await store.client.flushall()
            gate.open()
            await first.answer()
            after = await second.answer()
            assert numbers(before + after) == list(range(1, len(before + after) + 1))

    async def test_a_store_that_restarts_without_data_loses_no_token(
        self, pair: Pair, upstream: FakeUpstream, store: RealStore
    ) -> None:
        gate = gated(upstream)
        one, other = await pair()
        async with websocket(one.url) as first, websocket(other.url) as second:
            gate.release(3)
            before = await both_see(first, second, "s-2", 3)
            await store.kill()
            gate.release(3)
            await first.until(lambda message: message.get("sequence_id") == 6)
            await store.start()
            gate.open()
            await first.answer()
            after = await second.answer()
            assert numbers(before + after) == list(range(1, len(before + after) + 1))

    async def test_a_store_that_hangs_holds_up_nobody_here(
        self, pair: Pair, store: RealStore
    ) -> None:
        one, _ = await pair()
        store.freeze()
        async with http(one.url) as client:
            reply = await client.post(
                "/v1/chat/completions", json=question("ten-tokens", stream=True)
            )
            assert reply.text.endswith("data: [DONE]\n\n")
            mine = question("ten-tokens", stream=True, request_id="h-1")
            reply = await client.post("/v1/chat/completions", json=mine)
            assert reply.status_code == 503
            assert reply.json()["error"]["code"] == "store_unavailable"
            assert (await client.get("/streaming/sse/chat/nobody")).status_code == 503
        store.thaw()

    async def test_trouble_with_the_store_is_a_component_of_the_status(
        self, pair: Pair, store: RealStore
    ) -> None:
        one, _ = await pair()

        def state() -> str | None:
            return one.context.topics.components().get("cluster", {}).get("state")

        await eventually(lambda: state() == "up")
        await store.kill()
        await eventually(lambda: state() == "down")
        await store.start()
        await eventually(lambda: state() == "up", 2 * UNIT)


class TestLimitsAndTickets:
    KEYS: ClassVar = [key("somebody", "chat", "watch", "alerts", "admin")]
    BEARER: ClassVar = bearer("somebody")

    async def test_a_ticket_of_one_process_is_good_once_on_the_other(self, pair: Pair) -> None:
        one, other = await pair(api_keys=self.KEYS)
        async with http() as client:
            reply = await client.post(f"{one.url}/streaming/tickets", headers=self.BEARER)
            ticket = reply.json()["ticket"]
            used = [
                (await client.get(f"{url}/streaming/status?ticket={ticket}")).status_code
                for url in (other.url, one.url, other.url)
            ]
        assert used == [200, 401, 401]

    async def test_tickets_of_one_process_work_while_the_store_is_down(
        self, pair: Pair, store: RealStore
    ) -> None:
        one, _ = await pair(api_keys=self.KEYS)
        await store.kill()
        async with http(one.url) as client:
            reply = await client.post("/streaming/tickets", headers=self.BEARER)
            ticket = reply.json()["ticket"]
            assert (await client.get(f"/streaming/status?ticket={ticket}")).status_code == 200
        await store.start()

    async def test_the_answers_of_a_key_are_counted_together(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        gate = gated(upstream)
        one, other = await pair(api_keys=self.KEYS, answers_per_key=2)
        async with http(timeout=3 * UNIT) as client:

            async def ask(url: str) -> httpx.Response:
                body = question("gated", stream=True)
                return await client.post(
                    f"{url}/v1/chat/completions", json=body, headers=self.BEARER
                )

            running = [asyncio.create_task(ask(url)) for url in (one.url, other.url)]
            await upstream.until(lambda: upstream.started == 2)
            for url in (one.url, other.url):
                assert (await ask(url)).status_code == 429
            gate.open()
            for task in running:
                assert (await task).text.endswith("data: [DONE]\n\n")
            async with asyncio.timeout(UNIT):
                while (await ask(one.url)).status_code != 200:
                    await asyncio.sleep(0.05)

    async def test_an_idempotency_key_names_one_question_everywhere(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        servers = await pair()
        async with http(timeout=3 * UNIT) as client:

            async def ask(url: str, key: str, text: str = "Hello") -> httpx.Response:
                body = question("ten-tokens", messages=[{"role": "user", "content": text}])
                return await client.post(
                    f"{url}/v1/chat/completions", json=body, headers={"Idempotency-Key": key}
                )

            asked = [ask(server.url, f"k-{n}") for n in range(5) for server in servers * 2]
            replies = await asyncio.gather(*asked)
            assert {reply.status_code for reply in replies} == {200}
            assert upstream.started == 5
            assert (await ask(servers[1].url, "k-0", "Something else")).status_code == 422
            assert (await ask(servers[0].url, "k-9", "Something else")).status_code == 200

    @pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k-1"}], ids=["", "with a key"])
    async def test_a_response_waits_for_the_store_under_one_id(
        self, pair: Pair, upstream: FakeUpstream, key: dict[str, str]
    ) -> None:
        one, other = await pair(api_keys=self.KEYS, answers_per_key=2)
        async with http(timeout=2 * UNIT) as client:
            client.headers.update(self.BEARER | key)
            for server in (one, other):
                body = {"model": "ten-tokens", "input": "Hello"}
                reply = await client.post(f"{server.url}/v1/responses", json=body)
                assert reply.json()["status"] == "completed"
        assert upstream.started == (1 if key else 2)

    async def test_a_response_that_waits_for_its_lane_waits_for_the_store_too(
        self, pair: Pair, upstream: FakeUpstream
    ) -> None:
        """The one that is continued was made by another process."""
        one, other = await pair()
        async with http(one.url, timeout=2 * UNIT) as client:
            body = {"model": "ten-tokens", "input": "Hello"}
            made = (await client.post("/v1/responses", json=body)).json()
        address = other.url.replace("http", "ws", 1) + "/v1/responses"
        async with websockets.connect(address, proxy=None) as socket:
            for previous in (None, made["id"]):
                create = body | {"type": "response.create", "previous_response_id": previous}
                await socket.send(json.dumps(create))
            ended: list[dict[str, object]] = []
            async with asyncio.timeout(2 * UNIT):
                while len(ended) < 2:
                    event = json.loads(await socket.recv())
                    if event["type"] == "response.completed":
                        ended.append(event["response"])
        assert [each["previous_response_id"] for each in ended] == [None, made["id"]]
        assert upstream.started == 3


class TestAlerts:
    async def test_what_one_webhook_is_sent_the_other_process_shows_too(self, pair: Pair) -> None:
        one, other = await pair()
        async with websocket(other.url) as socket:
            await socket.subscribe("alert")
            await fire(one.url, "DiskFull")
            fired = await socket.until(lambda message: message["data"].get("event") == "firing")
            assert name_of(fired[-1]) == "DiskFull"
            await fire(other.url, "DiskFull", status="resolved")
            over = await socket.until(lambda message: message["data"].get("event") == "resolved")
            assert name_of(over[-1]) == "DiskFull"

    async def test_a_process_that_starts_later_knows_the_alerts(
        self, pair: Pair, start_server: StartServer, store: RealStore
    ) -> None:
        one, _ = await pair()
        await fire(one.url, "DiskFull")
        late = await start_server(cluster_url=store.url)
        await eventually(lambda: late.context.topics.alerts.counts()["firing"] == 1)

    async def test_while_the_store_is_down_alertmanager_is_asked_to_say_it_again(
        self, pair: Pair, store: RealStore
    ) -> None:
        one, _ = await pair()
        await store.kill()
        async with http(one.url) as client:
            reply = await client.post("/streaming/alerts", json=webhook("DiskFull"))
        assert reply.status_code == 503
        await store.start()
