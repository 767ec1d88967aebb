"""Cuts at random places with resume, on the wires of other APIs: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import pytest

from streaming_api.service import StreamingService
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script

CUTS: Final = int(os.environ.get("CUTS", "300"))
"""Cuts on each wire; CUTS=1000 is the long form."""
ANSWERS: Final = 20
TOKENS: Final = 600
TEXT: Final = "".join(f"t{number} " for number in range(TOKENS))

Json = dict[str, Any]


class Client:
    """One answer that is read in pieces, each ended by a cut.

    Attributes:
        events: that were read, without the one at which the line was cut in the middle.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, chance: random.Random) -> None:
        self.session = session
        self.url = url
        self.chance = chance
        self.events: list[tuple[str, Json | str]] = []
        self.cuts = 0

    async def read(self, response: aiohttp.ClientResponse, cuts: int) -> bool:
        """Read events until the end, or until a random number of bytes has come; whether all."""
        left = self.chance.randrange(1, 12_000) if self.cuts < cuts else None
        buffer = b""
        while data := await response.content.readany():
            if left is not None and len(data) >= left:
                self._take(buffer + data[:left])
                response.close()
                self.cuts += 1
                return False
            left = None if left is None else left - len(data)
            buffer = self._take(buffer + data)
        return True

    def _take(self, data: bytes) -> bytes:
        """Take the whole events of these bytes; what is left."""
        *whole, rest = data.split(b"\n\n")
        for event in whole:
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
            if data_field := fields.get(b"data"):
                text = data_field.decode()
                parsed = text if text == "[DONE]" else json.loads(text)
                self.events.append((fields.get(b"id", b"").decode(), parsed))
        return rest


async def responses(client: Client, cuts: int) -> str:
    body = {"model": "long", "input": "x", "stream": True, "background": True}
    url = f"{client.url}/v1/responses"
    async with client.session.post(url, json=body) as response:
        whole = await client.read(response, cuts)
    while not whole:
        if not client.events:  # not even its name has come: it is asked for again
            async with client.session.post(url, json=body) as response:
                whole = await client.read(response, cuts)
            continue
        first, last = client.events[0][1], client.events[-1][1]
        assert isinstance(first, dict)
        assert isinstance(last, dict)
        path = f"{url}/{first['response']['id']}?stream=true"
        path += f"&starting_after={last['sequence_number']}"
        async with client.session.get(path) as response:
            whole = await client.read(response, cuts)
    events = [event for _, event in client.events if isinstance(event, dict)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == TEXT
    return "".join(deltas)


async def completions(client: Client, cuts: int) -> str:
    asked = [{"role": "user", "content": "x"}]
    body = {"model": "long", "messages": asked, "stream": True, "on_disconnect": "finish"}
    url = f"{client.url}/v1/chat/completions"
    async with client.session.post(url, json=body) as response:
        request_id = response.headers["X-Request-Id"]
        whole = await client.read(response, cuts)
    while not whole:
        headers = {"Last-Event-ID": client.events[-1][0]} if client.events else {}
        async with client.session.get(f"{url}/{request_id}", headers=headers) as response:
            if response.status == 204:
                break
            whole = await client.read(response, cuts)
    numbers = [event_id for event_id, _ in client.events if event_id]
    assert numbers == [f"{request_id}:{n}" for n in range(1, len(numbers) + 1)]
    chunks = [event for _, event in client.events if isinstance(event, dict)]
    choices = (choice for chunk in chunks for choice in chunk["choices"])
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def sockets(client: Client, cuts: int) -> str:
    events: list[Json] = []
    while True:
        query = ""
        if events:
            first, last = events[0]["response"]["id"], events[-1]["sequence_number"]
            query = f"?response_id={first}&starting_after={last}"
        left = client.chance.randrange(1, 60) if client.cuts < cuts else None
        async with client.session.ws_connect(f"{client.url}/v1/responses{query}") as socket:
            if not query:
                await socket.send_json({"type": "response.create", "model": "long", "input": "x"})
            async for frame in socket:
                events.append(json.loads(frame.data))
                if events[-1]["type"] == "response.completed":
                    break
                if left is not None and events and (left := left - 1) == 0:
                    connection = socket._conn
                    assert connection is not None
                    assert connection.transport is not None
                    connection.transport.abort()
                    client.cuts += 1
                    break
        if events[-1]["type"] == "response.completed":
            break
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    return "".join(deltas)


Reading = Callable[[Client, int], Awaitable[str]]


WIRES: Final[dict[Reading, str]] = {
    responses: "Responses, event stream",
    sockets: "Responses, WebSocket",
    completions: "chat completions",
}


@pytest.mark.parametrize("reading", WIRES)
async def test_cuts_lose_and_double_nothing(
    start_server: StartServer,
    upstream: FakeUpstream,
    reading: Reading,
    record_property: Callable[[str, object], None],
) -> None:
    upstream.scripts["long"] = Script(tokens=TOKENS, rate=1_000)
    server: StreamingService = await start_server(
        api_gateway_endpoint=upstream.url, pool_size=ANSWERS, chat_retention_seconds=600
    )
    async with aiohttp.ClientSession() as session:
        done = answers = 0

        async def one(seed: int) -> None:
            nonlocal done, answers
            while done < CUTS:
                client = Client(session, server.url, random.Random(seed))
                seed += ANSWERS
                assert await reading(client, 50) == TEXT
                done += client.cuts
                answers += 1

        await asyncio.gather(*(one(seed) for seed in range(ANSWERS)))
    assert done >= CUTS
    for name, value in (
        ("wire", WIRES[reading]),
        ("cuts", done),
        ("answers", answers),
        ("tokens", answers * TOKENS),
    ):
        record_property(name, value)
