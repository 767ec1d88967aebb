"""Answers cut at random places and resumed: no token lost or doubled, one generation each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import httpx
import pytest
import websockets

from streaming_api.service import StreamingService
from tests.clients import Message, content, events, http, is_end, noise, question, websocket
from tests.conftest import StartServer
from tests.fakes.cutter import Cutter, cutter
from tests.fakes.upstream import FakeUpstream, Script

ANSWERS = 40
TOKENS = 60
CUT_BELOW = 3_000  # bytes; seven such pieces are less than an answer, however compressed
BROKEN = (
    websockets.ConnectionClosed,
    websockets.InvalidHandshake,
    websockets.InvalidMessage,
    httpx.TransportError,
    OSError,
    EOFError,
)


def budgets(seed: int) -> list[int]:
    """Where one answer's connections are cut: six of them, or seven."""
    chance = random.Random(seed)
    return [chance.randrange(1, CUT_BELOW) for _ in range(7 if seed % 4 == 0 else 6)]


async def over_websocket(url: str, request_id: str, seen: list[Message]) -> AsyncIterator[Message]:
    """Messages of an answer from where we are, until it ends or the connection breaks."""
    compression = "deflate" if len(seen) % 2 else None
    async with websocket(url, compression=compression) as socket:
        if seen:
            last = seen[-1]["sequence_id"]
            await socket.resume(request_id, last)
        else:
            await socket.start(request_id)
        while True:
            yield await socket.receive()


async def over_sse(url: str, request_id: str, seen: list[Message]) -> AsyncIterator[Message]:
    """The same over Server-Sent Events."""
    if seen:
        path, body = f"/streaming/sse/chat/{request_id}", None
        headers = {"Last-Event-ID": seen[-1]["cursor"]}
    else:
        path, headers = "/streaming/sse/chat", {}
        body = question(request_id=request_id)
    async with events(url, path, body=body, headers=headers) as stream:
        if stream.response.status_code == 204:
            return
        while True:
            try:
                yield await stream.receive()
            except StopAsyncIteration:
                raise EOFError from None


async def persist(face: str, relay: Cutter, request_id: str) -> list[Message]:
    """Ask for an answer and come back, however often the connection breaks."""
    seen: list[Message] = []
    read = over_websocket if face == "websocket" else over_sse
    while not seen or not is_end(seen[-1]):
        try:
            async for message in read(relay.url, request_id, seen):
                seen.append(message)
                if is_end(message):
                    break
        except BROKEN:
            continue
    return seen


@pytest.mark.parametrize("face", ["websocket", "sse"])
async def test_an_answer_that_is_cut_at_random_places_arrives_whole(
    face: str, server: StreamingService, upstream: FakeUpstream
) -> None:
    """40 answers a face, 250 cuts a face, inside frames, events, heads and handshakes."""
    upstream.default = Script(tokens=tuple(noise(400, n) for n in range(TOKENS)), rate=100)

    async def one(number: int) -> int:
        async with cutter(server.url, budgets(number)) as relay:
            seen = await persist(face, relay, f"r-{number}")
        numbers = [message["sequence_id"] for message in seen]
        assert numbers == list(range(1, len(seen) + 1))
        assert content(seen) == upstream.default.text()
        assert seen[-1]["data"]["finish_reason"] == "stop"
        return relay.cuts

    async with asyncio.timeout(60):
        cuts = await asyncio.gather(*(one(number) for number in range(ANSWERS)))
    assert sum(cuts) == 250
    assert len(upstream.generations) == ANSWERS


