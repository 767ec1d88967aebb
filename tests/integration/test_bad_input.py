"""Bad input gets a clear error, and the connection lives on where the protocol lets it."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from streaming_api.service import StreamingService
from tests.clients import Socket, content, eventually, http, question, valid, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import TEXT, raw

MIB = 2**20
DEPTH = 100_000
HELLO = '"messages":[{"role":"user","content":"Hello"}]'
START = '{"message_type":"chat_completion",'


@pytest.fixture
async def socket(server: StreamingService) -> AsyncIterator[Socket]:
    async with websocket(server.url) as opened:
        yield opened


async def lives_on(socket: Socket) -> None:
    """The connection still takes commands."""
    await socket.start("after")
    assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"


def nested(opening: str, inner: str, closing: str, depth: int = DEPTH) -> str:
    return opening * depth + inner + closing * depth


NOT_JSON = {
    "empty": "",
    "words": "Hello",
    "half": '{"message_type":',
    "two": "{}{}",
    "single quotes": "{'message_type': 'alert'}",
    "trailing comma": '{"message_type":"alert",}',
    "comment": '{"message_type":"alert"} // hi',
    "NaN": START + '"temperature":NaN,' + HELLO + "}",
    "Infinity": START + '"temperature":-Infinity,' + HELLO + "}",
    "beyond all numbers": START + '"temperature":1e99999,' + HELLO + "}",
    "lone surrogate": START + '"messages":[{"role":"user","content":"\\ud800"}]}',
    "low surrogate first": START + '"messages":[{"role":"user","content":"\\udc00\\ud800"}]}',
    "deep arrays": nested("[", "", "]"),
    "deep objects": nested('{"a":', "1", "}"),
    "deep inside": START + '"messages":' + nested("[", "", "]") + "}",
    "NUL": "\x00",
    "byte order mark": "\ufeff{}",
}
NO_OBJECT = ["[]", '"Hello"', "7", "1.5", "true", "null"]


def start(fields: str) -> str:
    """A command that starts an answer, with these fields besides."""
    return START + fields + "," + HELLO + "}"


def resume(after: str) -> str:
    return START + '"action":"resume","request_id":"r","after":' + after + "}"


WRONG = {
    "no type": ("{}", "missing_field", "message_type"),
    "unknown type": ('{"message_type":"chat"}', "unknown_message_type", "message_type"),
    "type is a number": ('{"message_type":7}', "unknown_message_type", "message_type"),
    "type is a list": ('{"message_type":[]}', "unknown_message_type", "message_type"),
    "unknown action": (START + '"action":"sing"}', "unknown_action", "action"),
    "action is an object": (START + '"action":{}}', "unknown_action", "action"),
    "action is a list": (START + '"action":[]}', "unknown_action", "action"),
    "of another type": ('{"message_type":"alert","action":"start"}', "unknown_action", "action"),
    "no messages": (START + '"model_id":"m"}', "missing_field", "messages"),
    "messages are words": (START + '"messages":"Hello"}', "invalid_value", "messages"),
    "no message": (START + '"messages":[]}', "invalid_value", "messages"),
    "a message is words": (START + '"messages":["Hello"]}', "invalid_value", "messages"),
    "model is a number": (start('"model_id":7'), "invalid_value", "model_id"),
    "model is empty": (start('"model":""'), "invalid_value", "model"),
    "stream is a word": (start('"stream":"false"'), "invalid_value", "stream"),
    "stream is a number": (start('"stream":1'), "invalid_value", "stream"),
    "request_id is empty": (start('"request_id":""'), "invalid_value", "request_id"),
    "request_id is a path": (start('"request_id":"../x"'), "invalid_value", "request_id"),
    "request_id is long": (start(f'"request_id":"{"r" * 129}"'), "invalid_value", "request_id"),
    "request_id has lines": (start('"request_id":"a\\nid: 9"'), "invalid_value", "request_id"),
    "request_id has NUL": (start('"request_id":"a\\u0000"'), "invalid_value", "request_id"),
    "request_id is foreign": (start('"request_id":"ä"'), "invalid_value", "request_id"),
    "on_disconnect": (start('"on_disconnect":"stay"'), "invalid_value", "on_disconnect"),
    "on_disconnect is a list": (start('"on_disconnect":[]'), "invalid_value", "on_disconnect"),
    "cancel what": (START + '"action":"cancel"}', "missing_field", "request_id"),
    "resume what": (START + '"action":"resume","after":3}', "missing_field", "request_id"),
    "after is negative": (resume("-1"), "invalid_value", "after"),
    "after is a word": (resume('"1"'), "invalid_value", "after"),
    "after is true": (resume("true"), "invalid_value", "after"),
    "after is huge": (resume("9" * 5_000), "invalid_value", "after"),
    "cursor is a number": ('{"message_type":"alert","cursor":7}', "invalid_value", "cursor"),
    "too deep": (START + '"messages":[{"content":' + nested("[", "", "]", 500) + "}]}",
                 "too_deep", None),
}  # fmt: skip


class TestAWebSocket:
    @pytest.mark.parametrize("name", NOT_JSON)
    async def test_a_socket_gets_an_error_for_what_is_not_json(
        self, socket: Socket, name: str
    ) -> None:
        await socket.connection.send(NOT_JSON[name])
        answered = await socket.receive()
        assert answered["message_type"] == "status_update"
        assert answered["data"]["error"]["code"] == "invalid_json"
        assert answered["data"]["error"]["type"] == "invalid_request_error"
        await lives_on(socket)

    @pytest.mark.parametrize("text", NO_OBJECT)
    async def test_a_socket_gets_an_error_for_what_is_no_object(
        self, socket: Socket, text: str
    ) -> None:
        await socket.connection.send(text)
        assert (await socket.receive())["data"]["error"]["code"] == "not_an_object"
        await lives_on(socket)

    @pytest.mark.parametrize("name", WRONG)
    async def test_a_socket_gets_an_error_that_names_the_wrong_field(
        self, socket: Socket, name: str
    ) -> None:
        text, code, param = WRONG[name]
        await socket.connection.send(text)
        answered = await socket.receive()
        error = answered["data"]["error"]
        if name == "after is huge":  # a number that JSON readers may refuse altogether
            assert error["code"] in {code, "invalid_json"}
        else:
            assert (error["code"], error["param"]) == (code, param), error
        assert error["message"]
        if text.startswith(START):
            assert answered["message_type"] in {"chat_completion", "status_update"}
        await lives_on(socket)

    async def test_a_socket_gets_its_request_id_back_with_the_error(self, socket: Socket) -> None:
        await socket.send(message_type="chat_completion", request_id="r-1", messages=7)
        answered = await socket.receive()
        assert (answered["message_type"], answered["request_id"]) == ("chat_completion", "r-1")
        assert "sequence_id" not in answered

    async def test_a_socket_gets_an_error_for_a_binary_frame(self, socket: Socket) -> None:
        await socket.connection.send(b"{}")
        assert (await socket.receive())["data"]["error"]["code"] == "binary_frame"
        await lives_on(socket)

    async def test_a_socket_may_send_many_commands_in_one_segment(
        self, server: StreamingService
    ) -> None:
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            for number in range(20):
                await tcp.command(message_type="alert", action="sing", request_id=f"r-{number}")
            for number in range(20):
                opcode, payload = await tcp.frame()
                assert opcode == TEXT
                assert valid(payload)["request_id"] == f"r-{number}"

    async def test_a_socket_that_sends_its_first_command_with_the_handshake_is_heard(
        self, server: StreamingService
    ) -> None:
        async with raw(server.url) as tcp:
            mask = b"\x00\x00\x00\x00"
            await tcp.send(
                b"GET /streaming/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\x81\x82" + mask + b"{}"
            )
            assert (await tcp.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            _, payload = await tcp.frame()
            assert valid(payload)["data"]["error"]["code"] == "missing_field"

    async def test_a_socket_on_the_chat_path_learns_where_topics_are(
        self, server: StreamingService
    ) -> None:
        async with websocket(server.url, "/streaming/websocket/chat") as socket:
            await socket.send(message_type="alert")
            answered = await socket.receive()
            assert answered["message_type"] == "alert"
            assert answered["data"]["error"]["code"] == "chat_only"
            await lives_on(socket)

    async def test_a_socket_over_the_rate_gets_an_error_and_stays_open(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, commands_per_second=1)
        async with websocket(server.url) as socket:
            for _ in range(3):
                await socket.send(message_type="alert")
            answered = await socket.until(lambda message: "error" in message["data"])
            assert answered[-1]["data"]["error"]["code"] == "too_many_commands"
            assert answered[-1]["data"]["error"]["type"] == "rate_limit_error"


POSTS = ["/streaming/sse/chat", "/v1/chat/completions"]


class TestABody:
    @pytest.mark.parametrize("path", POSTS)
    @pytest.mark.parametrize("name", NOT_JSON)
    async def test_a_body_that_is_not_json_is_400(
        self, caller: httpx.AsyncClient, path: str, name: str
    ) -> None:
        reply = await caller.post(path, content=NOT_JSON[name].encode())
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "invalid_json"

    @pytest.mark.parametrize("path", POSTS)
    async def test_a_body_that_is_wrong_is_400_and_names_the_field(
        self, caller: httpx.AsyncClient, path: str
    ) -> None:
        for text, code, param in WRONG.values():
            if not text.startswith(START) or '"action"' in text:
                continue
            reply = await caller.post(path, content=text.encode())
            assert reply.status_code == 400, text[:200]
            error = reply.json()["error"]
            assert (error["code"], error["param"]) == (code, param)
        for text in NO_OBJECT:
            reply = await caller.post(path, content=text.encode())
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "not_an_object")

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/api/chat"])
    @pytest.mark.parametrize("coding", ["br", "x-gzip", "compress", "gzip, gzip"])
    async def test_a_coding_that_is_not_read_is_415_and_those_that_are_are_named(
        self, caller: httpx.AsyncClient, path: str, coding: str
    ) -> None:
        reply = await caller.post(path, content=b"{}", headers={"Content-Encoding": coding})
        assert reply.status_code == 415
        assert reply.headers["Accept-Encoding"] == "gzip, deflate"
        assert reply.json()["error"]["code"] == "unsupported_coding"

    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    @pytest.mark.parametrize("path", POSTS)
    async def test_a_body_may_have_exactly_its_limit_whatever_a_websocket_message_may_have(
        self, start_server: StartServer, path: str, upstream: FakeUpstream, encoding: str
    ) -> None:
        server = await start_server(
            api_gateway_endpoint=upstream.url, body_size_limit=2 * MIB, message_size_limit=MIB
        )
        for size, status in ((2 * MIB, 200), (2 * MIB + 1, 413)):
            body = _filled(size).encode()
            content = gzip.compress(body) if encoding == "gzip" else body
            async with http(server.url) as client:
                reply = await client.post(
                    path, content=content, headers={"Content-Encoding": encoding}
                )
            assert reply.status_code == status
            assert len(upstream.generations) == 1
        error = reply.json()["error"]
        assert error["code"] == "too_large"
        assert f"{2 * MIB} bytes (service.body_size_limit)" in error["message"]

    @pytest.mark.parametrize("path", POSTS)
    async def test_a_body_with_an_image_of_ten_megabytes_is_taken(
        self, caller: httpx.AsyncClient, path: str, upstream: FakeUpstream
    ) -> None:
        url = "data:image/png;base64," + "A" * 10_000_000
        part = {"type": "image_url", "image_url": {"url": url}}
        body = {"model": "fake", "messages": [{"role": "user", "content": [part]}]}
        assert (await caller.post(path, json=body)).status_code == 200
        assert upstream.generations[0].request.json()["messages"] == body["messages"]

    async def test_one_of_too_many_large_bodies_is_refused_with_retry_after(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, memory_budget_mb=32)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        head += b"Content-Length: %d\r\n\r\n" % (8 * MIB)
        received = server.connection_manager.budget.input
        async with (
            raw(server.url) as first,
            raw(server.url, address="127.0.0.2") as second,
            raw(server.url, address="127.0.0.3") as third,
        ):
            await first.send(head + b" " * (7 * MIB))
            await second.send(head + b" " * (7 * MIB))
            await eventually(lambda: received.bytes == 14 * MIB)
            await third.send(head + b" " * (7 * MIB))
            refusal = await third.rest()
            assert refusal.startswith(b"HTTP/1.1 503 ")
            assert b"too_many_bodies" in refusal
            first.reset()
            second.reset()
            await eventually(lambda: received.bytes == 0)

    async def test_a_body_larger_than_one_may_hold_is_refused_with_the_name_of_the_setting(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(memory_budget_mb=16)
        async with http(server.url) as client:
            reply = await client.post("/v1/chat/completions", content=b" " * (5 * MIB))
        assert reply.status_code == 413
        assert "performance.memory_budget_mb" in reply.json()["error"]["message"]

    async def test_a_body_with_a_bad_request_id_in_the_path_is_refused(
        self, caller: httpx.AsyncClient
    ) -> None:
        reply = await caller.delete("/streaming/chat/a%20b")
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "request_id"
        assert (await caller.get("/streaming/sse/chat/a%20b")).status_code in {400, 404}


async def test_hostile_text_reaches_the_model_and_comes_back_unharmed(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    text = 'a\r\n\r\ndata: {"b"}\n\nid: 7\u2028\u2029\x85\x0b\x00<script>🙂"\\'
    upstream.scripts["hostile"] = Script(tokens=(text,))
    async with websocket(server.url) as socket:
        await socket.start("r-1", model="hostile", messages=[{"role": "user", "content": text}])
        assert content(await socket.answer()) == text
    assert upstream.generations[0].request.json()["messages"] == [{"role": "user", "content": text}]
    async with http() as client:
        reply = await client.post(f"{server.url}/streaming/sse/chat", json=question("hostile"))
    assert reply.text.count("\nid: ") == reply.text.count("\ndata: ")


def _filled(size: int) -> str:
    """A start of exactly so many bytes."""
    command = {"message_type": "chat_completion", **question()}
    command["messages"][0]["content"] = ""
    bare = json.dumps(command)
    command["messages"][0]["content"] = "x" * (size - len(bare))
    return json.dumps(command)
