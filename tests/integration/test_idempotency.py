"""Idempotency-Key: a retry joins, replays or asks again, and is never somebody else's answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import httpx
import pytest

from streaming_api.answers import idempotency
from streaming_api.errors import BadRequest
from streaming_api.service import StreamingService
from tests.clients import events, eventually, http, key, question, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Gate, Script
from tests.sdk import moody, sdk

PATH: Final = "/v1/chat/completions"
KEY: Final = {"Idempotency-Key": "k-1"}
FACES: Final = [(PATH, False), (PATH, True), ("/streaming/sse/chat", True)]


async def ask(
    server: StreamingService,
    path: str = PATH,
    key: str = "k-1",
    **fields: Any,  # noqa: ANN401 (of the question)
) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    if "authorization" in fields:
        headers["Authorization"] = str(fields.pop("authorization"))
    async with http(server.url) as client:
        return await client.post(path, json=question(**fields), headers=headers)


def results(server: StreamingService) -> Counter[str]:
    return server.context.telemetry.keyed_requests


class TestARetry:
    @pytest.mark.parametrize(("path", "stream"), FACES)
    async def test_a_retry_of_a_finished_answer_gets_it_again(
        self, server: StreamingService, upstream: FakeUpstream, path: str, *, stream: bool
    ) -> None:
        first = await ask(server, path, stream=stream)
        second = await ask(server, path, stream=stream)
        assert first.status_code == second.status_code == 200
        assert first.text == second.text
        assert len(upstream.generations) == 1
        assert results(server) == {"new": 1, "replayed": 1}

    @pytest.mark.parametrize(("path", "stream"), FACES)
    async def test_a_retry_of_a_running_answer_joins_it(
        self, server: StreamingService, upstream: FakeUpstream, path: str, *, stream: bool
    ) -> None:
        gate = upstream.gated()
        both = [asyncio.create_task(ask(server, path, stream=stream)) for _ in range(2)]
        await eventually(lambda: results(server).total() == 2)
        gate.open()
        first, second = await asyncio.gather(*both)
        assert (first.status_code, first.text) == (200, second.text)
        assert len(upstream.generations) == 1
        assert results(server) == {"new": 1, "joined": 1}

    @pytest.mark.parametrize(("path", "stream"), FACES)
    async def test_a_retry_of_one_that_failed_asks_again(
        self, server: StreamingService, upstream: FakeUpstream, path: str, *, stream: bool
    ) -> None:
        upstream.scripts["moody"] = upstream.scripts["error-500"]
        await ask(server, path, model="moody", stream=stream)
        del upstream.scripts["moody"]
        second = await ask(server, path, model="moody", stream=stream)
        assert second.status_code == 200
        assert "chat.completion" in second.text
        assert "error" not in second.text
        assert len(upstream.generations) == 2

    async def test_a_retry_written_in_another_way_gets_it_again(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        """Order and white space are the serialiser's; ``1.0`` for ``1`` may be the client's."""
        bodies = (
            b'{"model":"fake","messages":[{"role":"user","content":"H\xc3\xa9"}],"seed":1}',
            b'{ "seed" : 1, "messages": [{"content":"H\\u00e9" ,\n"role":"user"}],"model":"fake"}',
            b'{"model":"fake","messages":[{"role":"user","content":"H\xc3\xa9"}],"seed":1.0}',
        )
        statuses = []
        async with http(server.url) as client:
            for body in bodies:
                reply = await client.post("/v1/chat/completions", content=body, headers=KEY)
                statuses.append(reply.status_code)
        assert statuses == [200, 200, 422]
        assert len(upstream.generations) == 1

    async def test_a_retry_of_one_that_failed_asks_again_under_a_request_id_of_its_own_too(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        upstream.scripts["moody"] = upstream.scripts["error-500"]
        assert (await ask(server, model="moody", request_id="r-1")).status_code == 500
        del upstream.scripts["moody"]
        assert (await ask(server, model="moody", request_id="r-1")).status_code == 200
        assert (await ask(server, model="moody", request_id="r-1")).status_code == 200
        assert len(upstream.generations) == 2

    async def test_a_retry_by_the_sdk_itself_reaches_the_upstream(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        """Its retries carry the key of the first attempt."""
        async with sdk(server) as client, moody(upstream):
            answer = await client.chat.completions.create(
                model="moody", messages=[{"role": "user", "content": "Hi"}], extra_headers=KEY
            )
        assert answer.choices[0].message.content == upstream.default.text()

    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_retry_after_a_time_out_of_the_client_joins_what_goes_on_for_it(
        self, server: StreamingService, upstream: FakeUpstream, *, stream: bool
    ) -> None:
        """With a key, ``grace`` is the default on OpenAI's wire, too."""
        gate = upstream.gated()
        first = asyncio.create_task(ask(server, stream=stream))
        await upstream.generation()
        first.cancel()
        await eventually(lambda: not server.context.answers.running[0].channel.watched)
        gate.open()
        assert upstream.default.text().split()[0] in (await ask(server, stream=stream)).text
        assert len(upstream.generations) == 1

    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_retry_of_one_that_nobody_waited_for_asks_again(
        self, start_server: StartServer, upstream: FakeUpstream, *, stream: bool
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, resume_grace=0)
        upstream.scripts["slow"] = Script(gate=Gate())
        first = asyncio.create_task(ask(server, model="slow", stream=stream))
        await upstream.generation()
        first.cancel()
        await eventually(lambda: not server.context.answers.running)
        del upstream.scripts["slow"]
        assert (await ask(server, model="slow", stream=stream)).status_code == 200
        assert len(upstream.generations) == 2

    async def test_a_retry_after_a_refusal_is_the_first(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, pool_size=1, max_queued=0)
        gate = upstream.gated()
        busy = asyncio.create_task(ask(server, key="other"))
        await upstream.generation()
        assert (await ask(server)).status_code == 503
        assert len(server.context.bindings) == 1
        gate.open()
        await busy
        assert (await ask(server)).status_code == 200


