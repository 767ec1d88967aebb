"""Memory as a budget: what is held for clients is counted, shown, limited, and given back."""

from __future__ import annotations

import gc
import json
import tracemalloc
import weakref
from typing import Final

import pytest

from streaming_api.service import StreamingService
from streaming_api.telemetry.malloc import Trimmer
from tests.clients import eventually, http, question, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.integration.test_hostile import DEFLATE, UPGRADE, deflated, frame
from tests.raw import raw

MIB: Final = 2**20


def held(server: StreamingService) -> dict[str, int]:
    return server.connection_manager.budget.held()


def large(size: int, request_id: str) -> bytes:
    """A start of so many bytes, as a deflated frame of a thousandth."""
    fields = question(request_id=request_id, user="x" * size)
    text = json.dumps({"message_type": "chat_completion", **fields}).encode()
    return frame(deflated(text), bits=0x40)


class TestRequests:
    async def test_requests_that_wait_are_counted_refused_at_a_quarter_and_given_back(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(endless=True, rate=20)
        server = await start_server(
            api_gateway_endpoint=upstream.url, pool_size=1, memory_budget_mb=16, resume_grace=0
        )
        async with raw(server.url) as tcp:
            await tcp.send((UPGRADE + DEFLATE + "\r\n").encode())
            await tcp.until(b"\r\n\r\n")
            await tcp.send(b"".join(large(900_000, f"r-{n}") for n in range(10)))
            await tcp.until(b'"code":"memory"')
            assert MIB < held(server)["requests"] <= 4 * MIB
            assert server.context.telemetry.refusals["memory"]
            async with http(server.url) as client:
                reply = await client.post("/v1/chat/completions", json=question(user="x" * 900_000))
                assert (reply.status_code, reply.json()["error"]["code"]) == (429, "memory")
                assert int(reply.headers["Retry-After"]) >= 1
                text = (await client.get("/metrics")).text
                assert "streaming_memory_budget_bytes 1.6777216e+07" in text
                for kind in ("requests", "running", "kept", "evicted", "input", "unsent"):
                    assert f'streaming_memory_held_bytes{{kind="{kind}"}}' in text
                status = (await client.get("/streaming/status")).json()
                assert status["memory"]["held_bytes"]["requests"] > MIB
        await eventually(lambda: not server.context.answers.running)
        assert held(server)["requests"] == 0

    async def test_requests_of_ended_answers_are_not_kept(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=1)
        server = await start_server(api_gateway_endpoint=upstream.url)
        async with http(server.url) as client:
            for _ in range(20):
                await client.post("/v1/chat/completions", json=question(user="x" * 500_000))
        assert held(server)["requests"] == held(server)["input"] == 0
        assert held(server)["kept"] < MIB
        kept = server.context.answers._kept.values()
        assert sum(len(answer.request.parameters) for answer in kept) < 100


class TestAnswers:
    async def test_answers_that_are_kept_go_first(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=2_000)
        server = await start_server(api_gateway_endpoint=upstream.url, memory_budget_mb=8)
        async with websocket(server.url) as socket:
            for number in range(12):
                await socket.start(f"a-{number}")
                assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"
                assert sum(held(server).values()) == server.connection_manager.budget.bytes
                assert server.connection_manager.budget.bytes <= 2.2 * MIB
        async with http(server.url) as client:
            assert (await client.get("/streaming/sse/chat/a-0")).status_code == 410

    async def test_the_memory_for_kept_answers_has_a_setting(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=10)
        server = await start_server(api_gateway_endpoint=upstream.url, chat_kept_bytes=50_000)
        async with websocket(server.url) as socket:
            for number in range(10):
                await socket.start(f"a-{number}")
                await socket.answer()
        assert 0 < held(server)["kept"] <= 50_000

    async def test_answers_that_run_wait_for_memory_and_all_end_whole(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=3_000)
        server = await start_server(api_gateway_endpoint=upstream.url, memory_budget_mb=4)
        async with websocket(server.url) as socket:
            for number in range(5):
                await socket.start(f"a-{number}")
            ended = 0
            most = 0
            while ended < 5:
                message = await socket.receive()
                most = max(most, server.connection_manager.budget.bytes)
                if message["data"].get("object") == "chat.completion.end":
                    assert message["data"]["finish_reason"] == "stop"
                    assert message["data"]["timing"]["chunks"] >= 3_000
                    ended += 1
        assert most < 5 * MIB
        assert not server.context.answers.waiting


FACES: Final = {
    "/v1/responses": {"model": "fake", "input": "Hello", "stream": True},
    "/api/chat": {
        "id": "c",
        "model": "fake",
        "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}],
    },
    "/v1/chat/completions": question(stream=True),
    "/streaming/sse/chat": question(),
}


class TestFaces:
    @pytest.mark.parametrize("path", FACES)
    async def test_faces_count_with_their_answer_and_are_free_when_it_is_forgotten(
        self, path: str, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        """At once: nothing waits for the garbage collector, and no task keeps a connection."""
        upstream.default = Script(tokens=500)
        server = await start_server(
            api_gateway_endpoint=upstream.url, chat_retention_seconds=1, resume_grace=0
        )
        gc.collect()
        gc.disable()
        try:
            async with raw(server.url) as whole, raw(server.url, receive_buffer=4096) as left:
                for tcp in (whole, left):
                    await tcp.request("POST", path, FACES[path])
                await whole.rest()
                kept = 2 if path.startswith(("/v1/resp", "/api")) else 1
                assert held(server)["kept"] > kept * 100_000
                assert _weak_references(server) <= {weakref.ProxyType}
                await left.more()
            await eventually(lambda: not server.connection_manager.connections)
            await eventually(lambda: _forgotten(server))
            assert server.connection_manager.budget.bytes == 0
        finally:
            gc.enable()

    async def test_faces_count_what_a_response_was_asked(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url)
        items = [{"role": "user", "content": "x"} for _ in range(10_000)]
        async with http(server.url) as client:
            body = {"model": "fake", "input": items}
            assert (await client.post("/v1/responses", json=body)).status_code == 200
        assert held(server)["kept"] > 2 * MIB

    @pytest.mark.parametrize(
        "fields",
        [{"input": "x" * 100_000}, {"instructions": "x" * 100_000}, {"extra": "x" * 100_000},
         {"text": {"format": {"type": "json_schema", "name": "n", "schema": {
             "properties": {f"p{number}": {"type": "string"} for number in range(4_000)}}}}}],
        ids=["input", "instructions", "extra", "schema"],
    )  # fmt: skip
    async def test_what_is_kept_of_a_response_takes_what_is_counted(
        self, start_server: StartServer, upstream: FakeUpstream, fields: dict[str, object]
    ) -> None:
        """Bytes that orjson has written take ten times their length, and copies are not counted."""
        server = await start_server(api_gateway_endpoint=upstream.url)

        async def ask(times: int) -> int:
            for _ in range(times):
                body = {"model": "fake", "input": "Hello"} | fields
                reply = await client.post("/v1/responses", json=body)
                assert reply.status_code == 200
                upstream.generations.clear()
                upstream.requests.clear()
            gc.collect()
            return server.connection_manager.budget.bytes

        async with http(server.url) as client:
            before = await ask(1)
            tracemalloc.start()
            try:
                counted = await ask(10) - before
                taken, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert taken < 1.5 * counted + MIB

    async def test_what_a_response_was_asked_finds_room_or_is_refused(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        """As objects that are kept the items take thirty times what was sent."""
        server = await start_server(api_gateway_endpoint=upstream.url, memory_budget_mb=32)
        items = [{"role": "user", "content": "x"} for _ in range(10_000)]
        async with http(server.url) as client:
            reply = await client.post("/v1/responses", json={"model": "fake", "input": items})
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")
        assert not upstream.generations
        assert sum(held(server).values()) < MIB


def _weak_references(server: StreamingService) -> set[type]:
    """Kinds of weak references to kept answers; compiled, all but a face's own would dangle."""
    kept = server.context.answers._kept.values()
    return {type(reference) for answer in kept for reference in weakref.getweakrefs(answer)}


def _forgotten(server: StreamingService) -> bool:
    server.context.answers.evict()
    return not server.context.answers.present


class TestInput:
    async def test_input_that_is_half_sent_counts_and_ends_where_memory_is_short(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(memory_budget_mb=4)
        half = frame(b'{"x":"' + b"x" * 700_000, fin=False)
        async with raw(server.url) as one, raw(server.url) as two:
            for tcp in (one, two):
                await tcp.upgrade()
            await one.send(half)
            await eventually(lambda: held(server)["input"] > 600_000)
            await two.send(half)
            assert (await two.messages_and_close())[1] == 1013
        await eventually(lambda: held(server)["input"] == 0)
        assert server.connection_manager.budget.bytes == 0


def test_a_trim_is_worth_it_only_now_and_then() -> None:
    trimmer = Trimmer()
    trims: list[int] = []
    trimmer._trim = trims.append
    trimmer.look(100 * MIB, 0)
    trimmer._when -= 60
    assert not trimmer.look(102 * MIB, 0)
    assert not trimmer.look(150 * MIB, 50 * MIB), "what is held for clients is no reason"
    assert trimmer.look(150 * MIB, 0)
    assert not trimmer.look(300 * MIB, 0), "not so soon again"
    assert trims == [0], "all of it, once"


def test_what_could_not_be_given_back_at_once_is_tried_again_ever_more_seldom() -> None:
    """What was in use during a trim is free soon after, and nothing says so."""
    trimmer = Trimmer()
    trimmer.look(100 * MIB, 0)
    trimmer._when -= 5
    assert trimmer.look(300 * MIB, 0)
    waits = []
    for _ in range(8):
        assert not trimmer.look(250 * MIB, 0)
        waits.append(trimmer._wait)
        trimmer._when -= trimmer._wait
        assert trimmer.look(250 * MIB, 0)
    assert waits == [10, 20, 40, 80, 160, 320, 320, 320]
    assert not trimmer.look(101 * MIB, 0)
    trimmer._when -= 320
    assert not trimmer.look(102 * MIB, 0), "as good as ever"
    assert trimmer.look(110 * MIB, 0), "grown since the last one: soon again"
