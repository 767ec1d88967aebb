"""OpenAI's chat wire, resumed: ids on its events, and what is served beside completions."""

from __future__ import annotations

import asyncio
import json

import attrs
import httpx
import httpx_sse
import pytest

from tests.clients import UNIT, question
from tests.fakes.upstream import FakeUpstream

PATH = "/v1/chat/completions"
TEN = "".join(f"t{number} " for number in range(10))


def text_of(events: list[httpx_sse.ServerSentEvent]) -> str:
    chunks = [json.loads(event.data) for event in events if event.data != "[DONE]"]
    choices = (choice for chunk in chunks for choice in chunk["choices"])
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def rest(
    caller: httpx.AsyncClient, path: str, last: str = ""
) -> list[httpx_sse.ServerSentEvent]:
    headers = {"Last-Event-ID": last} if last else {}
    async with httpx_sse.aconnect_sse(caller, "GET", path, headers=headers) as source:
        assert source.response.status_code == 200, await source.response.aread()
        return [event async for event in source.aiter_sse()]


class TestResume:
    @pytest.mark.parametrize("by_header", [True, False])
    async def test_an_answer_is_resumed_after_a_cut(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream, *, by_header: bool
    ) -> None:
        gate = upstream.gated(model="gated")
        asking = question("gated", stream=True, on_disconnect="grace")
        gate.release(3)
        events = []
        async with httpx_sse.aconnect_sse(caller, "POST", PATH, json=asking) as source:
            request_id = source.response.headers["x-request-id"]
            async for event in source.aiter_sse():
                events.append(event)
                if "t2" in event.data:
                    break
        gate.open()
        last = events[-1].id
        number = last.removeprefix(f"{request_id}:")
        if by_header:
            events += await rest(caller, f"{PATH}/{request_id}", last)
        else:
            events += await rest(caller, f"{PATH}/{request_id}?after={number}")
        assert text_of(events) == TEN
        assert events[-1].data == "[DONE]"
        assert [e.id for e in events[:-1]] == [f"{request_id}:{n}" for n in range(1, len(events))]

    async def test_an_answer_is_shown_again_from_the_start_and_whole(
        self, caller: httpx.AsyncClient
    ) -> None:
        first = await caller.post(PATH, json=question())
        again = await caller.get(f"{PATH}/{first.headers['x-request-id']}")
        assert again.json() == first.json()

    async def test_an_event_id_of_another_answer_is_refused(
        self, caller: httpx.AsyncClient
    ) -> None:
        first = await caller.post(PATH, json=question(stream=True))
        path = f"{PATH}/{first.headers['x-request-id']}"
        for headers in ({"Last-Event-ID": "other:1"}, {"Last-Event-ID": "x"}):
            reply = await caller.get(path, headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_value")
        assert (await caller.get(f"{path}?after=5000")).status_code == 400
        assert (await caller.get(f"{PATH}/nothing")).status_code == 404

    async def test_an_answer_that_was_seen_to_its_end_is_no_content(
        self, caller: httpx.AsyncClient
    ) -> None:
        first = await caller.post(PATH, json=question(stream=True))
        request_id = first.headers["x-request-id"]
        events = await rest(caller, f"{PATH}/{request_id}")
        number = len(events)  # ours of the end is not shown, and has the number after the last
        reply = await caller.get(f"{PATH}/{request_id}?after={number}")
        assert reply.status_code == 204

    async def test_delete_cancels_an_answer(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream
    ) -> None:
        asking = question("endless", stream=True, request_id="r1")
        reading = asyncio.create_task(caller.post(PATH, json=asking))
        generation = await upstream.generation()
        reply = await caller.delete(f"{PATH}/r1")
        assert reply.json() == {"id": "r1", "object": "chat.completion.deleted", "deleted": True}
        await asyncio.wait_for(generation.closed.wait(), UNIT)
        await reading
        assert (await caller.get(f"{PATH}/r1")).status_code == 404


class TestBeside:
    async def test_one_model_can_be_asked_for(self, caller: httpx.AsyncClient) -> None:
        reply = await caller.get("/v1/models/ten-tokens")
        assert reply.json()["id"] == "ten-tokens"
        reply = await caller.get("/v1/models/vendor/unknown")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")

    async def test_paths_without_v1_are_understood(self, caller: httpx.AsyncClient) -> None:
        assert (await caller.post("/chat/completions", json=question())).status_code == 200
        assert (await caller.get("/models")).json()["object"] == "list"

    async def test_what_is_not_there_says_what_is(self, caller: httpx.AsyncClient) -> None:
        reply = await caller.get("/v1/nothing")
        assert reply.status_code == 404
        assert "POST /v1/chat/completions" in reply.json()["error"]["message"]


class TestHeaders:
    @pytest.mark.parametrize("path", [PATH, "/v1/responses", "/api/chat"])
    @pytest.mark.parametrize("model", ["fake", "rate-limited"])
    async def test_headers_go_both_ways_by_their_names(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream, path: str, model: str
    ) -> None:
        shown = (
            ("x-ratelimit-remaining-requests", "41"),
            ("openai-processing-ms", "12"),
            ("x-should-retry", "false"),
            ("x-request-id", "theirs"),
            ("x-secret", "1"),
        )
        script = upstream.scripts.get(model, upstream.default)
        upstream.scripts[model] = attrs.evolve(script, headers=script.headers + shown)
        part = {"type": "text", "text": "Hello"}
        bodies = {
            PATH: question(model),
            "/v1/responses": {"model": model, "input": "Hello"},
            "/api/chat": {
                "id": "c", "model": model, "messages": [{"role": "user", "parts": [part]}],
            },
        }  # fmt: skip
        sent = {"OpenAI-Organization": "org", "baggage": "a=1", "Cookie": "secret"}
        reply = await caller.post(path, json=bodies[path], headers=sent)
        seen = upstream.generations[0].request.headers
        assert (seen["openai-organization"], seen["baggage"]) == ("org", "a=1")
        assert "cookie" not in seen
        assert reply.headers["x-ratelimit-remaining-requests"] == "41"
        assert reply.headers["openai-processing-ms"] == "12"
        assert reply.headers["x-should-retry"] == "false"
        assert reply.headers["x-upstream-request-id"] == "theirs"
        assert "x-secret" not in reply.headers
        assert seen["x-request-id"] == reply.headers["x-request-id"]
        again = await caller.post(path, json=bodies[path], headers={"X-REQUEST-ID": "mine"})
        assert upstream.generations[-1].request.headers["x-request-id"] == "mine"
        assert again.headers["x-request-id"] != "mine"
