"""The Responses API over WebSocket: the `openai` package's `responses.connect()`, and raw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import openai
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from streaming_api.connections.turns import Turns
from streaming_api.service import StreamingService
from streaming_api.web.responses_socket import ResponsesSocket
from tests.clients import UNIT, eventually
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream
from tests.raw import masked_frame, raw
from tests.responses import text_of, types, valid_event

Json = dict[str, Any]
TEN = "".join(f"t{number} " for number in range(10))


@asynccontextmanager
async def connected(server: StreamingService, query: str = "") -> AsyncIterator[ClientConnection]:
    url = f"{server.url.replace('http', 'ws', 1)}/v1/responses{query}"
    async with websockets.connect(url, max_size=None) as connection:
        yield connection


async def create(socket: ClientConnection, model: str = "fake", **fields: object) -> None:
    event = {"type": "response.create", "model": model, "input": "Hello", **fields}
    await socket.send(json.dumps(event))


async def receive(socket: ClientConnection) -> Json:
    async with asyncio.timeout(UNIT):
        event: Json = json.loads(await socket.recv())
    if event["type"] != "error":
        valid_event(event)
    return event


def ended(event: Json) -> bool:
    return event["type"] in {"response.completed", "response.incomplete", "response.failed"}


async def rest(socket: ClientConnection) -> list[Json]:
    """The events up to the last of a response."""
    events = [await receive(socket)]
    while not ended(events[-1]):
        events.append(await receive(socket))
    return events


class TestTheSdk:
    async def test_the_sdk_connects_and_goes_on_from_the_last_response(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-client")
        previous = None
        async with client.responses.connect() as connection:
            for _ in range(2):
                await connection.response.create(
                    model="fake", input="Hello", store=False, previous_response_id=previous
                )
                text = ""
                async for event in connection:
                    if event.type == "response.output_text.delta":
                        text += event.delta
                    if event.type == "response.completed":
                        previous = event.response.id
                        break
                assert text == TEN
        asked: Json = upstream.generations[1].request.json()
        assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]


class TestLanes:
    async def test_responses_of_one_lane_come_one_after_the_other(
        self, server: StreamingService
    ) -> None:
        async with connected(server) as socket:
            for _ in range(3):
                await create(socket)
            for _ in range(3):
                events = await rest(socket)
                assert text_of(events) == TEN
                assert [e["sequence_number"] for e in events] == list(range(len(events)))

    async def test_lanes_run_side_by_side(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated(model="gated")
        async with connected(server) as socket:
            await create(socket, "gated", stream_id="a")
            await create(socket, "fake", stream_id="b")
            events = [await receive(socket)]
            while not (ended(events[-1]) and events[-1]["stream_id"] == "b"):
                events.append(await receive(socket))
            gate.open()
            events += await rest(socket)
        for lane in "ab":
            assert text_of([e for e in events if e["stream_id"] == lane]) == TEN

    async def test_a_bad_request_does_not_hold_up_those_that_wait_behind_it(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated(model="gated")
        async with connected(server) as socket:
            await create(socket, "gated")
            await create(socket, tools="none")
            await create(socket, previous_response_id="resp_none")
            await create(socket)
            gate.open()
            assert text_of(await rest(socket)) == TEN
            params = [(await receive(socket))["error"]["param"] for _ in range(2)]
            assert params == ["tools", "previous_response_id"]
            assert text_of(await rest(socket)) == TEN

    async def test_each_lane_goes_on_from_its_own_last_turn_though_nothing_is_stored(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        last: dict[str, str | None] = dict.fromkeys("abc")
        async with connected(server) as socket:
            for _ in range(2):
                for lane, previous in last.items():
                    await create(socket, stream_id=lane, store=False, previous_response_id=previous)
                ends = 0
                while ends < len(last):
                    event = await receive(socket)
                    if ended(event):
                        ends += 1
                        assert event["type"] == "response.completed"
                        last[event["stream_id"]] = event["response"]["id"]
        asked: list[Json] = [each.request.json() for each in upstream.generations]
        assert [len(each["messages"]) for each in asked] == [1, 1, 1, 3, 3, 3]


class TestPrepared:
    """``generate: false`` prepares a turn: an id to go on from, and nothing is generated."""

    async def test_a_prepared_turn_is_gone_on_from_again_and_again(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        async with connected(server) as socket:
            await create(socket, generate=False, store=False, input="You are a pirate.")
            events = await rest(socket)
            assert types(events) == ["created", "in_progress", "completed"]
            assert [event["sequence_number"] for event in events] == [0, 1, 2]
            prepared = events[-1]["response"]
            assert prepared["output"] == []
            assert prepared["usage"]["total_tokens"] == 0
            for _ in range(2):
                await create(socket, previous_response_id=prepared["id"], input="Hello")
                assert text_of(await rest(socket)) == TEN
        asked: list[Json] = [each.request.json() for each in upstream.generations]
        assert [[m["content"] for m in each["messages"]] for each in asked] == [
            ["You are a pirate.", "Hello"]
        ] * 2

    async def test_a_prepared_turn_needs_no_input_and_neither_does_the_turn_after_it(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        async with connected(server) as socket:
            await create(socket, generate=False, input=[])
            first = (await rest(socket))[-1]["response"]["id"]
            await create(socket, generate=False, input="Hello", previous_response_id=first)
            second = (await rest(socket))[-1]["response"]["id"]
            await create(socket, input=[], previous_response_id=second)
            assert text_of(await rest(socket)) == TEN
            await create(socket, input=[], previous_response_id=first)
            assert (await receive(socket))["error"]["param"] == "input"
        assert upstream.generations[0].request.json()["messages"] == [
            {"role": "user", "content": "Hello"}
        ]

    async def test_a_prepared_turn_waits_for_its_lane_and_is_named_by_it(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated(model="gated")
        async with connected(server) as socket:
            await create(socket, "gated", stream_id="a")
            await create(socket, stream_id="a", generate=False)
            await create(socket, stream_id="a")
            await create(socket, stream_id="b", generate=False)
            events = [await receive(socket)]
            while not ended(events[-1]):
                events.append(await receive(socket))
            assert events[-1]["stream_id"] == "b"
            gate.open()
            for text in (TEN, "", TEN):
                events = await rest(socket)
                assert text_of(events) == text
                assert {event["stream_id"] for event in events} == {"a"}

    async def test_a_prepared_turn_takes_memory_that_is_counted_and_bounded(
        self, server: StreamingService
    ) -> None:
        size = 50_000
        budget = server.context.manager.budget
        async with connected(server) as socket:
            for _ in range(12):
                await create(socket, generate=False, input="x" * size)
                await rest(socket)
            fields = 15_000  # of a response, and its events
            assert 8 * size <= budget.input.bytes <= 8 * (size + fields)
        await eventually(lambda: budget.input.bytes == 0)

    async def test_a_prepared_turn_is_known_on_its_connection_alone(
        self, server: StreamingService
    ) -> None:
        async with connected(server) as socket, connected(server) as other:
            await create(socket, generate=False)
            prepared = (await rest(socket))[-1]["response"]["id"]
            await create(other, previous_response_id=prepared)
            error = await receive(other)
            assert error["error"]["code"] == "previous_response_not_found"


class TestHeaders:
    async def test_headers_of_the_handshake_go_along_with_each_question(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        url = f"{server.url.replace('http', 'ws', 1)}/v1/responses"
        sent = {"OpenAI-Organization": "org", "X-Request-Id": "mine", "Cookie": "secret"}
        async with websockets.connect(url, additional_headers=sent) as socket:
            for _ in range(2):
                await create(socket)
                await rest(socket)
        seen = [generation.request.headers for generation in upstream.generations]
        assert [headers["openai-organization"] for headers in seen] == ["org", "org"]
        assert len({headers["x-request-id"] for headers in seen} - {"mine"}) == 2
        assert not any("cookie" in headers for headers in seen)


class TestLargeMessages:
    """An image, or the files that an agent has read, take more than a command of other sockets."""

    async def test_a_message_may_be_as_large_as_a_body(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        budget = server.context.manager.budget
        image = "data:image/png;base64," + "A" * 3_000_000
        content = [{"type": "input_image", "image_url": image}]
        async with connected(server) as socket:
            await create(socket, input=[{"role": "user", "content": content}])
            assert text_of(await rest(socket)) == TEN
        (generation,) = upstream.generations
        body: Any = generation.request.json()
        assert body["messages"][0]["content"][0]["image_url"]["url"] == image
        await eventually(lambda: budget.input.bytes == 0)

    async def test_a_message_waits_for_its_turn_and_is_counted_until_then(
        self, server: StreamingService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turns: list[Callable[[], None]] = []
        size = 500_000
        budget = server.context.manager.budget
        async with connected(server) as socket:
            with monkeypatch.context() as patched:
                patched.setattr(Turns, "later", lambda _, go_on: turns.append(go_on))
                await create(socket, input="x" * size)
                await eventually(lambda: turns)
            assert budget.input.bytes >= size
            await create(socket, "reasoning")
            turns.pop()()
            assert [text_of(await rest(socket)) for _ in range(2)] == [TEN, TEN]
        await eventually(lambda: budget.input.bytes == 0)

    async def test_a_message_may_not_be_larger(self, start_server: StartServer) -> None:
        server = await start_server(body_size_limit=2**19)
        async with connected(server) as socket:
            await create(socket, input="x" * 2**19)
            with pytest.raises(websockets.ConnectionClosedError) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009

    async def test_a_message_that_is_on_its_way_needs_no_pong(
        self, server: StreamingService
    ) -> None:
        event = {"type": "response.create", "model": "fake", "input": "x" * 10_000}
        frame = masked_frame(json.dumps(event).encode())
        async with raw(server.url) as socket:
            await socket.upgrade("/v1/responses")
            (connection,) = server.context.manager.connections.values()
            assert isinstance(connection, ResponsesSocket)
            for end in (3_000, 6_000, 9_000):
                await socket.send(frame[end - 3_000 : end])
                await eventually(partial(lambda sent: connection.unread == sent, end))
                connection.heartbeat(connection.opened + 100)
            await socket.send(frame[9_000:])
            assert b"response.created" in await socket.until(b"response.completed")


class TestResume:
    @pytest.mark.parametrize("by_query", [True, False])
    async def test_a_response_is_resumed_after_a_cut(
        self, server: StreamingService, upstream: FakeUpstream, *, by_query: bool
    ) -> None:
        gate = upstream.gated(model="gated")
        events: list[Json] = []
        async with connected(server) as socket:
            await create(socket, "gated")
            gate.release(3)
            while text_of(events) != "t0 t1 t2 ":
                events.append(await receive(socket))
            socket.transport.abort()
        response_id = events[0]["response"]["id"]
        after = events[-1]["sequence_number"]
        gate.open()
        query = f"?response_id={response_id}&starting_after={after}" if by_query else ""
        async with connected(server, query) as socket:
            if not by_query:
                event = {"type": "response.resume", "response_id": response_id}
                await socket.send(json.dumps(event | {"starting_after": after}))
            events += await rest(socket)
        assert text_of(events) == TEN
        assert [e["sequence_number"] for e in events] == list(range(len(events)))
        assert len(upstream.generations) == 1

    async def test_resuming_what_is_not_there_is_refused(self, server: StreamingService) -> None:
        async with connected(server, "?response_id=resp_none") as socket:
            error = await receive(socket)
            assert (error["status"], error["error"]["code"]) == (404, "response_not_found")
            await create(socket)
            assert text_of(await rest(socket)) == TEN


class TestEvents:
    async def test_a_response_is_cancelled(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        async with connected(server) as socket:
            await create(socket, "endless")
            first = await receive(socket)
            generation = await upstream.generation()
            event = {"type": "response.cancel", "response_id": first["response"]["id"]}
            await socket.send(json.dumps(event))
            last = (await rest(socket))[-1]
            assert last["response"]["status"] == "cancelled"
            await asyncio.wait_for(generation.closed.wait(), UNIT)

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"type": "response.append"}, "type"),
            ({"type": "response.create", "input": "x", "background": True}, "background"),
            ({"type": "response.create", "input": "x", "stream": False}, "stream"),
            ({"type": "response.create", "input": "x", "generate": "no"}, "generate"),
            ({"type": "response.create", "input": "x", "generate": False, "tools": 1}, "tools"),
            ({"type": "response.create", "generate": False, "conversation": "c"}, "conversation"),
            ({"type": "response.create"}, "input"),
            ({"type": "response.create", "input": "x", "stream_id": ""}, "stream_id"),
            ({"type": "response.resume"}, "response_id"),
        ],
    )
    async def test_nonsense_is_refused_and_the_connection_lives_on(
        self, server: StreamingService, fields: Json, param: str
    ) -> None:
        async with connected(server) as socket:
            await socket.send(json.dumps(fields))
            error = await receive(socket)
            assert (error["type"], error["status"]) == ("error", 400)
            assert error["error"]["param"] == param
            await create(socket)
            assert types(await rest(socket))[-1] == "completed"

    async def test_an_upstreams_refusal_is_a_failed_response(
        self, server: StreamingService
    ) -> None:
        async with connected(server) as socket:
            await create(socket, "rate-limited")
            last = (await rest(socket))[-1]
            assert last["response"]["error"]["code"] == "rate_limit_exceeded"
