"""Every face of an answer, begun on one server of a service and continued, or ended, on another.

Each function asks for the model ``paced``, whose text is `WHOLE`, or ``endless``; the answer is cut
off by its client in the middle, and every event of it must be seen once, in order.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import httpx
import websockets
from websockets.asyncio.client import ClientConnection

from tests.clients import UNIT, content, events, http, is_end, question, websocket
from tests.fakes.upstream import Script

TOKENS: Final = 20
WHOLE: Final = "".join(f"t{number} " for number in range(TOKENS))
SCRIPTS: Final = {"paced": Script(tokens=TOKENS, rate=40), "endless": Script(endless=True, rate=20)}
CUT: Final = 5
"""Events that a client sees before it is cut off."""
_PATIENCE: Final = 4 * UNIT

Json = dict[str, Any]
Continue = Callable[[str, str, str], Coroutine[None, None, None]]
"""Begins on a server, continues on another; the last argument names the answer."""
End = Callable[[str, str, str], Coroutine[None, None, None]]
"""The same, but the answer is ended there."""


async def over_websocket(one: str, other: str, name: str) -> None:
    """Our own WebSocket."""
    async with websocket(one) as socket:
        await socket.start(name, model="paced")
        seen = await socket.until(lambda message: message.get("sequence_id") == CUT)
    async with websocket(other) as socket:
        await socket.resume(name, CUT)
        seen += await socket.until(is_end)
    numbers = [message["sequence_id"] for message in seen if "cursor" in message]
    assert numbers == list(range(1, len(numbers) + 1))
    assert content(seen) == WHOLE


async def over_events(one: str, other: str, name: str) -> None:
    """Our own event stream."""
    body = question("paced", request_id=name)
    async with events(one, "/streaming/sse/chat", body=body) as stream:
        seen = await stream.until(lambda message: message.get("sequence_id") == CUT)
    async with events(other, f"/streaming/sse/chat/{name}?after={CUT}") as stream:
        seen += await stream.rest()
    numbers = [message["sequence_id"] for message in seen if "cursor" in message]
    assert numbers == list(range(1, len(numbers) + 1))
    assert content(seen) == WHOLE


async def over_openai(one: str, other: str, name: str) -> None:
    """OpenAI's chat completions, continued by the id of the last event."""
    body = question("paced", request_id=name, stream=True, on_disconnect="grace")
    async with _streamed(one, "/v1/chat/completions", body) as lines:
        seen = [await anext(lines) for _ in range(CUT)]
    last = {"Last-Event-ID": seen[-1][0]}
    path = f"/v1/chat/completions/{name}"
    async with _streamed(other, path, None, headers=last) as lines:
        seen += [event async for event in lines]
    assert len({number for number, _ in seen if number}) == len([n for n, _ in seen if n])
    chunks = [json.loads(data) for _, data in seen if data != "[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == WHOLE
    assert seen[-1][1] == "[DONE]"


async def over_responses(one: str, other: str, name: str) -> None:
    """The Responses API: events, then the object, its input, a next turn, and its deletion."""
    body = {"model": "paced", "input": f"Hello {name}", "stream": True}
    async with _streamed(one, "/v1/responses", body) as lines:
        seen = [json.loads((await anext(lines))[1]) for _ in range(CUT)]
    path = f"/v1/responses/{seen[0]['response']['id']}"
    rest = f"{path}?stream=true&starting_after={seen[-1]['sequence_number']}"
    async with _streamed(other, rest, None) as lines:
        seen += [json.loads(data) async for _, data in lines]
    _check_response(seen)
    async with http(timeout=_PATIENCE) as client:
        response = (await client.get(other + path)).json()
        assert response == seen[-1]["response"]
        items = (await client.get(f"{other}{path}/input_items")).json()["data"]
        assert items[0]["content"] == [{"type": "input_text", "text": f"Hello {name}"}]
        more = {"model": "ten-tokens", "input": "More", "previous_response_id": response["id"]}
        assert (await client.post(f"{other}/v1/responses", json=more)).json()["status"] == (
            "completed"
        )
        assert (await client.delete(other + path)).json()["deleted"] is True
        await _until_status(client, one + path, 404)


async def over_responses_socket(one: str, other: str, name: str) -> None:
    """The Responses API over WebSocket, and a next turn."""
    async with _responses_socket(one) as socket:
        await _create(socket, "paced", f"Hello {name}")
        seen = [await _event(socket) for _ in range(CUT)]
    known = f"?response_id={seen[0]['response']['id']}&starting_after={CUT - 1}"
    async with _responses_socket(other, known) as socket:
        while seen[-1]["type"] != "response.completed":
            seen.append(await _event(socket))
        _check_response(seen)
        await _create(socket, "ten-tokens", "More", seen[-1]["response"]["id"])
        while (event := await _event(socket))["type"] != "response.completed":
            pass
        assert event["response"]["previous_response_id"] == seen[-1]["response"]["id"]


async def over_ui(one: str, other: str, name: str) -> None:
    """The AI SDK's ``useChat``, which is shown its message again from the start."""
    async with _streamed(one, "/api/chat", _ui_body("paced", name)) as lines:
        begun = [await anext(lines) for _ in range(CUT)]
    async with _streamed(other, f"/api/chat/{name}/stream", None) as lines:
        whole = [event async for event in lines]
    assert whole[:CUT] == begun
    deltas = [json.loads(data) for _, data in whole if '"text-delta"' in data]
    assert "".join(delta["delta"] for delta in deltas) == WHOLE


CONTINUED: Final[dict[str, Continue]] = {
    "websocket": over_websocket,
    "events": over_events,
    "openai": over_openai,
    "responses": over_responses,
    "responses-socket": over_responses_socket,
    "ui": over_ui,
}


async def end_websocket(one: str, other: str, name: str) -> None:
    """Our own WebSocket, and its command."""
    async with websocket(one) as socket, websocket(other) as canceller:
        await socket.start(name, model="endless")
        await socket.receive()
        await canceller.cancel(name)
        assert (await socket.answer())[-1]["data"]["finish_reason"] == "cancelled"


async def end_events(one: str, other: str, name: str) -> None:
    """Our own event stream, and DELETE."""
    body = question("endless", request_id=name)
    async with events(one, "/streaming/sse/chat", body=body) as stream:
        await stream.receive()
        async with http(timeout=_PATIENCE) as client:
            assert (await client.delete(f"{other}/streaming/chat/{name}")).status_code == 204
        assert (await stream.rest())[-1]["data"]["finish_reason"] == "cancelled"


async def end_openai(one: str, other: str, name: str) -> None:
    """OpenAI's chat completions, and DELETE, after which it is not there."""
    path = f"/v1/chat/completions/{name}"
    body = question("endless", request_id=name, stream=True)
    async with _streamed(one, "/v1/chat/completions", body) as lines:
        await anext(lines)
        async with http(timeout=_PATIENCE) as client:
            assert (await client.delete(other + path)).json()["deleted"] is True
            assert '"cancelled"' in [data async for _, data in lines][-1]
            await _until_status(client, one + path, 404)


async def end_responses(one: str, other: str, name: str) -> None:
    """The Responses API, in the background, and its own cancel."""
    body = {"model": "endless", "input": name, "background": True}
    async with http(timeout=_PATIENCE) as client:
        begun = (await client.post(f"{one}/v1/responses", json=body)).json()
        path = f"/v1/responses/{begun['id']}"
        assert (await client.post(f"{other}{path}/cancel")).json()["status"] == "cancelled"
        assert (await client.get(one + path)).json()["status"] == "cancelled"


async def end_responses_socket(one: str, other: str, name: str) -> None:
    """The Responses API over WebSocket, and its event."""
    async with _responses_socket(one) as socket, _responses_socket(other) as canceller:
        await _create(socket, "endless", name)
        begun = await _event(socket)
        event = {"type": "response.cancel", "response_id": begun["response"]["id"]}
        await canceller.send(json.dumps(event))
        while (last := await _event(socket))["type"] not in {
            "response.incomplete",
            "response.failed",
        }:
            pass
        assert last["response"]["status"] == "cancelled"


async def end_ui(one: str, other: str, name: str) -> None:
    """The AI SDK's ``useChat``, and DELETE."""
    async with _streamed(one, "/api/chat", _ui_body("endless", name)) as lines:
        await anext(lines)
        async with http(timeout=_PATIENCE) as client:
            while (await client.delete(f"{other}/api/chat/{name}")).status_code != 204:
                pass
        assert [data async for _, data in lines]


ENDED: Final[dict[str, End]] = {
    "websocket": end_websocket,
    "events": end_events,
    "openai": end_openai,
    "responses": end_responses,
    "responses-socket": end_responses_socket,
    "ui": end_ui,
}


# Their clients


def _ui_body(model: str, chat: str) -> Json:
    message = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}
    return {"id": chat, "model": model, "messages": [message]}


