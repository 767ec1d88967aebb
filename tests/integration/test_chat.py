"""Chat on one socket and on many: who starts, shares, leaves and cancels an answer."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from streaming_api.service import StreamingService
from tests.clients import Message, content, events, eventually, http, is_end, question, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import BEFORE_HEADERS, FakeUpstream, Generation, Script

AT_ONCE = 1.0
"""Seconds within which the upstream's connection must be closed."""
CHAT = "/streaming/websocket/chat"


Begun = Callable[[], Awaitable[None]]
Way = Callable[[StreamingService, Begun], Awaitable[None]]


async def closed_at_once(generation: Generation, since: float) -> None:
    """The upstream's connection is closed within a second of then."""
    closed = await generation.wait_closed()
    assert closed - since < AT_ONCE
    assert generation.was_abandoned


class TestAnAnswer:
    async def test_an_answer_is_the_upstreams_chunks_unchanged_and_one_end(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        async with websocket(server.url, CHAT) as socket:
            await socket.start("r-1", temperature=0.5, seed=7)
            seen = await socket.answer()
        assert content(seen) == upstream.default.text()
        assert {message["stream_id"] for message in seen} == {"chat/r-1"}
        assert {message["request_id"] for message in seen} == {"r-1"}
        assert [message["sequence_id"] for message in seen] == list(range(1, len(seen) + 1))
        assert all(m["data"]["object"] == "chat.completion.chunk" for m in seen[:-1])
        end = seen[-1]["data"]
        assert end["finish_reason"] == "stop"
        assert end["usage"] == {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
        assert end["usage_source"] == "reported"
        assert "error" not in end
        assert end["timing"]["chunks"] == len(seen) - 1
        assert 0 <= end["timing"]["time_to_first_chunk_ms"] <= end["timing"]["total_ms"]
        sent = upstream.generations[0].request.json()
        assert (sent["temperature"], sent["seed"], sent["model"]) == (0.5, 7, "fake")
        assert not {"message_type", "request_id", "model_id", "action"} & sent.keys()

    async def test_an_answer_of_a_command_without_a_request_id_gets_one(
        self, server: StreamingService
    ) -> None:
        async with websocket(server.url, CHAT) as socket:
            await socket.start()
            first = await socket.receive()
            second = await socket.receive()
        assert first["request_id"] == second["request_id"]
        assert first["stream_id"] == f"chat/{first['request_id']}"

    async def test_an_answer_comes_first_on_the_chat_path_whatever_model_is_asked_for(
        self, server: StreamingService
    ) -> None:
        async with websocket(server.url, CHAT) as socket:
            hello = [{"role": "user", "content": "Hello"}]
            await socket.send(
                message_type="chat_completion", model_id="mixtral-8x7b", messages=hello
            )
            first = await socket.receive()
        assert first["message_type"] == "chat_completion"
        assert first["sequence_id"] == 1
        assert first["data"]["model"] == "mixtral-8x7b"

    async def test_an_answer_that_is_not_streamed_is_one_whole_completion_and_the_end(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        async with websocket(server.url, CHAT) as socket:
            await socket.start("r-1", stream=False)
            whole, end = await socket.answer()
        assert whole["data"]["object"] == "chat.completion"
        assert whole["data"]["choices"][0]["message"]["content"] == upstream.default.text()
        assert end["data"]["finish_reason"] == "stop"
        assert end["data"]["usage_source"] == "reported"
        assert upstream.generations[0].request.json()["stream"] is False

    async def test_an_answer_shares_its_socket_with_others(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=20, rate=100)
        names = [f"r-{number}" for number in range(8)]
        seen: dict[str, list[Message]] = {name: [] for name in names}
        order = []
        async with websocket(server.url, CHAT) as socket:
            for name in names:
                await socket.start(name)
            while sum(bool(found) and is_end(found[-1]) for found in seen.values()) < len(names):
                message = await socket.receive()
                seen[message["request_id"]].append(message)
                order.append(message["request_id"])
        for found in seen.values():
            assert content(found) == upstream.default.text()
            assert [m["sequence_id"] for m in found] == list(range(1, len(found) + 1))
        changes = sum(a != b for a, b in itertools.pairwise(order))
        assert changes > 2 * len(names)  # they were interleaved

    async def test_an_answer_goes_with_topics_on_one_socket(self, server: StreamingService) -> None:
        async with websocket(server.url) as socket:
            await socket.subscribe("status_update")
            await socket.start("r-1")
            seen = await socket.answer()
        answer = [message for message in seen if message["message_type"] == "chat_completion"]
        assert [m["sequence_id"] for m in answer] == list(range(1, len(answer) + 1))

    async def test_an_answer_of_a_model_that_stops_in_its_own_way_says_so(
        self, server: StreamingService
    ) -> None:
        async with websocket(server.url, CHAT) as socket:
            await socket.start("r-1", model="tool-calls")
            assert (await socket.answer())[-1]["data"]["finish_reason"] == "tool_calls"

    async def test_an_answer_takes_the_clients_authorization_to_the_gateway(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        headers = {"Authorization": "Bearer sk-client"}
        async with websocket(server.url, CHAT, additional_headers=headers) as socket:
            await socket.start("r-1")
            await socket.answer()
        async with events(
            server.url, "/streaming/sse/chat", body=question(), headers=headers
        ) as stream:
            await stream.rest()
        sent = [generation.request.headers for generation in upstream.generations]
        assert [found["authorization"] for found in sent] == ["Bearer sk-client"] * 2

    async def test_an_answer_of_a_client_without_one_takes_the_configured_key(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        upstream.api_key = "sk-gateway"
        server = await start_server(api_gateway_endpoint=upstream.url, gateway_api_key="sk-gateway")
        async with websocket(server.url, CHAT) as socket:
            await socket.start("r-1")
            assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"


class TestARequestId:
    async def test_a_request_id_that_is_known_attaches_to_its_answer(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        """Two sockets and an event stream, one generation, everybody gets all of it."""
        gate = upstream.gated()
        async with websocket(server.url, CHAT) as first, websocket(server.url, CHAT) as second:
            await first.start("r-1")
            gate.release(4)
            begun = await first.until(lambda message: message["sequence_id"] == 5)
            await second.start("r-1")
            async with events(
                server.url, "/streaming/sse/chat", body=question(request_id="r-1")
            ) as third:
                assert (await third.receive())["sequence_id"] == 1
                gate.open()
                seen = begun + await first.answer()
                assert await second.answer() == seen
                assert await third.rest() == seen[1:]
        assert content(seen) == upstream.default.text()
        assert len(upstream.generations) == 1

    async def test_a_request_id_that_is_sent_twice_at_once_starts_one_generation(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        async with AsyncExitStack() as stack:
            sockets = [
                await stack.enter_async_context(websocket(server.url, CHAT)) for _ in range(5)
            ]
            await asyncio.gather(*(socket.start("r-1") for socket in sockets))
            answers = await asyncio.gather(*(socket.answer() for socket in sockets))
        assert all(answer == answers[0] for answer in answers)
        assert len(upstream.generations) == 1

    async def test_a_request_id_that_is_repeated_on_the_socket_that_watches_doubles_nothing(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated()
        async with websocket(server.url, CHAT) as socket:
            await socket.start("r-1")
            gate.release(1)
            begun = await socket.until(lambda message: message["sequence_id"] == 2)
            await socket.start("r-1")
            gate.open()
            seen = begun + await socket.answer()
        assert [m["sequence_id"] for m in seen] == list(range(1, len(seen) + 1))
        assert len(upstream.generations) == 1

    async def test_a_request_id_of_a_finished_answer_shows_it_again_whatever_else_is_said(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        async with websocket(server.url, CHAT) as socket:
            await socket.start("r-1")
            seen = await socket.answer()
            await socket.start("r-1", model="ten-tokens", temperature=2)
            assert await socket.answer() == seen
        assert len(upstream.generations) == 1


async def leave_websocket(server: StreamingService, on_begun: Begun) -> None:
    async with websocket(server.url) as socket:
        await socket.start("r-1", on_disconnect="cancel")
        await on_begun()


async def break_websocket(server: StreamingService, on_begun: Begun) -> None:
    async with websocket(server.url) as socket:
        await socket.start("r-1", on_disconnect="cancel")
        await on_begun()
        socket.connection.transport.abort()


async def leave_sse(server: StreamingService, on_begun: Begun) -> None:
    body = question(request_id="r-1", on_disconnect="cancel")
    async with events(server.url, "/streaming/sse/chat", body=body):
        await on_begun()


async def leave_openai(server: StreamingService, on_begun: Begun) -> None:
    await leave_post(server, on_begun, stream=True)


async def leave_whole(server: StreamingService, on_begun: Begun) -> None:
    await leave_post(server, on_begun, stream=False)


async def leave_post(server: StreamingService, on_begun: Begun, *, stream: bool) -> None:
    async with http(server.url) as client:
        asked = asyncio.create_task(
            client.post("/v1/chat/completions", json=question(stream=stream))
        )
        await on_begun()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


async def cancel_command(server: StreamingService, on_begun: Begun) -> None:
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        await on_begun()
        await socket.cancel("r-1")
        assert (await socket.answer())[-1]["data"]["finish_reason"] == "cancelled"


async def cancel_from_elsewhere(server: StreamingService, on_begun: Begun) -> None:
    async with websocket(server.url) as first, websocket(server.url) as second:
        await first.start("r-1")
        await on_begun()
        await second.cancel("r-1")
        assert (await first.answer())[-1]["data"]["finish_reason"] == "cancelled"


async def delete(server: StreamingService, on_begun: Begun) -> None:
    body = question(request_id="r-1")
    async with (
        events(server.url, "/streaming/sse/chat", body=body) as stream,
        http(server.url) as client,
    ):
        await on_begun()
        assert (await client.delete("/streaming/chat/r-1")).status_code == 204
        assert (await stream.rest())[-1]["data"]["finish_reason"] == "cancelled"


WAYS = [
    leave_websocket, break_websocket, leave_sse, leave_openai, leave_whole,
    cancel_command, cancel_from_elsewhere, delete,
]  # fmt: skip


class TestAClientThatLeavesOrCancels:
    @pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
    @pytest.mark.parametrize("when", ["before the head", "before the first token", "midway"])
    async def test_a_client_that_leaves_or_cancels_frees_the_upstream_within_a_second(
        self, way: Way, when: str, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated(Script(role=False))
        if when == "before the head":
            upstream.default = Script(hang_after=BEFORE_HEADERS)
        begun: list[Generation] = []

        async def on_begun() -> None:
            begun.append(await upstream.generation())
            if when == "midway":
                gate.release(3)
                await upstream.until(lambda: begun[0].sent == 3)

        await way(server, on_begun)
        left = time.monotonic()
        await closed_at_once(begun[0], left)
        await eventually(lambda: not server.context.answers.running)

    async def test_leaving_while_the_upstream_is_still_connecting_leaves_nothing_behind(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        """Start and cancel in one segment: the answer's task has not even run."""
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            await socket.cancel("r-1")
            end = (await socket.answer())[-1]
        assert end["data"]["finish_reason"] == "cancelled"
        await eventually(lambda: upstream.running == 0)
        assert server.context.answers.queue.busy == 0

    async def test_a_client_may_cancel_as_often_as_it_likes(self, server: StreamingService) -> None:
        async with websocket(server.url) as socket, http(server.url) as client:
            await socket.start("r-1", model="hang-midway")
            await socket.receive()
            for _ in range(2):
                await socket.cancel("r-1")
                reply = await client.delete("/streaming/chat/r-1")
                assert (reply.status_code, reply.content) == (204, b"")
            ends = [message for message in await socket.answer() if is_end(message)]
            assert len(ends) == 1
            assert ends[0]["data"]["usage_source"] == "estimated"
            await socket.cancel("r-1")  # also when it has long ended: nothing to say
            await socket.start("r-2")
            assert {m["request_id"] for m in await socket.answer()} == {"r-2"}

    async def test_a_client_finds_no_answer_of_a_name_that_nobody_started(
        self, server: StreamingService
    ) -> None:
        async with websocket(server.url) as socket:
            await socket.cancel("nobody")
            assert (await socket.receive())["data"]["error"]["code"] == "stream_not_found"


class TestOnDisconnect:
    @pytest.mark.parametrize("when", ["before the first token", "midway"])
    async def test_on_disconnect_cancel_ends_the_answer_when_its_last_viewer_leaves(
        self, when: str, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(hang_after=0 if when.startswith("before") else 3, role=False)
        async with websocket(server.url) as first:
            await first.start("r-1", on_disconnect="cancel")
            generation = await upstream.generation()
            async with websocket(server.url) as second:
                await second.start("r-1")
                await eventually(lambda: _watchers(server) == 2)
            await eventually(lambda: _watchers(server) == 1)
            assert generation.is_running
        await closed_at_once(generation, time.monotonic())
        async with websocket(server.url) as third:
            await third.start("r-1")
            assert (await third.answer())[-1]["data"]["finish_reason"] == "cancelled"

    @pytest.mark.parametrize("given", [{}, {"on_disconnect": "grace"}])
    async def test_the_grace_waits_for_somebody_to_return_and_then_cancels(
        self, given: dict[str, str], start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, resume_grace=0.3)
        upstream.default = Script(hang_after=3)
        async with websocket(server.url) as socket:
            await socket.start("r-1", **given)
            generation = await upstream.generation()
        left = time.monotonic()
        closed = await generation.wait_closed()
        assert 0.25 < closed - left < 0.3 + AT_ONCE
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            assert (await socket.answer())[-1]["data"]["finish_reason"] == "abandoned"

    async def test_the_grace_ends_when_somebody_returns_in_time(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, resume_grace=0.3)
        gate = upstream.gated()
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            generation = await upstream.generation()
        await eventually(lambda: _watchers(server) == 0)
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            await eventually(lambda: _watchers(server) == 1)
            await asyncio.sleep(0.6)  # twice the grace: nothing may happen in it
            assert generation.is_running
            gate.open()
            assert content(await socket.answer()) == upstream.default.text()

    async def test_on_disconnect_finish_goes_on_without_anybody_and_is_kept(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, resume_grace=0)
        gate = upstream.gated()
        async with websocket(server.url) as socket:
            await socket.start("r-1", on_disconnect="finish")
            generation = await upstream.generation()
        await eventually(lambda: _watchers(server) == 0)
        gate.open()
        await upstream.until(lambda: generation.finished_at is not None)
        async with events(server.url, "/streaming/sse/chat/r-1") as stream:
            seen = await stream.rest()
        assert content(seen) == upstream.default.text()
        assert seen[-1]["data"]["finish_reason"] == "stop"

    @pytest.mark.parametrize("body", [{"on_disconnect": "finish"}, {"on_disconnect": "cancel"}])
    async def test_on_disconnect_holds_over_sse_too(
        self, body: dict[str, str], start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url)
        gate = upstream.gated()
        asked = question(request_id="r-1", **body)
        async with events(server.url, "/streaming/sse/chat", body=asked):
            generation = await upstream.generation()
        await eventually(lambda: _watchers(server) == 0)
        gate.open()
        await upstream.until(lambda: not generation.is_running)
        assert generation.was_abandoned == (body["on_disconnect"] == "cancel")


def _watchers(server: StreamingService) -> int:
    return sum(len(answer.channel.viewers()) for answer in server.context.answers.running)


class TestTheQueue:
    async def test_the_queue_reports_positions_and_serves_first_come_first_served(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, pool_size=1, max_queued=3)
        gate = upstream.gated()
        names = [f"r-{number}" for number in range(4)]
        async with websocket(server.url, CHAT) as socket:
            await socket.start("r-0")
            await upstream.generation()
            for position, name in enumerate(names[1:], 1):
                await socket.start(name)
                notice = (await socket.until(lambda m: m["data"].get("event") == "queued"))[-1]
                assert (notice["request_id"], notice["data"]["position"]) == (name, position)
                assert "sequence_id" not in notice
            await socket.start("r-4")
            refused = (await socket.until(lambda m: "error" in m["data"]))[-1]
            assert refused["request_id"] == "r-4"
            assert refused["data"]["error"]["code"] == "queue_full"
            gate.open()
            ended: list[str] = []
            positions: list[tuple[str, int]] = []
            while len(ended) < len(names):
                message = await socket.receive()
                if is_end(message):
                    ended.append(message["request_id"])
                elif message["data"].get("event") == "queued":
                    positions.append((message["request_id"], message["data"]["position"]))
        assert ended == names
        assert positions == [("r-2", 1), ("r-3", 2), ("r-3", 1)]
        assert upstream.generations[-1].number == 3

    async def test_the_queue_refuses_what_does_not_fit_also_when_all_come_in_one_segment(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, pool_size=1, max_queued=2)
        upstream.default = Script(hang_after=0)
        async with websocket(server.url, CHAT) as socket:
            for number in range(10):
                await socket.start(f"r-{number}")
            refused: set[str] = set()
            while len(refused) < 7:
                message = await socket.receive()
                if "error" in message["data"]:
                    refused.add(message["request_id"])
            assert refused == {f"r-{number}" for number in range(3, 10)}
            assert server.context.answers.queued == 2

    async def test_the_queue_is_left_by_whoever_cancels_or_goes_and_the_others_move_up(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, pool_size=1)
        gate = upstream.gated()
        async with websocket(server.url, CHAT) as socket:
            await socket.start("r-0")
            await upstream.generation()
            async with websocket(server.url, CHAT) as leaver:
                await leaver.start("r-1", on_disconnect="cancel")
                await leaver.until(lambda m: m["data"].get("event") == "queued")
                await socket.start("r-2")
                await socket.start("r-3")
                await socket.until(lambda m: m["data"].get("position") == 3)
            moved = await socket.until(lambda m: m["request_id"] == "r-3" and not is_end(m))
            assert moved[-1]["data"] == {"event": "queued", "position": 2}
            await socket.cancel("r-2")
            up, ended = await socket.answer()
            assert (up["request_id"], up["data"].get("position")) == ("r-3", 1)
            assert ended["request_id"] == "r-2"
            assert ended["data"]["finish_reason"] == "cancelled"
            assert ended["data"]["usage"] is None
            gate.open()
            await socket.answer()
            assert (await socket.answer())[-1]["request_id"] == "r-3"
        assert [generation.number for generation in upstream.generations] == [0, 1]

    async def test_the_queue_has_nothing_to_say_of_an_answer_that_ended_in_it(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, pool_size=1)
        upstream.default = Script(hang_after=0, role=False)
        async with websocket(server.url, CHAT) as socket:
            await socket.start("r-0")
            await socket.start("r-1")
            await socket.until(lambda m: m["data"].get("event") == "queued")
            await socket.cancel("r-1")
            await socket.answer()
            await socket.start("r-1")
            await socket.cancel("nobody")
            again = await socket.until(lambda m: "error" in m["data"])
        assert [is_end(message) for message in again] == [True, False]

    async def test_the_queue_reports_positions_over_sse_too(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, pool_size=1, max_queued=1)
        gate = upstream.gated()
        async with websocket(server.url, CHAT) as socket, http(server.url) as client:
            await socket.start("r-0")
            await upstream.generation()
            async with events(server.url, "/streaming/sse/chat", body=question()) as stream:
                assert (await stream.receive())["data"] == {"event": "queued", "position": 1}
                for path in ("/streaming/sse/chat", "/v1/chat/completions"):
                    reply = await client.post(path, json=question())
                    assert reply.status_code == 503
                    assert reply.json()["error"]["code"] == "queue_full"
                    assert int(reply.headers["Retry-After"]) >= 1
                gate.open()
                assert content(await stream.rest()) == upstream.default.text()


class TestManySockets:
    async def test_many_sockets_each_get_their_own_answer(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        async def one(number: int) -> None:
            async with websocket(server.url, CHAT) as socket:
                await socket.start(f"r-{number}")
                seen = await socket.answer()
            assert {message["request_id"] for message in seen} == {f"r-{number}"}
            assert content(seen) == upstream.default.text()

        await asyncio.gather(*(one(number) for number in range(50)))
        assert len(upstream.generations) == 50
        assert upstream.running == 0
        await eventually(lambda: server.connection_manager.open["websocket"] == 0)


async def test_numbers_reach_the_upstream_as_they_were_written(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    parameters = '"messages": [{"role":"user","content":"Hi"}],"seed":36893488147419103232,"n":1.0'
    async with websocket(server.url) as socket:
        text = f'{{"message_type":"chat_completion","model":"fake",{parameters},"request_id":"r"}}'
        await socket.connection.send(text)
        await socket.answer()
    assert upstream.generations[0].request.body.decode().startswith(f"{{{parameters},")