async def test_a_resumed_answer_goes_on_strictly_after_what_was_seen(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    gate = upstream.gated()
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        gate.release(3)
        await socket.until(lambda message: message["sequence_id"] == 3)
    async with websocket(server.url) as socket:
        await socket.resume("r-1", 2)
        assert (await socket.receive())["sequence_id"] == 3
        gate.open()
        seen = await socket.answer()
    assert [message["sequence_id"] for message in seen] == list(range(4, 4 + len(seen)))
    assert len(upstream.generations) == 1


async def test_resuming_on_the_socket_that_watches_moves_its_cursor_and_doubles_nothing_later(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    gate = upstream.gated()
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        gate.release(2)
        await socket.until(lambda message: message["sequence_id"] == 3)
        await socket.resume("r-1", 1)
        assert [(await socket.receive())["sequence_id"] for _ in range(2)] == [2, 3]
        gate.open()
        seen = await socket.answer()
    assert [message["sequence_id"] for message in seen] == list(range(4, 4 + len(seen)))


async def test_a_finished_answer_is_shown_from_wherever_one_asks(server: StreamingService) -> None:
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        whole = await socket.answer()
        await socket.resume("r-1", 5)
        assert await socket.answer() == whole[5:]
    async with events(server.url, "/streaming/sse/chat/r-1?after=5") as stream:
        assert await stream.rest() == whole[5:]
    async with events(server.url, f"/streaming/sse/chat/r-1?cursor={whole[4]['cursor']}") as stream:
        assert await stream.rest() == whole[5:]


async def test_a_finished_answer_that_was_seen_to_its_end_gets_204_so_that_eventsource_stops(
    server: StreamingService,
) -> None:
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        last = (await socket.answer())[-1]
    async with http(server.url) as client:
        path = "/streaming/sse/chat/r-1"
        reply = await client.get(path, headers={"Last-Event-ID": last["cursor"]})
        assert (reply.status_code, reply.content) == (204, b"")
        assert (await client.get(f"{path}?after={last['sequence_id']}")).status_code == 204
        # what aiohttp keeps of the connection still serves
        assert (await client.get("/health")).status_code == 200


async def test_an_unknown_answer_is_404_and_one_that_is_no_longer_kept_410(
    start_server: StartServer, upstream: FakeUpstream
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url, chat_retention_seconds=0)
    async with websocket(server.url) as socket:
        for request_id, code in (("nobody", "stream_not_found"), ("r-1", "stream_evicted")):
            if code == "stream_evicted":
                await socket.start("r-1")
                await socket.answer()
            await socket.resume(request_id)
            notice = await socket.receive()
            assert notice["data"]["error"]["code"] == code
            assert notice["request_id"] == request_id
    async with http(server.url) as client:
        for method, path in (("GET", "/streaming/sse/chat/"), ("DELETE", "/streaming/chat/")):
            for request_id, status, code in (
                ("nobody", 404, "stream_not_found"),
                ("r-1", 410, "stream_evicted"),
            ):
                reply = await client.request(method, path + request_id)
                assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("after", [99, 10**17])
async def test_a_cursor_from_the_future_is_reported_and_the_answer_shown_from_its_start(
    server: StreamingService, after: int
) -> None:
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        whole = await socket.answer()
        await socket.resume("r-1", after)
        notice = await socket.receive()
        assert notice["data"] == {"event": "gap", "reason": "future"}
        assert notice["request_id"] == "r-1"
        assert "sequence_id" not in notice
        assert await socket.answer() == whole
    async with events(server.url, f"/streaming/sse/chat/r-1?after={after}") as stream:
        assert (await stream.receive())["data"]["event"] == "gap"
        assert await stream.rest() == whole


@pytest.mark.parametrize(
    ("cursor", "reason"),
    [
        *((text, "malformed") for text in ("garbage", "r-1:", "r-1:-1", ":", "r-1:1:1", "é")),
        *((text, "malformed") for text in ("r-1:" + "9" * 30, "x" * 6_000)),
        ("r-2:3", "epoch"),
        ("r-1:99", "future"),
    ],
)
async def test_a_cursor_of_something_else_is_reported_and_never_guessed(
    server: StreamingService, cursor: str, reason: str
) -> None:
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        whole = await socket.answer()
    headers = {"Last-Event-ID": cursor}
    if not cursor.isascii():
        headers = {}
    path = "/streaming/sse/chat/r-1" + ("" if headers else "?cursor=%C3%A9")
    async with events(server.url, path, headers=headers) as stream:
        notice, *rest = await stream.rest()
    assert notice["data"] == {"event": "gap", "reason": reason}
    assert rest == whole


async def test_what_is_no_longer_kept_of_an_answer_is_reported_before_what_is(
    start_server: StartServer, upstream: FakeUpstream
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url, chat_retention_messages=5)
    upstream.default = Script(tokens=40)
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        whole = await socket.answer()
        assert content(whole) == upstream.default.text()
        await socket.resume("r-1", 10)
        notice, *rest = await socket.answer()
    kept = whole[-5:]
    assert rest == kept
    lost = {"from": 11, "to": kept[0]["sequence_id"] - 1}
    assert notice["data"] == {"event": "gap", "reason": "evicted", **lost}
    async with events(
        server.url, "/streaming/sse/chat/r-1", headers={"Last-Event-ID": "r-1:10"}
    ) as stream:
        again, *rest = await stream.rest()
    assert again["data"] == notice["data"]
    assert rest == kept