class _Streamed:
    """An event stream of another wire, event by event: its id (if it has one) and its data."""

    def __init__(self, url: str, body: Json | None, headers: dict[str, str] | None) -> None:
        self._client = http(timeout=_PATIENCE)
        method = "GET" if body is None else "POST"
        self._context = self._client.stream(method, url, json=body, headers=headers)

    async def __aenter__(self) -> AsyncIterator[tuple[str, str]]:
        reply = await self._context.__aenter__()
        assert reply.status_code == 200, await reply.aread()
        return _parsed(reply)

    async def __aexit__(self, *error: object) -> None:
        await self._context.__aexit__(None, None, None)
        await self._client.aclose()


def _streamed(
    server: str, path: str, body: Json | None, headers: dict[str, str] | None = None
) -> _Streamed:
    return _Streamed(server + path, body, headers)


async def _parsed(reply: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    number = data = ""
    async for line in reply.aiter_lines():
        if found := re.match(r"id: ?(.*)", line):
            number = found[1]
        elif found := re.match(r"data: ?(.*)", line):
            data = found[1]
        elif not line and data:
            yield number, data
            number = data = ""


def _responses_socket(server: str, query: str = "") -> websockets.connect:
    address = server.replace("http", "ws", 1) + "/v1/responses" + query
    return websockets.connect(address, max_size=None)


async def _create(
    socket: ClientConnection, model: str, text: str, previous: str | None = None
) -> None:
    event = {"type": "response.create", "model": model, "input": text}
    more = {} if previous is None else {"previous_response_id": previous}
    await socket.send(json.dumps(event | more))


async def _event(socket: ClientConnection) -> Json:
    async with asyncio.timeout(_PATIENCE):
        event: Json = json.loads(await socket.recv())
    assert event["type"] != "error", event
    return event


def _check_response(seen: list[Json]) -> None:
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    deltas = [event for event in seen if event["type"] == "response.output_text.delta"]
    assert "".join(event["delta"] for event in deltas) == WHOLE
    assert seen[-1]["type"] == "response.completed"


async def _until_status(client: httpx.AsyncClient, url: str, status: int) -> None:
    async with asyncio.timeout(_PATIENCE):
        while (await client.get(url)).status_code != status:
            await asyncio.sleep(0.02)
