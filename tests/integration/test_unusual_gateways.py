"""Gateways as there are: what refuses ``stream_options``, lists nothing, or has another address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from streaming_api.service import StreamingService
from tests.clients import UNIT, http, question
from tests.conftest import StartServer

PATH = "/v1/chat/completions"
Reply = tuple[int, object]


def chunk(delta: dict[str, object], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    fields = {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(fields).encode()


ANSWER = chunk({"content": "Hello"}) + chunk({}, "stop") + b"data: [DONE]\n\n"


class Gateway:
    """Answers each request as its functions say; keeps what was asked."""

    def __init__(self) -> None:
        self.models: Callable[[], Reply] = lambda: (200, {"data": [{"id": "m"}]})
        self.chat: Callable[[dict[str, Any]], Reply] = lambda _: (200, ANSWER)
        self.listed = 0
        self.asked: list[dict[str, Any]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET"):
            self.listed += 1
            status, body = self.models()
        else:
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
            fields = json.loads(await reader.readexactly(length))
            self.asked.append(fields)
            status, body = self.chat(fields)
        kind = "text/event-stream" if isinstance(body, bytes) else "application/json"
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(
            f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n".encode()
            + payload
        )
        await writer.drain()
        writer.close()


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    found = Gateway()
    async with await asyncio.start_server(found.serve, "127.0.0.1", 0) as listening:
        found.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield found


async def asked(server: StreamingService, **fields: object) -> httpx.Response:
    async with http(server.url) as client:
        return await client.post(PATH, json=question(stream=True) | fields)


async def component(server: StreamingService) -> dict[str, Any]:
    async with http(server.url) as client:
        status = (await client.get("/streaming/status")).json()
    found: dict[str, Any] = status["components"].get("gateway", {"state": None, "reason": None})
    return found


async def becomes(
    server: StreamingService, holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Wait until the component is as it should be, and return it."""
    async with asyncio.timeout(UNIT):
        while not holds(found := await component(server)):
            await asyncio.sleep(0.01)
    return found


REFUSALS: tuple[object, ...] = (
    {"error": {"message": "Unrecognized request argument supplied: stream_options"}},
    {"error": {"message": "Bad", "param": "stream_options"}},
    {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]},
    {"object": "error", "message": {"detail": [{"loc": ["body", "stream_options"]}]}},
    {"message": "Validation failed", "errors": [{"field": "stream_options"}]},
    b"unknown field: include_usage",
    {"error": 'Unrecognized field "streamOptions"'},
)


class TestStreamOptions:
    """Some upstreams refuse them; the client, who did not send any, must not notice."""

    @pytest.mark.parametrize("status", [400, 422])
    @pytest.mark.parametrize("refusal", REFUSALS, ids=range(len(REFUSALS)))
    async def test_stream_options_that_are_refused_are_left_out_and_that_is_remembered(
        self, start_server: StartServer, gateway: Gateway, refusal: object, status: int
    ) -> None:
        gateway.chat = lambda f: (status, refusal) if "stream_options" in f else (200, ANSWER)
        server = await start_server(api_gateway_endpoint=gateway.url)
        for _ in range(2):
            reply = await asked(server)
            assert reply.status_code == 200
            data = [line for line in reply.text.splitlines() if line.startswith("data:")]
            assert data == [line for line in ANSWER.decode().splitlines() if line]
        assert [("stream_options" in fields) for fields in gateway.asked] == [True, False, False]
        async with http(server.url) as client:
            assert (
                "streaming_stream_options_refused_total 1.0" in (await client.get("/metrics")).text
            )

    @pytest.mark.parametrize(
        ("setting", "fields", "sent"),
        [
            ("auto", {"stream_options": {"include_usage": True}}, [{"include_usage": True}]),
            ("always", {}, [{"include_usage": True}]),
            ("never", {}, [None]),
            ("never", {"stream_options": {"include_usage": True}}, [{"include_usage": True}]),
            ("never", {"stream_options": {"other": 1}}, [{"other": 1}]),
            ("auto", {"stream_options": None}, [None]),
            ("auto", {"stream_options": {"other": 1}},
             [{"other": 1, "include_usage": True}, {"other": 1}]),
        ],
    )  # fmt: skip
    async def test_stream_options_of_the_clients_own_are_its_own(
        self, start_server: StartServer, gateway: Gateway, setting: str,
        fields: dict[str, object], sent: list[object],
    ) -> None:  # fmt: skip
        gateway.chat = lambda f: (400, REFUSALS[0]) if "stream_options" in f else (200, ANSWER)
        server = await start_server(api_gateway_endpoint=gateway.url, stream_usage=setting)
        reply = await asked(server, **fields)
        assert [fields.get("stream_options") for fields in gateway.asked] == sent
        assert reply.status_code == (200 if sent == [None] else 400)

    async def test_stream_options_that_were_not_the_reason_change_nothing(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        """A refusal that quotes the whole request names everything."""
        gateway.chat = lambda f: (400, {"error": {"message": f"Too long: {f} (stream_options)"}})
        server = await start_server(api_gateway_endpoint=gateway.url)
        for _ in range(2):
            assert (await asked(server)).status_code == 400
        assert [("stream_options" in f) for f in gateway.asked] == [True, False] * 2

    async def test_nothing_is_asked_again_after_content(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        error = b'data: {"error":{"message":"stream_options","code":400}}\n\n'
        gateway.chat = lambda _: (200, chunk({"content": "Hel"}) + error)
        server = await start_server(api_gateway_endpoint=gateway.url)
        assert "Hel" in (await asked(server)).text
        assert len(gateway.asked) == 1


class TestAGatewayThatAnswers:
    """It is up, whatever its list of models looks like."""

    @pytest.mark.parametrize(
        "reply",
        [(200, b"<"), *((status, {}) for status in (200, 302, 400, 404, 405, 429, 501))],
        ids=range(8),
    )
    async def test_a_gateway_that_answers_below_500_is_up(
        self, start_server: StartServer, gateway: Gateway, reply: Reply
    ) -> None:
        gateway.models = lambda: reply
        server = await start_server(api_gateway_endpoint=gateway.url)
        found = await becomes(server, lambda c: c["state"] is not None)
        assert found["state"] == "up"
        assert found["reason"]

    async def test_a_gateway_that_lists_nothing_but_500_is_up_once_it_has_answered(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        gateway.models = lambda: (500, {})
        server = await start_server(api_gateway_endpoint=gateway.url)
        await becomes(server, lambda c: c["state"] == "down")
        assert (await asked(server)).status_code == 200
        await becomes(server, lambda c: c["state"] == "up")

    async def test_a_gateway_that_answers_nothing_but_404_is_reported_with_the_address(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        gateway.chat = lambda _: (404, {"detail": "Not Found"})
        server = await start_server(api_gateway_endpoint=f"{gateway.url}/wrong")
        reply = await asked(server)
        assert f"{gateway.url}/wrong/chat/completions" in reply.json()["error"]["message"]
        found = await becomes(server, lambda c: "/wrong/chat/completions" in str(c["reason"]))
        assert found["state"] == "up"

    async def test_a_gateway_is_asked_once_by_many(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        server = await start_server(api_gateway_endpoint=gateway.url)
        async with http(server.url) as client:
            before = gateway.listed
            replies = await asyncio.gather(*(client.get("/v1/models") for _ in range(50)))
        assert {reply.text for reply in replies} == {'{"object":"list","data":[{"id":"m"}]}'}
        assert gateway.listed < before + 10  # beside them it is asked for the health
