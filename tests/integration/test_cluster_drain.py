"""A stop in a cluster: who can come back is sent elsewhere at once, and every answer goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import websockets

from streaming_api.service import StreamingService
from tests.clients import (
    UNIT,
    Events,
    Message,
    content,
    events,
    eventually,
    http,
    is_end,
    question,
    websocket,
)
from tests.conftest import Pair
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.stores import RealStore

WHOLE = "".join(f"t{number} " for number in range(20))


@pytest.fixture
def patient(pair: Pair) -> Pair:
    """Two servers of one service, with time to stop."""

    async def both(**settings: object) -> tuple[StreamingService, StreamingService]:
        return await pair(**{"drain_timeout": 4 * UNIT} | settings)

    return both


def gated(upstream: FakeUpstream, model: str = "gated", *, begun: int = 3) -> Gate:
    gate = upstream.gated(Script(tokens=20), model=model)
    gate.release(begun)
    return gate


def whole(messages: list[Message]) -> bool:
    """Whether each message of a whole answer is there once, in order."""
    numbers = [message["sequence_id"] for message in messages if "cursor" in message]
    end = messages[-1]["data"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert (content(messages), end["finish_reason"]) == (WHOLE, "stop")
    return True


async def lines_of(stack: AsyncExitStack, url: str, body: object) -> AsyncIterator[str]:
    """The lines of an event stream that is asked for."""
    client = await stack.enter_async_context(http(timeout=4 * UNIT))
    reply = await stack.enter_async_context(client.stream("POST", url, json=body))
    assert reply.status_code == 200
    return reply.aiter_lines()


async def read_to(lines: AsyncIterator[str], token: str) -> None:
    while token not in await anext(lines):
        pass


async def test_who_watches_answers_and_topics_is_sent_away_at_once_and_loses_nothing(
    patient: Pair, upstream: FakeUpstream
) -> None:
    gates = [gated(upstream, f"gated-{number}") for number in range(2)]
    one, other = await patient()
    async with AsyncExitStack() as stack:
        topics = await stack.enter_async_context(websocket(one.url))
        await topics.send(message_type="status_update")
        await topics.receive()
        socket = await stack.enter_async_context(websocket(one.url))
        await socket.start("d-1", model="gated-0", on_disconnect="cancel")
        seen = await socket.until(lambda message: message.get("sequence_id") == 3)
        body = question("gated-1", request_id="d-2", on_disconnect="cancel")
        stream: Events = await stack.enter_async_context(
            events(one.url, "/streaming/sse/chat", body=body)
        )
        read = await stream.until(lambda message: message.get("sequence_id") == 3)

        stopping = asyncio.create_task(one.stop())
        read += await stream.rest()
        assert await socket.closed() == 1012
        assert await topics.closed() == 1012
        assert not any(map(is_end, seen + read))

        again = await stack.enter_async_context(websocket(other.url))
        await again.resume("d-1", seen[-1]["sequence_id"])
        last = read[-1]["sequence_id"]
        back = await stack.enter_async_context(
            events(other.url, f"/streaming/sse/chat/d-2?after={last}")
        )
        assert not stopping.done(), "the answers go on where they began"
        for gate in gates:
            gate.open()
        assert whole(seen + await again.answer())
        assert whole(read + await back.rest())
        await stopping
    assert upstream.started == 2


async def test_clients_of_other_wires_are_shown_their_answers_to_the_end(
    patient: Pair, upstream: FakeUpstream
) -> None:
    names = ("openai", "whole", "responses", "ui", "socket")
    gates = {name: gated(upstream, name) for name in names}
    gates["relay"] = gate = Gate()
    gate.release(3)
    upstream.default = Script(tokens=20, gate=gate)
    one, _ = await patient()
    part = [{"type": "text", "text": "Hello"}]
    asked = {
        "openai": ("/v1/chat/completions", question("openai", stream=True)),
        "responses": ("/v1/responses", {"model": "responses", "input": "Hello", "stream": True}),
        "ui": ("/api/chat", {"id": "c-1", "model": "ui",
                             "messages": [{"id": "m", "role": "user", "parts": part}]}),
        "relay": ("/v1/messages", {**question("relay"), "max_tokens": 99, "stream": True}),
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        streams = {
            name: await lines_of(stack, one.url + path, body)
            for name, (path, body) in asked.items()
        }
        client = await stack.enter_async_context(http(one.url, timeout=4 * UNIT))
        completion = asyncio.create_task(
            client.post("/v1/chat/completions", json=question("whole"))
        )
        address = one.url.replace("http", "ws", 1) + "/v1/responses"
        socket = await stack.enter_async_context(websockets.connect(address))
        await socket.send(json.dumps({"type": "response.create", "model": "socket", "input": "H"}))
        while "t2" not in str(await socket.recv()):
            pass
        for lines in streams.values():
            await read_to(lines, "t2")
        await upstream.until(lambda: upstream.started == len(names))

        watching = await stack.enter_async_context(websocket(one.url))
        stopping = asyncio.create_task(one.stop())
        assert await watching.closed() == 1012  # and so are all who come back
        for gate in gates.values():
            gate.open()
        for name, lines in streams.items():
            rest = "\n".join([line async for line in lines])
            last = {"openai": "[DONE]", "responses": "response.completed", "ui": "[DONE]"}
            assert last.get(name, "message_stop") in rest
            assert "t19" in rest
        assert (await completion).json()["choices"][0]["message"]["content"] == WHOLE
        event: Message = {}
        while event.get("type") != "response.completed":
            event = json.loads(await socket.recv())
        assert event["response"]["output"][0]["content"][0]["text"] == WHOLE
        await stopping


async def test_a_viewer_of_another_process_is_sent_away_and_its_answer_goes_on(
    patient: Pair, upstream: FakeUpstream
) -> None:
    """The answer runs on the process that stays; the one that stops has shown it."""
    gate = gated(upstream)
    one, other = await patient()
    async with http(other.url) as client:
        task = asyncio.create_task(
            client.post(
                "/streaming/sse/chat",
                json=question("gated", request_id="d-3", on_disconnect="cancel"),
            )
        )
        await upstream.until(lambda: upstream.started == 1)
        async with websocket(one.url) as socket:
            await socket.resume("d-3", 0)
            seen = await socket.until(lambda message: message.get("sequence_id") == 3)
            task.cancel()
            answer = other.context.answers.running[0]
            await eventually(lambda: len(answer.channel.viewers()) == 1)
            stopping = asyncio.create_task(one.stop())
            assert await socket.closed() == 1012
            await stopping
        await eventually(lambda: not answer.channel.watched)
        async with websocket(other.url) as back:
            await back.resume("d-3", seen[-1]["sequence_id"])
            gate.release(2)
            seen += await back.until(lambda message: message.get("sequence_id") == 5)
    generation = await upstream.generation()
    await asyncio.wait_for(generation.closed.wait(), UNIT)  # this time it has left by itself


async def test_an_answer_that_has_not_begun_is_found_elsewhere(
    patient: Pair, upstream: FakeUpstream
) -> None:
    gate = gated(upstream, begun=0)
    one, other = await patient()
    async with websocket(one.url) as socket:
        await socket.start("d-4", model="gated")
        await upstream.until(lambda: upstream.started == 1)
        stopping = asyncio.create_task(one.stop())
        assert await socket.closed() == 1012
        async with websocket(other.url) as again:
            await again.resume("d-4", 0)
            await eventually(lambda: other.context.cluster.mirrors)  # type: ignore[union-attr]
            gate.open()
            assert whole(await again.answer())
    await stopping


async def test_nobody_is_sent_away_where_no_process_stays(
    patient: Pair, upstream: FakeUpstream
) -> None:
    gate = gated(upstream)
    servers = await patient()
    async with websocket(servers[0].url) as socket:
        await socket.start("d-5", model="gated")
        seen = await socket.until(lambda message: message.get("sequence_id") == 3)
        stopping = [asyncio.create_task(server.stop()) for server in servers]
        await asyncio.wait({stopping[1]})
        gate.open()
        assert whole(seen + await socket.answer())
        await asyncio.wait(stopping)


async def test_nobody_is_sent_away_while_the_store_is_down(
    patient: Pair, upstream: FakeUpstream, store: RealStore
) -> None:
    gate = gated(upstream)
    one, _ = await patient()
    async with websocket(one.url) as socket:
        await socket.start("d-6", model="gated")
        seen = await socket.until(lambda message: message.get("sequence_id") == 3)
        await store.kill()
        stopping = asyncio.create_task(one.stop())
        await eventually(lambda: one.connection_manager.draining)
        gate.open()
        assert whole(seen + await socket.answer())
        await stopping
    await store.start()


async def test_whoever_does_not_come_back_ends_the_answer(
    patient: Pair, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming_api.answers.answer.MOVE_SECONDS", 0.2)
    gated(upstream)
    one, _ = await patient(resume_grace=0)
    async with websocket(one.url) as socket:
        await socket.start("d-7", model="gated", on_disconnect="cancel")
        await socket.until(lambda message: message.get("sequence_id") == 3)
        stopping = asyncio.create_task(one.stop())
        assert await socket.closed() == 1012
        generation = await upstream.generation()
        await asyncio.wait_for(generation.closed.wait(), UNIT)
        await asyncio.wait_for(stopping, 2 * UNIT)
