"""OpenAI's own wire: the `openai` package with only its base_url changed, and raw HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
import websockets
from openai.types.chat import ChatCompletionUserMessageParam

from streaming_api.service import StreamingService
from tests.clients import eventually, http, question, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import dechunked, raw
from tests.sdk import moody, sdk

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello"}]
PATH = "/v1/chat/completions"


@pytest.fixture
async def client(server: StreamingService) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(server) as client:
        yield client


class TestTheSdk:
    async def test_the_sdk_streams_an_answer(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        parts = [choice.delta.content async for chunk in stream for choice in chunk.choices]
        assert "".join(part or "" for part in parts) == upstream.default.text()
        sent = upstream.generations[0].request
        assert sent.headers["authorization"] == "Bearer sk-client"
        assert sent.json()["messages"] == HELLO

    async def test_the_sdk_gets_a_whole_answer(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        answer = await client.chat.completions.create(model="fake", messages=HELLO)
        assert answer.choices[0].message.content == upstream.default.text()
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.total_tokens == 17
        assert upstream.generations[0].request.json()["stream"] is False

    @pytest.mark.parametrize("asked", [True, False])
    async def test_the_sdk_gets_the_usage_chunk_if_and_only_if_it_asked(
        self, client: openai.AsyncOpenAI, *, asked: bool
    ) -> None:
        stream = await client.chat.completions.create(
            model="fake", messages=HELLO, stream=True, stream_options={"include_usage": asked}
        )
        chunks = [chunk async for chunk in stream]
        assert (chunks[-1].usage is not None) == asked
        assert any(not chunk.choices for chunk in chunks) == asked

    async def test_the_sdk_lists_the_models(self, client: openai.AsyncOpenAI) -> None:
        models = [model.id async for model in client.models.list()]
        assert "ten-tokens" in models

    async def test_the_sdk_tries_again_by_itself_what_failed_for_a_moment(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        async with moody(upstream):
            answer = await client.chat.completions.create(model="moody", messages=HELLO)
        assert answer.choices[0].message.content == upstream.default.text()

    async def test_the_sdk_that_closes_its_stream_frees_the_upstream(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        stream = await client.chat.completions.create(model="endless", messages=HELLO, stream=True)
        async for _ in stream:
            break
        await stream.close()
        left = time.monotonic()
        assert await (await upstream.generation()).wait_closed() - left < 1


class TestTheWire:
    async def test_the_wire_is_the_upstreams_chunks_and_done(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream
    ) -> None:
        reply = await caller.post(PATH, json=question(stream=True))
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-accel-buffering"] == "no"
        assert reply.headers["x-request-id"]
        events = reply.text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        for number, event in enumerate(events[:-2], start=1):
            assert event.startswith(f"id: {reply.headers['x-request-id']}:{number}\ndata: {{")
        assert len(events) == len(list(upstream.default.texts())) + 4  # role, finish, done, ""

    @pytest.mark.parametrize("path", ["/v1/responses", "/api/chat", "ws /v1/responses"])
    async def test_numbers_of_what_is_put_into_other_words_are_unchanged(
        self, server: StreamingService, upstream: FakeUpstream, path: str
    ) -> None:
        """Those of a field that is passed on, and those deep in a tool's schema."""
        numbers = b'{"a":[18446744073709551617,-0,1E5,1.0,-1e-400]}'
        fields = (
            b'{"type":"response.create","model":"fake","input":"Hi","id":"c","temperature":1.0,'
            b'"messages":[{"id":"m","role":"user","parts":[{"type":"text","text":"Hi"}]}],'
            b'"seed":-99999999999999999999,"extra":%b,'
            b'"tools":[{"type":"function","name":"f","parameters":%b}]}' % (numbers, numbers)
        )
        if path.startswith("ws "):
            address = server.url.replace("http", "ws", 1) + path.removeprefix("ws ")
            async with websockets.connect(address, proxy=None) as socket:
                await socket.send(fields.decode())
                generation = await upstream.generation()
        else:
            async with http(server.url) as caller:
                assert (await caller.post(path, content=fields)).status_code == 200
            generation = await upstream.generation()
        sent = generation.request.body
        assert b'"seed":-99999999999999999999' in sent
        assert b'"extra":' + numbers in sent
        assert b'"parameters":' + numbers in sent
        assert b'"temperature":1.0' in sent

    @pytest.mark.parametrize("options", ["", ', "stream_options": {"x": 1e2}'])
    async def test_the_wire_sends_the_upstream_what_the_client_wrote(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream, options: str
    ) -> None:
        """Digit by digit: numbers of any size and form, keys given twice, in their order."""
        written = (
            '"seed": 36893488147419103232,"n":1.0,"temperature":1E-1,"top_p": 0.10,'
            '"logit_bias":{"50256":-100.00, "1": -0},"messages": [{"role":"user","content":"Hi"} ],'
            '"x": 3.14159265358979323846264338327950288,"x": "{[,\\"stream\\":"'
        )
        ours = '{"model_id": "fake", "str\\u0065am": true, "request_id": "r-1", '
        reply = await caller.post(PATH, content=f"{ours}{written}{options}}}")
        assert reply.status_code == 200
        asked = upstream.generations[0].request
        assert asked.body.decode().startswith(f"{{{written},")
        sent = dict(asked.json())
        assert (sent["model"], sent["stream"], sent["n"]) == ("fake", True, 1.0)
        expected = {"include_usage": True} | ({"x": 100.0} if options else {})
        assert sent["stream_options"] == expected
        assert sent.keys().isdisjoint({"model_id", "request_id"})

    @pytest.mark.parametrize("stream", [True, False])
    async def test_the_wire_has_one_answer_for_one_idempotency_key(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream, *, stream: bool
    ) -> None:
        headers = {"Idempotency-Key": "k-1"}
        replies = await asyncio.gather(
            *(caller.post(PATH, json=question(stream=stream), headers=headers) for _ in range(3))
        )
        assert {reply.status_code for reply in replies} == {200}
        assert len({reply.text for reply in replies}) == 1
        assert len({reply.headers["x-request-id"] for reply in replies}) == 1
        assert len(upstream.generations) == 1

    async def test_the_wire_shows_a_resumable_answer_to_a_websocket_too(
        self, server: StreamingService, caller: httpx.AsyncClient, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated()
        asked = asyncio.create_task(caller.post(PATH, json=question(stream=True, request_id="k-1")))
        await upstream.generation()
        async with websocket(server.url) as socket:
            await socket.resume("k-1")
            gate.open()
            seen = await socket.answer()
        assert seen[-1]["data"]["finish_reason"] == "stop"
        assert (await asked).text.endswith("data: [DONE]\n\n")

    async def test_the_wire_says_that_it_was_cancelled_and_not_that_it_is_done(
        self, server: StreamingService, caller: httpx.AsyncClient, upstream: FakeUpstream
    ) -> None:
        asked = asyncio.create_task(
            caller.post(PATH, json=question("hang-midway", stream=True, request_id="k-1"))
        )
        generation = await upstream.generation()
        await upstream.until(lambda: generation.sent == 3)
        await eventually(lambda: server.context.answers.running[0].chunks == 4)
        assert (await caller.delete("/streaming/chat/k-1")).status_code == 204
        reply = await asked
        assert "[DONE]" not in reply.text
        assert '"code":"cancelled"' in reply.text.split("\n\n")[-2]

    async def test_the_wire_gives_an_answer_that_had_to_queue_whole_and_in_good_order(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, pool_size=1)
        gate = upstream.gated()
        async with http(server.url) as caller:
            async with asyncio.TaskGroup() as tasks:
                for stream in (True, False, True, False):
                    tasks.create_task(caller.post(PATH, json=question(stream=stream)))
                    await eventually(lambda: server.context.answers.running)
                await eventually(lambda: server.context.answers.queued == 3)
                last = tasks.create_task(caller.post(PATH, json=question(stream=True)))
                await eventually(lambda: server.context.answers.queued == 4)
                gate.open()
            assert last.result().status_code == 200
            assert last.result().text.endswith("data: [DONE]\n\n")

    async def test_the_wire_sends_a_heartbeat_before_the_first_token(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, sse_keep_alive_interval=0.05)
        gate = upstream.gated(Script(role=False))
        async with raw(server.url) as tcp:
            await tcp.request("POST", PATH, question(stream=True))
            head = await tcp.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            await tcp.until(b": ")
            gate.open()
            rest = await tcp.rest()
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")

    async def test_the_wire_gives_a_whole_answer_to_a_client_that_reads_it_late(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        """Heartbeats fall due while the body is still on its way."""
        server = await start_server(
            api_gateway_endpoint=upstream.url, sse_keep_alive_interval=0.05, stall_timeout=30
        )
        text = "x" * 8_000_000
        upstream.default = Script(tokens=(text,))
        async with raw(server.url, receive_buffer=4096) as tcp, raw(server.url) as other:
            await tcp.request("POST", PATH, question())
            await upstream.generation()
            await eventually(lambda: not server.context.answers.running)
            await other.request("GET", "/streaming/sse/alerts")
            for _ in range(3):
                await other.until(b": keep-alive")
            reply = await tcp.rest()
        head, _, body = reply.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert text.encode() in body

    async def test_the_wire_serves_http_1_0_without_chunks(self, server: StreamingService) -> None:
        async with raw(server.url) as tcp:
            await tcp.request("POST", f"{PATH}", question(stream=True))
            chunked = await tcp.rest()
        async with raw(server.url) as tcp:
            await tcp.send(_http_1_0(PATH, question(stream=True)))
            plain = await tcp.rest()
        assert b"chunked" not in plain.partition(b"\r\n\r\n")[0]
        body = dechunked(chunked.partition(b"\r\n\r\n")[2])
        assert _without_ids(plain.partition(b"\r\n\r\n")[2]) == _without_ids(body)


def _http_1_0(path: str, body: object) -> bytes:
    request = httpx.Request("POST", f"http://localhost{path}", json=body)
    content = request.read()
    return (
        f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content


class TestTheNextRequest:
    async def test_the_next_request_comes_on_the_same_connection(
        self, server: StreamingService
    ) -> None:
        """A client, or a proxy before us, keeps its connection from answer to answer."""
        keep = "Connection: keep-alive"
        async with raw(server.url) as tcp:
            for _ in range(3):
                await tcp.request("POST", PATH, question(stream=True), keep)
                assert (await tcp.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                await tcp.until(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            await tcp.request("POST", PATH, question(stream=False), keep)
            await tcp.until(b'"total_tokens"')
            await tcp.request("GET", "/health")
            assert (await tcp.rest()).endswith(b"}")
        assert server.connection_manager.open["sse"] == 0

    async def test_the_next_request_may_come_before_the_answer_has_ended(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated()
        async with raw(server.url) as tcp:
            await tcp.request("POST", PATH, question(stream=True), "Connection: keep-alive")
            await tcp.until(b"\r\n\r\n")
            await tcp.request("GET", "/health")
            gate.open()
            rest = await tcp.rest()
        assert b"data: [DONE]\n\n\r\n0\r\n\r\nHTTP/1.1 200 OK" in rest


class TestWhatIsPassedOn:
    """Null parameters, and errors of the upstream as they are."""

    async def test_null_means_not_set(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream
    ) -> None:
        """OpenAI's parameters are nullable, and typed clients send every one."""
        nulls = dict.fromkeys(("stream", "model_id", "tools", "stream_options"))
        reply = await caller.post(PATH, json=question() | nulls)
        assert reply.status_code == 200
        assert reply.json()["object"] == "chat.completion"
        sent = upstream.generations[0].request.json()
        assert sent["stream"] is False
        assert sent["tools"] is None

    @pytest.mark.parametrize("stream", [True, False])
    async def test_an_upstreams_error_object(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream, *, stream: bool
    ) -> None:
        """`innererror`, a null `code` and a number stay what they are."""
        error = {
            "message": "Filtered", "type": None, "param": "prompt", "code": None, "status": 400,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
        }  # fmt: skip
        body = json.dumps({"error": error}).encode()
        head = f"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        upstream.scripts["refused"] = Script(wire=head.encode() + b"\r\n\r\n" + body)
        reply = await caller.post(PATH, json=question(model="refused", stream=stream))
        assert reply.status_code == 400
        assert reply.json() == {"error": error | {"type": "upstream_error"}}


def _without_ids(events: bytes) -> bytes:
    """An event stream without the ids, which name its answer."""
    return re.sub(rb"(?m)^id: .*\n", b"", events)
