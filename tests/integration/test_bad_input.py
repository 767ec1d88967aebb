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
from tests.raw import CLOSE, TEXT, raw

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
NO_OBJECT = {
    "array": "[]",
    "string": '"Hello"',
    "number": "7",
    "float": "1.5",
    "true": "true",
    "null": "null",
}
WRONG = {
    "no type": ("{}", "missing_field", "message_type"),
    "unknown type": ('{"message_type":"chat"}', "unknown_message_type", "message_type"),
    "type is a number": ('{"message_type":7}', "unknown_message_type", "message_type"),
    "type is a list": ('{"message_type":[]}', "unknown_message_type", "message_type"),
    "unknown action": (START + '"action":"sing"}', "unknown_action", "action"),
    "action is an object": (START + '"action":{}}', "unknown_action", "action"),
    "action is a list": (START + '"action":[]}', "unknown_action", "action"),
    "action of another type": (
        '{"message_type":"alert","action":"start"}',
        "unknown_action",
        "action",
    ),
    "no messages": (START + '"model_id":"m"}', "missing_field", "messages"),
    "messages are words": (START + '"messages":"Hello"}', "invalid_value", "messages"),
    "no message": (START + '"messages":[]}', "invalid_value", "messages"),
    "a message is words": (START + '"messages":["Hello"]}', "invalid_value", "messages"),
    "model is a number": (START + '"model_id":7,' + HELLO + "}", "invalid_value", "model_id"),
    "model is empty": (START + '"model":"",' + HELLO + "}", "invalid_value", "model"),
    "stream is a word": (START + '"stream":"false",' + HELLO + "}", "invalid_value", "stream"),
    "stream is a number": (START + '"stream":1,' + HELLO + "}", "invalid_value", "stream"),
    "request_id is empty": (
        START + '"request_id":"",' + HELLO + "}",
        "invalid_value",
        "request_id",
    ),
    "request_id is a path": (
        START + '"request_id":"../x",' + HELLO + "}",
        "invalid_value",
        "request_id",
    ),
    "request_id is long": (
        START + f'"request_id":"{"r" * 129}",' + HELLO + "}",
        "invalid_value",
        "request_id",
    ),
    "request_id has a newline": (
        START + '"request_id":"a\\nid: 9",' + HELLO + "}",
        "invalid_value",
        "request_id",
    ),
    "on_disconnect": (
        START + '"on_disconnect":"stay",' + HELLO + "}",
        "invalid_value",
        "on_disconnect",
    ),
    "on_disconnect is a list": (
        START + '"on_disconnect":[],' + HELLO + "}",
        "invalid_value",
        "on_disconnect",
    ),
    "cancel what": (START + '"action":"cancel"}', "missing_field", "request_id"),
    "resume what": (START + '"action":"resume","after":3}', "missing_field", "request_id"),
    "after is negative": (
        START + '"action":"resume","request_id":"r","after":-1}',
        "invalid_value",
        "after",
    ),
    "after is a word": (
        START + '"action":"resume","request_id":"r","after":"1"}',
        "invalid_value",
        "after",
    ),
    "after is true": (
        START + '"action":"resume","request_id":"r","after":true}',
        "invalid_value",
        "after",
    ),
    "after is huge": (
        START + '"action":"resume","request_id":"r","after":' + "9" * 5_000 + "}",
        "invalid_value",
        "after",
    ),
    "cursor is a number": ('{"message_type":"alert","cursor":7}', "invalid_value", "cursor"),
    "too deep to be passed on": (
        START + '"messages":[{"content":' + nested("[", "", "]", 500) + "}]}",
        "too_deep",
        None,
    ),
}


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

    @pytest.mark.parametrize("name", NO_OBJECT)
    async def test_a_socket_gets_an_error_for_what_is_no_object(
        self, socket: Socket, name: str
    ) -> None:
        await socket.connection.send(NO_OBJECT[name])
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

    @pytest.mark.parametrize("compression", [None, "deflate"])
    async def test_a_socket_may_send_exactly_a_mebibyte(
        self, server: StreamingService, upstream: FakeUpstream, compression: str | None
    ) -> None:
        async with websocket(server.url, compression=compression) as socket:
            await socket.connection.send(_filled(MIB))
            assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"
            await lives_on(socket)
        assert len(upstream.generations[0].request.body) > MIB - 200

    @pytest.mark.parametrize("compression", [None, "deflate"])
    async def test_a_socket_is_closed_with_1009_for_one_byte_more(
        self, server: StreamingService, upstream: FakeUpstream, compression: str | None
    ) -> None:
        async with websocket(server.url, compression=compression) as socket:
            await socket.connection.send(_filled(MIB + 1))
            assert await socket.closed() == 1009
        assert upstream.generations == []

    async def test_a_socket_is_closed_with_1009_for_the_sum_of_its_fragments(
        self, server: StreamingService
    ) -> None:
        async with websocket(server.url, compression=None) as socket:
            text = _filled(MIB + 1)
            await socket.connection.send([text[: MIB // 2], text[MIB // 2 :]])
            assert await socket.closed() == 1009

    async def test_a_socket_is_closed_with_1007_for_what_is_not_utf8(
        self, server: StreamingService
    ) -> None:
        for text in (b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc3'):
            async with raw(server.url) as tcp:
                await tcp.upgrade()
                await tcp.send_frame(text)
                assert await tcp.messages_and_close() == ([], 1007)

    async def test_a_socket_is_closed_with_1002_for_an_unmasked_frame(
        self, server: StreamingService
    ) -> None:
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.send(b"\x81\x02{}")
            assert await tcp.messages_and_close() == ([], 1002)

    async def test_a_socket_that_goes_wrong_is_nothing_to_the_others(
        self, server: StreamingService
    ) -> None:
        async with websocket(server.url) as other, raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.send(b"\xff" * 1000)
            opcode, _ = await tcp.frame()
            assert opcode == CLOSE
            await lives_on(other)

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
    @pytest.fixture
    async def client(self, server: StreamingService) -> AsyncIterator[httpx.AsyncClient]:
        async with http(server.url) as opened:
            yield opened

    @pytest.mark.parametrize("path", POSTS)
    @pytest.mark.parametrize("name", NOT_JSON)
    async def test_a_body_that_is_not_json_is_400(
        self, client: httpx.AsyncClient, path: str, name: str
    ) -> None:
        reply = await client.post(path, content=NOT_JSON[name].encode())
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "invalid_json"

    @pytest.mark.parametrize("path", POSTS)
    async def test_a_body_that_is_wrong_is_400_and_names_the_field(
        self, client: httpx.AsyncClient, path: str
    ) -> None:
        for text, code, param in WRONG.values():
            if not text.startswith(START) or '"action"' in text:
                continue
            reply = await client.post(path, content=text.encode())
            assert reply.status_code == 400, text[:200]
            error = reply.json()["error"]
            assert (error["code"], error["param"]) == (code, param)

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
        self, client: httpx.AsyncClient, path: str, upstream: FakeUpstream
    ) -> None:
        url = "data:image/png;base64," + "A" * 10_000_000
        part = {"type": "image_url", "image_url": {"url": url}}
        body = {"model": "fake", "messages": [{"role": "user", "content": [part]}]}
        assert (await client.post(path, json=body)).status_code == 200
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
        self, client: httpx.AsyncClient
    ) -> None:
        reply = await client.delete("/streaming/chat/a%20b")
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "request_id"
        assert (await client.get("/streaming/sse/chat/a%20b")).status_code in {400, 404}


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
