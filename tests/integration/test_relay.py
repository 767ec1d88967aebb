"""Requests that are passed on to the gateway as they are: bytes, credentials, faults, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest
from aiohttp import web
from multidict import CIMultiDict

from streaming_api.connections.turns import Turns
from streaming_api.service import StreamingService
from tests.clients import UNIT, bearer, eventually, http, key
from tests.conftest import StartServer
from tests.raw import raw

PATH: Final = "/v1/embeddings"
MEGABYTE: Final = bytes(range(256)) * 4096


class Gateway:
    """An upstream that says what it got, and what it is to say."""

    def __init__(self) -> None:
        self.requests: list[tuple[web.Request, bytes]] = []
        self.left = asyncio.Event()
        self.answer: Callable[[web.Request, bytes], Awaitable[web.StreamResponse]] = self.echo
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/models"):
            return web.json_response({"object": "list", "data": []})
        body = await request.read()
        self.requests.append((request, body))
        try:
            return await self.answer(request, body)
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def echo(self, request: web.Request, body: bytes) -> web.StreamResponse:  # noqa: ARG002
        return web.Response(body=body, headers={"X-Request-Id": "theirs", "X-Custom": "1"})

    @property
    def seen(self) -> web.Request:
        return self.requests[-1][0]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    found = Gateway()
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture
async def server(start_server: StartServer, gateway: Gateway) -> StreamingService:
    return await start_server(api_gateway_endpoint=gateway.url)


@asynccontextmanager
async def serving(
    start_server: StartServer, **settings: object
) -> AsyncIterator[httpx.AsyncClient]:
    server = await start_server(**settings)
    async with http(server.url) as caller:
        yield caller


def held(
    gateway: Gateway, release: asyncio.Event
) -> Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]:
    """A gateway's answer that waits to be released."""

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        await release.wait()
        return await gateway.echo(request, body)

    return answer