class TestAnotherRequest:
    @pytest.mark.parametrize(
        "fields", [{"temperature": 1}, {"model": "ten-tokens"}, {"stream": True}]
    )
    @pytest.mark.parametrize("running", [True, False])
    async def test_another_request_under_the_same_key_is_422(
        self, server: StreamingService, upstream: FakeUpstream, fields: dict[str, Any],
        *, running: bool,
    ) -> None:  # fmt: skip
        gate = upstream.gated()
        first = asyncio.create_task(ask(server))
        await upstream.generation()
        if not running:
            gate.open()
            await first
        reply = await ask(server, **fields)
        assert reply.status_code == 422
        error = reply.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["code"] == "idempotency_key_reused"
        assert error.keys() == {"type", "code", "message", "param"}
        gate.open()
        assert (await first).status_code == 200
        assert results(server)["mismatched"] == 1

    async def test_another_request_under_the_key_of_one_that_failed_is_a_new_one(
        self, server: StreamingService
    ) -> None:
        assert (await ask(server, model="error-500")).status_code == 500
        assert (await ask(server)).status_code == 200

    async def test_another_request_of_another_owner_is_another(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        keys = [key("a"), key("b")]
        server = await start_server(api_gateway_endpoint=upstream.url, api_keys=keys)
        for name in ("a", "b"):
            reply = await ask(server, authorization=f"Bearer {name}", user=name)
            assert reply.status_code == 200
        assert len(upstream.generations) == 2

    async def test_another_request_with_another_credential_for_the_gateway_is_another(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        for name in ("a", "b"):
            assert (await ask(server, authorization=f"Bearer {name}")).status_code == 200
        assert len(upstream.generations) == 2


class TestAnAnswerThatIsNotKeptWhole:
    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("by", ["request_id", "key"])
    async def test_an_answer_not_kept_whole_is_410_when_it_is_asked_for_again(
        self, start_server: StartServer, upstream: FakeUpstream, by: str, *, stream: bool
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, chat_retention_bytes=100)
        same: dict[str, Any] = {"request_id": "r-1"} if by == "request_id" else {}
        keys = ("k-1", "k-2") if by == "request_id" else ("k-1", "k-1")
        first = await ask(server, key=keys[0], stream=stream, **same)
        assert first.status_code == 200
        await eventually(lambda: not server.context.answers.running)
        second = await ask(server, key=keys[1], stream=stream, **same)
        assert (second.status_code, second.json()["error"]["code"]) == (410, "stream_evicted")

    @pytest.mark.parametrize("kept", [1, 100, 1_000])
    async def test_an_answer_not_kept_whole_is_a_gap_and_its_end_on_our_own_wire(
        self, start_server: StartServer, upstream: FakeUpstream, kept: int
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, chat_retention_bytes=kept)
        upstream.default = Script(tokens=300)
        first = await ask(server, request_id="r-1")
        assert first.json()["object"] == "chat.completion"
        await eventually(lambda: not server.context.answers.running)
        async with events(server.url, "/streaming/sse/chat/r-1") as stream:
            over_sse = await stream.rest()
        async with websocket(server.url) as socket:
            await socket.start("r-1", stream=False)
            over_websocket = await socket.answer()
        for seen in (over_sse, over_websocket):
            gap, end = (message["data"] for message in seen)
            assert (gap["event"], gap["reason"], gap["from"]) == ("gap", "evicted", 1)
            assert end["object"] == "chat.completion.end"
        assert len(upstream.generations) == 1


class TestAKey:
    @pytest.mark.parametrize(
        ("written", "key"),
        [
            ("k", "k"),
            ('"k"', "k"),
            (r'"a\"b\\c"', 'a"b\\c'),
            ("stainless-node-retry-0:a/b+c=", "stainless-node-retry-0:a/b+c="),
            ("with a blank", "with a blank"),
            ('"', '"'),
            ("x" * 255, "x" * 255),
            ("é", "é"),
        ],
    )
    def test_a_key_is_what_is_printable(self, written: str, key: str) -> None:
        assert idempotency.parse_key([written]) == key

    @pytest.mark.parametrize("written", ["", " ", '""', "x" * 256, "a\tb", "a\x00", "\udcff"])
    def test_what_is_not_printable_is_no_key(self, written: str) -> None:
        with pytest.raises(BadRequest) as refused:
            idempotency.parse_key([written])
        assert refused.value.param == "Idempotency-Key"

    def test_more_than_one_key_is_refused(self) -> None:
        assert idempotency.parse_key([]) is None
        assert idempotency.parse_key(["k", "k"]) == "k"
        with pytest.raises(BadRequest):
            idempotency.parse_key(["k", "l"])

    async def test_a_key_is_the_same_quoted_or_not(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        for name in ("a:b/c", '"a:b/c"'):
            assert (await ask(server, key=name)).status_code == 200
        assert len(upstream.generations) == 1

    async def test_a_header_that_is_no_key_is_400(self, server: StreamingService) -> None:
        assert (await ask(server, key="x" * 256)).status_code == 400

    async def test_keys_are_counted(self, server: StreamingService) -> None:
        await ask(server)
        async with http(server.url) as client:
            text = (await client.get("/metrics")).text
        assert 'streaming_idempotent_requests_total{outcome="new"} 1.0' in text
        assert 'streaming_idempotent_requests_total{outcome="mismatched"} 0.0' in text
        assert "streaming_idempotency_keys 1.0" in text
