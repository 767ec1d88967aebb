"""Workers of the real program that die, hang and are replaced: who watched is told the truth."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from tests.clients import (
    UNIT,
    Message,
    both_see,
    content,
    events,
    eventually,
    http,
    is_end,
    question,
    valid,
    websocket,
)
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.two_servers import numbers, rest
from tests.workers import Service, on_both, serving

TOLD_SECONDS = 9.0
_PATIENCE = 110.0
"""Seconds that a slow machine may take for what has no time of its own; a drain has 120."""


@pytest.fixture
async def service(upstream: FakeUpstream) -> AsyncIterator[Service]:
    """Two workers with a private store."""
    async with serving(
        STREAMING_WORKERS="2",
        CONNECTION_POOL_SIZE="300",
        API_GATEWAY_ENDPOINT=upstream.url,
        STREAMING_LOG_LEVEL="WARNING",
    ) as service:
        yield service


async def test_the_death_of_an_owner_is_reported_in_time_and_nothing_is_doubled(
    service: Service, upstream: FakeUpstream
) -> None:
    gate = upstream.gated(Script(tokens=50), model="gated")
    await asyncio.sleep(6.5)  # the store must have been the same for a lease
    async with AsyncExitStack() as stack:
        first, second, owner, _ = await on_both(service, stack)
        gate.release(5)
        before = await both_see(first, second, "k-1", 5)
        os.kill(owner, signal.SIGKILL)
        began = time.monotonic()
        after = await rest(second, 3 * UNIT)
        assert time.monotonic() - began < TOLD_SECONDS
        assert numbers(before + after) == list(range(1, len(before + after) + 1))
        end = after[-1]["data"]
        assert (end["finish_reason"], end["error"]["code"]) == ("incomplete", "server_lost")
        late = await stack.enter_async_context(websocket(service.url))
        await late.resume("k-1", after=9)
        told = await rest(late, UNIT)
        assert [message["data"].get("reason") for message in told[:-1]] == ["lost"]
        assert told[-1]["sequence_id"] == 10


async def test_an_owner_that_hangs_is_sealed_and_does_not_write_when_it_wakes(
    service: Service, upstream: FakeUpstream
) -> None:
    upstream.scripts["slow"] = Script(tokens=2000, rate=20)
    await asyncio.sleep(6.5)  # as above
    async with AsyncExitStack() as stack:
        first, second, owner, _ = await on_both(service, stack)
        await first.start("z-1", model="slow")
        await first.receive()
        await second.resume("z-1")
        await second.receive()
        os.kill(owner, signal.SIGSTOP)
        try:
            after = await rest(second, 3 * UNIT)
        finally:
            os.kill(owner, signal.SIGCONT)
        assert after[-1]["data"]["error"]["code"] == "server_lost"
        end = (await rest(first, 3 * UNIT))[-1]["data"]
        assert end["finish_reason"] == "incomplete"
        assert end["error"]["code"] == "server_lost"


async def test_two_hundred_answers_are_right_on_whichever_worker_is_asked(
    service: Service, upstream: FakeUpstream
) -> None:
    upstream.scripts["paced"] = Script(tokens=20, rate=40)
    expected = "".join(f"t{number} " for number in range(20))

    async def one(number: int) -> None:
        name = f"n-{number}"
        async with events(
            service.url, "/streaming/sse/chat", body=question("paced", request_id=name)
        ) as stream:
            seen = await stream.until(lambda message: message.get("sequence_id") == 5)
        async with events(service.url, f"/streaming/sse/chat/{name}?after=5") as stream:
            rest = await stream.rest()
        assert content(seen + rest) == expected
        told = numbers(seen + rest)
        assert told == list(range(1, len(told) + 1))
        assert rest[-1]["data"]["finish_reason"] == "stop"

    for start in range(0, 200, 40):
        await asyncio.gather(*(one(number) for number in range(start, start + 40)))
    assert upstream.started == 200


async def test_killing_worker_and_store_in_turn_leaves_a_service_that_works(
    service: Service, upstream: FakeUpstream
) -> None:
    upstream.scripts["quick"] = Script(tokens=5)
    for turn in range(4):
        victim = service.store if turn % 2 else service.workers[0]
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: len(service.workers) == 2 and service.store, 4 * UNIT)
        async with http(service.url, timeout=3 * UNIT) as client, asyncio.timeout(4 * UNIT):
            while True:
                body = question("quick", stream=True, request_id=f"q-{turn}-{time.monotonic()}")
                try:
                    reply = await client.post("/v1/chat/completions", json=body)
                except Exception:  # noqa: BLE001, S112 (cut off with its worker)
                    continue
                if reply.status_code == 200 and reply.text.endswith("data: [DONE]\n\n"):
                    break
                await asyncio.sleep(0.1)


async def watch(
    url: str, body: Message | None = None, begun: Callable[[], None] = lambda: None
) -> list[Message]:
    """All that comes on one connection, however long that takes."""
    method = "GET" if body is None else "POST"
    seen: list[Message] = []
    async with (
        http(timeout=_PATIENCE) as client,
        client.stream(method, url, json=body) as reply,
    ):
        async for line in reply.aiter_lines():
            if line.startswith("data: "):
                if not seen:
                    begun()
                seen.append(valid(line[6:]))
    return seen


async def test_a_rolling_restart_with_two_hundred_answers_loses_none(
    service: Service, upstream: FakeUpstream
) -> None:
    """A quarter is watched over OpenAI's wire, which stays; the others come back when sent away.

    Each answer goes on once its viewer is on its way, so it runs for as long as that takes.
    """
    gates = [Gate() for _ in range(200)]
    for number, gate in enumerate(gates):
        upstream.scripts[f"gated-{number}"] = Script(tokens=60, gate=gate)
        gate.release(10)
    expected = "".join(f"t{number} " for number in range(60))
    begun = sent_away = 0

    def begin() -> None:
        nonlocal begun
        begun += 1

    async def stays(number: int) -> None:
        body = question(f"gated-{number}", stream=True)
        text = last = ""
        async with (
            http(timeout=_PATIENCE) as client,
            client.stream("POST", f"{service.url}/v1/chat/completions", json=body) as reply,
        ):
            begin()
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line[6:])["choices"]
                    text += "".join(each["delta"].get("content") or "" for each in choices)
                last = line or last
        assert (text, last) == (expected, "data: [DONE]"), number

    async def comes_back(number: int) -> None:
        nonlocal sent_away
        name = f"roll-{number}"
        body = question(f"gated-{number}", request_id=name, on_disconnect="cancel")
        seen = await watch(f"{service.url}/streaming/sse/chat", body, begin)
        while not is_end(seen[-1]):
            sent_away += 1
            gates[number].open()
            path = f"/streaming/sse/chat/{name}?after={numbers(seen)[-1]}"
            seen += await watch(service.url + path)
        assert content(seen) == expected, (number, seen[-1])
        assert numbers(seen) == list(range(1, len(numbers(seen)) + 1))
        assert seen[-1]["data"]["finish_reason"] == "stop"

    before = set(service.workers)
    async with asyncio.timeout(_PATIENCE), asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(comes_back(number) if number % 4 else stays(number))
        await eventually(lambda: begun == 200, _PATIENCE)
        service.signal(signal.SIGUSR2)
        await eventually(lambda: sent_away, _PATIENCE)
        for gate in gates[::4]:
            gate.open()
        await eventually(lambda: not before & set(service.workers), _PATIENCE)
    assert upstream.started == 200
    assert sent_away