class TestBytes:
    async def test_a_compressed_body_is_passed_on_in_turns(
        self, caller: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        turns: list[Turns] = []
        pause = Turns.pause

        async def counted(turns_of: Turns) -> None:
            turns.append(turns_of)
            await pause(turns_of)

        monkeypatch.setattr(Turns, "pause", counted)
        body = bytes(9 * len(MEGABYTE))
        headers = {"Content-Encoding": "gzip"}
        reply = await caller.post(PATH, content=gzip.compress(body), headers=headers)
        assert (reply.status_code, reply.content) == (200, body)
        assert len(turns) >= 9

    @pytest.mark.parametrize("size", [0, 1, 1000, len(MEGABYTE), 9 * len(MEGABYTE)])
    async def test_bytes_go_both_ways_as_they_are(
        self, caller: httpx.AsyncClient, gateway: Gateway, size: int
    ) -> None:
        body = (MEGABYTE * 9)[:size]
        reply = await caller.post(PATH, content=body)
        assert (reply.status_code, reply.content) == (200, body)
        assert gateway.seen.content_length in {size, None}

    async def test_bytes_in_chunks_go_both_ways_too(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield MEGABYTE[:70_000]

        reply = await caller.post(PATH, content=pieces())
        assert reply.content == MEGABYTE[:70_000] * 20
        assert gateway.seen.headers["Transfer-Encoding"] == "chunked"

    @pytest.mark.parametrize("size", [100, 1_000_000])
    async def test_bytes_that_come_compressed_are_what_they_were_before(
        self, caller: httpx.AsyncClient, gateway: Gateway, size: int
    ) -> None:
        text = bytes(range(256)) * (size // 256 + 1)
        headers = {"Content-Encoding": "gzip"}
        reply = await caller.post(PATH, content=gzip.compress(text), headers=headers)
        assert reply.status_code == 200
        assert gateway.requests[-1][1] == text
        assert "Content-Encoding" not in gateway.seen.headers

    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ("Content-Encoding: gzip\r\nContent-Length: 9", b"not gzip!"),
            (
                "Content-Encoding: gzip\r\nTransfer-Encoding: chunked",
                b"9\r\nnot gzip!\r\n0\r\n\r\n",
            ),
            ("Transfer-Encoding: chunked", b"9\r\n123456789\r\nnonsense\r\n"),
        ],
    )
    async def test_bytes_that_are_not_what_they_say_end_the_request(
        self, server: StreamingService, headers: str, body: bytes
    ) -> None:
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n"
        async with raw(server.url) as client:
            await client.send(head.encode() + body)
            assert b" 400 " in await client.until(b'"code":"invalid_http"')
        await eventually(lambda: not server.context.answers.queue.busy)

    @pytest.mark.parametrize("size", [1_000, 1_000_000])
    async def test_a_body_is_asked_for_where_the_client_waits_to_be_asked(
        self, server: StreamingService, gateway: Gateway, size: int
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(UNIT):
            head = (
                f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n"
                f"Content-Length: {size}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(b"x" * size)
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert gateway.requests[-1][1] == b"x" * size

    async def test_bytes_of_a_stream_come_as_they_are_said(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        heard = asyncio.Event()

        async def stream(request: web.Request, body: bytes) -> web.StreamResponse:  # noqa: ARG001
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b"data: 1\n\n")
            await heard.wait()
            await response.write(b"data: 2\n\n")
            return response

        gateway.answer = stream
        async with caller.stream("POST", "/v1/messages", json={}) as reply:
            lines = reply.aiter_lines()
            assert await anext(lines) == "data: 1"
            heard.set()
            assert [line async for line in lines if line] == ["data: 2"]

    async def test_bytes_of_a_compressed_reply_stay_compressed(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        async def zipped(request: web.Request, body: bytes) -> web.StreamResponse:  # noqa: ARG001
            response = web.Response(body=body)
            response.enable_compression(web.ContentCoding.gzip)
            return response

        gateway.answer = zipped
        reply = await caller.post(PATH, content=MEGABYTE, headers={"Accept-Encoding": "gzip"})
        assert reply.headers["content-encoding"] == "gzip"
        assert reply.content == MEGABYTE

    async def test_bytes_are_not_hoarded_for_a_client_that_does_not_read(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        written = 0

        async def flood(request: web.Request, body: bytes) -> web.StreamResponse:  # noqa: ARG001
            nonlocal written
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(MEGABYTE)
                written += 1

        gateway.answer = flood
        async with caller.stream("POST", PATH, json={}):
            await eventually(lambda: written)
            before = -1
            while before != written:
                before = written
                await asyncio.sleep(0.2)
            assert written < 64
        await asyncio.wait_for(gateway.left.wait(), UNIT)


class TestHeads:
    async def test_heads_pass_what_is_for_the_other_end(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        reply = await caller.post(
            f"{PATH}?a=1&b=%20",
            json={},
            headers={
                "anthropic-version": "2023-06-01",
                "traceparent": "00-1",
                "Cookie": "secret=1",
                "X-Forwarded-For": "10.0.0.1",
                "Connection": "keep-alive, X-Hop",
                "X-Hop": "1",
            },
        )
        seen = gateway.seen
        assert (seen.method, seen.raw_path) == ("POST", f"{PATH}?a=1&b=%20")
        assert seen.headers["anthropic-version"] == "2023-06-01"
        assert seen.headers["traceparent"] == "00-1"
        for name in ("Cookie", "X-Forwarded-For", "X-Hop"):
            assert name not in seen.headers
        assert reply.headers["X-Custom"] == "1"
        assert reply.headers["X-Upstream-Request-Id"] == "theirs"

    async def test_heads_have_every_line_but_those_about_pages(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        async def answer(*_: object) -> web.StreamResponse:
            lines = [
                ("Content-Disposition", 'inline; filename="é.mp3"'),
                ("Link", "</1>"),
                ("Link", "</2>"),
                ("Access-Control-Allow-Credentials", "true"),
            ]
            return web.Response(headers=CIMultiDict(lines))

        gateway.answer = answer
        reply = await caller.post(PATH, json={})
        assert reply.headers.get_list("Link") == ["</1>", "</2>"]
        assert 'filename="é.mp3"'.encode() in b"".join(value for _, value in reply.headers.raw)
        assert "Access-Control-Allow-Credentials" not in reply.headers

    @pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/audio/speech", "/tokenize"])
    async def test_requests_go_to_the_same_path(
        self, caller: httpx.AsyncClient, gateway: Gateway, path: str
    ) -> None:
        assert (await caller.post(path, json={})).status_code == 200
        assert gateway.seen.path == path

    async def test_requests_go_below_the_base_of_the_gateway(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        url = f"{gateway.url}/openai/v1"
        async with serving(start_server, api_gateway_endpoint=url) as caller:
            await caller.post(PATH, json={})
            assert gateway.seen.path == "/openai/v1/embeddings"
            await caller.post("/tokenize", json={})
            assert gateway.seen.path == "/openai/tokenize"

    @pytest.mark.parametrize("path", ["/v1/audio/..%2f..%2fadmin", "/v1/audio/%2e%2e/admin"])
    async def test_requests_lead_nowhere_else(
        self, caller: httpx.AsyncClient, gateway: Gateway, path: str
    ) -> None:
        reply = await caller.post(httpx.URL(path), json={})
        assert reply.status_code == 404 or "admin" in gateway.seen.raw_path.split("audio/")[1]
        assert not any(request.path == "/admin" for request, _ in gateway.requests)


class TestCredentials:
    async def test_the_gateways_own_key_is_sent(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        given = {"api_gateway_endpoint": gateway.url, "gateway_api_key": "sk-gateway"}
        async with serving(start_server, **given, api_keys=[key("sk-client")]) as caller:
            for headers in ({"x-api-key": "sk-client"}, bearer("sk-client")):
                reply = await caller.post("/v1/messages", json={}, headers=headers)
                assert reply.status_code == 200
                assert gateway.seen.headers["Authorization"] == "Bearer sk-gateway"
                assert gateway.seen.headers.get("x-api-key") in {None, "sk-gateway"}
            refused = await caller.post("/v1/messages", json={}, headers={"x-api-key": "nonsense"})
            assert refused.status_code == 401
        assert len(gateway.requests) == 2

    async def test_the_clients_own_key_is_sent_where_no_other_is_configured(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        await caller.post("/v1/messages", json={}, headers={"x-api-key": "sk-own"})
        assert gateway.seen.headers["x-api-key"] == "sk-own"
        assert gateway.seen.headers["Authorization"] == "Bearer sk-own"


class TestDoors:
    """What holds for answers holds for what is passed on."""

    async def test_a_key_for_some_models_may_ask_no_other(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        keys = [key("sk-client", models=["small"])]
        async with serving(start_server, api_gateway_endpoint=gateway.url, api_keys=keys) as caller:
            headers = bearer("sk-client")
            asked = {"model": "small", "input": "x" * 300_000}
            reply = await caller.post(PATH, json=asked, headers=headers)
            assert (reply.status_code, gateway.requests[-1][1]) == (200, reply.request.content)
            packed = {**headers, "Content-Encoding": "gzip"}
            hidden = gzip.compress(b'{"model": "large"}')
            for refused in (
                await caller.post(PATH, json={"model": "large"}, headers=headers),
                await caller.post(PATH, json={"input": "x"}, headers=headers),
                await caller.post(PATH, content=hidden, headers=packed),
                await caller.post("/v1/audio/transcriptions", data={"model": "small"},
                                  files={"file": b"x"}, headers=headers),
            ):  # fmt: skip
                assert refused.status_code == 403
                assert refused.json()["error"]["code"] == "model_not_allowed"
        assert len(gateway.requests) == 1

    async def test_a_request_counts_among_the_answers_of_its_key(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        release = asyncio.Event()
        gateway.answer = held(gateway, release)
        keys = [key("sk-client", answers=1)]
        async with serving(start_server, api_gateway_endpoint=gateway.url, api_keys=keys) as caller:
            headers = bearer("sk-client")
            running = asyncio.create_task(caller.post(PATH, json={}, headers=headers))
            await eventually(lambda: gateway.requests)
            chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
            for path, body in ((PATH, {}), ("/v1/chat/completions", chat)):
                refused = await caller.post(path, json=body, headers=headers)
                code = refused.json()["error"]["code"]
                assert (refused.status_code, code) == (429, "too_many_answers")
            release.set()
            assert (await running).status_code == 200
            assert (await caller.post(PATH, json={}, headers=headers)).status_code == 200

    @pytest.mark.parametrize(
        ("said", "tokens"),
        [
            (b'{"usage": {"prompt_tokens": 3, "total_tokens": 3}, "data": []}', (3, 0)),
            (b'{"data": "%b", "usage":{"prompt_tokens":5,"completion_tokens":7}}', (5, 7)),
            ((b'data: {"message":{"usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
             b'data: {"text":"\\"output_tokens\\": 99"}\n\n%b'
             b'data: {"usage":{"output_tokens":20}}\n\n'), (9, 20)),
            (b"nothing of the kind", (0, 0)),
        ],
    )  # fmt: skip
    async def test_the_tokens_of_a_request_count_for_its_key(
        self, start_server: StartServer, gateway: Gateway, said: bytes, tokens: tuple[int, int]
    ) -> None:
        said = said.replace(b"%b", b": a comment\n\n" * 10_000)

        async def say(request: web.Request, body: bytes) -> web.StreamResponse:  # noqa: ARG001
            assert "gzip" not in request.headers.get("Accept-Encoding", "")
            return web.Response(body=said)

        gateway.answer = say
        keys = [key("sk-client", "chat", "admin", tokens_per_day=1)]
        async with serving(start_server, api_gateway_endpoint=gateway.url, api_keys=keys) as caller:
            headers = bearer("sk-client")
            assert (await caller.post(PATH, json={}, headers=headers)).content == said
            usage = (await caller.get("/streaming/usage", headers=headers)).json()["keys"][0]
            assert (usage["input_tokens"], usage["output_tokens"]) == tokens
            assert (usage["answers"], usage["failed"]) == (1, 0)
            again = await caller.post(PATH, json={}, headers=headers)
            assert again.status_code == (429 if any(tokens) else 200)

    async def test_a_stop_lets_a_request_end_and_takes_no_other(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        release = asyncio.Event()
        gateway.answer = held(gateway, release)
        server = await start_server(api_gateway_endpoint=gateway.url)
        async with http(server.url) as caller:
            running = asyncio.create_task(caller.post(PATH, json={}))
            await eventually(lambda: gateway.requests)
            draining = asyncio.create_task(server.context.answers.drain(2 * UNIT))
            await eventually(lambda: server.context.answers.draining)
            refused = await caller.post(PATH, json={})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert not draining.done()
            release.set()
            assert (await running).status_code == 200
            await asyncio.wait_for(draining, UNIT)

    async def test_a_stop_waits_for_a_request_no_longer_than_it_shall(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        gateway.answer = held(gateway, asyncio.Event())
        server = await start_server(api_gateway_endpoint=gateway.url)
        async with http(server.url) as caller:
            running = asyncio.create_task(caller.post(PATH, json={}))
            await eventually(lambda: gateway.requests)
            await asyncio.wait_for(server.context.answers.drain(0.01), UNIT)
            with pytest.raises(httpx.RemoteProtocolError):
                await running
            await asyncio.wait_for(gateway.left.wait(), UNIT)


class TestFaults:
    async def test_faults_of_the_gateway_are_its_own(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        async def refuse(request: web.Request, body: bytes) -> web.StreamResponse:  # noqa: ARG001
            return web.json_response({"error": "busy"}, status=429, headers={"Retry-After": "7"})

        gateway.answer = refuse
        reply = await caller.post(PATH, json={})
        assert (reply.status_code, reply.json()) == (429, {"error": "busy"})
        assert reply.headers["Retry-After"] == "7"

    async def test_a_cut_is_a_cut(self, caller: httpx.AsyncClient, gateway: Gateway) -> None:
        async def cut(request: web.Request, body: bytes) -> web.StreamResponse:  # noqa: ARG001
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"half")
            assert request.transport is not None
            request.transport.abort()
            return response

        gateway.answer = cut
        with pytest.raises(httpx.RemoteProtocolError):
            await caller.post(PATH, json={})

    async def test_a_gateway_that_is_not_there_is_a_bad_gateway(
        self, start_server: StartServer
    ) -> None:
        """In OpenAI's shape, and for messages in Anthropic's."""
        async with serving(start_server, api_gateway_endpoint="http://127.0.0.1:9") as caller:
            reply = await caller.post(PATH, json={})
            code = reply.json()["error"]["code"]
            assert (reply.status_code, code) == (502, "upstream_unreachable")
            said = (await caller.post("/v1/messages", json={})).json()
            assert (said["type"], bool(said["error"]["message"])) == ("error", True)

    async def test_faults_elsewhere_have_anthropics_shape_for_its_clients(
        self, caller: httpx.AsyncClient
    ) -> None:
        header = {"anthropic-version": "2023-06-01"}
        for path, why in (
            ("/v1/messages/batches", "relay_paths"),
            ("/v1/models/nope", "does not exist"),
            ("/v1/files", "relay_paths"),
        ):
            refused = await caller.get(path, headers=header)
            assert refused.status_code == 404
            assert refused.json()["type"] == "error"
            assert why in refused.json()["error"]["message"]
            if "messages" not in path:
                assert "type" not in (await caller.get(path)).json(), "OpenAI's shape for others"

    async def test_who_leaves_is_gone_for_the_gateway_too(
        self, caller: httpx.AsyncClient, gateway: Gateway, server: StreamingService
    ) -> None:
        gateway.answer = held(gateway, asyncio.Event())
        asking = asyncio.create_task(caller.post(PATH, json={}))
        await eventually(lambda: gateway.requests)
        asking.cancel()
        await asyncio.wait_for(gateway.left.wait(), UNIT)
        await eventually(lambda: server.context.answers.queue.busy == 0)
        assert server.context.telemetry.relayed["failed"] == 1


class TestARequestThatIsAnsweredBeforeItsEnd:
    """The gateway refuses a body by its head, and still takes what comes for the rest of it."""

    @pytest.mark.parametrize("length", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
    async def test_a_request_after_it_is_no_part_of_it(
        self, start_server: StartServer, length: str
    ) -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
                    if b"Content-Length: 1000000" in head:
                        await reader.readexactly(1_000_000)
                    elif b"chunked" in head:
                        await reader.readuntil(b"0\r\n\r\n")
            writer.close()

        gateway = await asyncio.start_server(refuse, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{gateway.sockets[0].getsockname()[1]}"
        server = await start_server(api_gateway_endpoint=url)
        async with raw(server.url) as first, http(server.url) as other:
            begun = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n\r\n"
            await first.send(begun.encode() + b"1\r\nx\r\n")
            assert b" 401 " in await first.until(b"{}")
            assert (await other.post(PATH)).status_code == 401
        gateway.close()


class TestWhatIsPassedOn:
    async def test_what_is_passed_on_is_a_setting(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        given = {"api_gateway_endpoint": gateway.url, "relay_paths": ("/v1/files*",)}
        async with serving(start_server, **given) as caller:
            assert (await caller.get("/v1/files/f-1")).status_code == 200
            assert gateway.seen.path == "/v1/files/f-1"
            assert (await caller.get("/v1/files?limit=2")).status_code == 200
            assert gateway.seen.raw_path == "/v1/files?limit=2"
            assert (await caller.post(PATH, json={})).status_code == 404

    async def test_what_is_passed_on_may_have_a_length_and_no_body(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        async def answer(*_: object) -> web.StreamResponse:
            return web.Response(headers={"Content-Length": "12345", "X-Custom": "1"})

        gateway.answer = answer
        given = {"api_gateway_endpoint": gateway.url, "relay_paths": ("/v1/files*",)}
        async with serving(start_server, **given) as caller:
            for _ in range(2):  # also on a connection that has had one
                reply = await caller.head("/v1/files/f-1/content")
                assert reply.headers["Content-Length"] == "12345"
                assert reply.headers["X-Custom"] == "1"

    async def test_what_is_passed_on_may_be_asked_for_by_pages(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        page = "https://page.example"
        given = {"allowed_origins": (page,), "api_keys": (key("k"),)}
        asked = {"Origin": page, "Access-Control-Request-Method": "DELETE"}
        async with serving(
            start_server, api_gateway_endpoint=gateway.url, relay_paths=("/v1/files*",), **given
        ) as caller:
            reply = await caller.options("/v1/files/f-1", headers=asked)
        assert reply.status_code == 204
        assert "DELETE" in reply.headers["Access-Control-Allow-Methods"].split(", ")
        assert not gateway.requests

    async def test_what_is_passed_on_is_not_files_by_default(
        self, caller: httpx.AsyncClient
    ) -> None:
        assert (await caller.get("/v1/files")).status_code == 404

    async def test_what_is_passed_on_waits_in_the_same_queue(
        self, start_server: StartServer, gateway: Gateway
    ) -> None:
        release = asyncio.Event()
        gateway.answer = held(gateway, release)
        server = await start_server(api_gateway_endpoint=gateway.url, pool_size=1, max_queued=1)
        async with http(server.url) as caller:
            asking = [asyncio.create_task(caller.post(PATH, json={})) for _ in range(2)]
            await eventually(lambda: server.context.answers.queue.queued == 1)
            assert (await caller.post(PATH, json={})).status_code == 503
            release.set()
            assert [(await task).status_code for task in asking] == [200, 200]

    async def test_what_is_passed_on_uses_a_kept_connection(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        for _ in range(3):
            await caller.post(PATH, json={})
        transports = {id(request.transport) for request, _ in gateway.requests}
        assert len(transports) == 1

    async def test_a_kept_connection_that_says_408_had_waited_in_vain(
        self, caller: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        transports: list[object] = []

        async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
            is_kept = request.transport in transports
            transports.append(request.transport)
            if is_kept:
                return web.Response(status=408, text="Your browser was too slow.")
            return await gateway.echo(request, body)

        gateway.answer = answer
        for text in (b"one", b"two"):
            reply = await caller.post(PATH, content=text)
            assert (reply.status_code, reply.content) == (200, text)
        assert len(transports) == 3
