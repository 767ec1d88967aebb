"""UI message streams over HTTP, as `useChat` of the AI SDK asks for them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import httpx_sse
import pytest

from streaming_api.service import StreamingService
from tests.clients import UNIT, bearer, http, key
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream

Json = dict[str, Any]
PATH = "/api/chat"
STREAM = f"{PATH}/c1/stream"
TEN = "".join(f"t{number} " for number in range(10))


def body(model: str = "fake", **fields: object) -> Json:
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}
    return {"id": "c1", "messages": [message], "trigger": "submit-message", "model": model} | fields


def events_of(reply: httpx.Response) -> list[Json]:
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert reply.headers["content-type"] == "text/event-stream"
    *events, done = reply.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def text_of(events: list[Json]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "text-delta")


async def test_a_message_is_streamed(caller: httpx.AsyncClient, upstream: FakeUpstream) -> None:
    events = events_of(await caller.post(PATH, json=body()))
    assert text_of(events) == TEN
    assert events[-1] == {"type": "finish", "finishReason": "stop"}
    sent = upstream.generations[0].request.json()
    assert sent["messages"] == [{"role": "user", "content": "Hello"}]
    assert sent["model"] == "fake"


async def test_a_page_that_comes_back_is_shown_all_of_it_again(
    caller: httpx.AsyncClient, server: StreamingService, upstream: FakeUpstream
) -> None:
    gate = upstream.gated(model="gated")
    gate.release(3)
    async with httpx_sse.aconnect_sse(caller, "POST", PATH, json=body("gated")) as source:
        async for event in source.aiter_sse():
            if "t2" in event.data:
                break
    async with http(server.url) as other:
        first = asyncio.create_task(caller.get(STREAM))
        second = asyncio.create_task(other.get(STREAM))
        gate.open()
        replies = await asyncio.gather(first, second)
    assert replies[0].content == replies[1].content
    assert text_of(events_of(replies[0])) == TEN
    assert len(upstream.generations) == 1
    assert (await caller.get(STREAM)).status_code == 204


async def test_an_answer_that_ended_unheard_is_shown_once(
    caller: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    gate = upstream.gated(model="gated")
    asking = body("gated", on_disconnect="finish")
    async with caller.stream("POST", PATH, json=asking) as response:
        gate.release()
        await anext(response.aiter_lines())
    gate.open()
    await upstream.until(lambda: not upstream.running)
    assert text_of(events_of(await caller.get(STREAM))) == TEN
    assert (await caller.get(STREAM)).status_code == 204


async def test_without_a_model_the_first_of_the_gateways_answers(
    caller: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    asked = body()
    del asked["model"]
    assert text_of(events_of(await caller.post(PATH, json=asked))) == TEN
    assert upstream.generations[0].model == "fake"


async def test_without_a_model_the_first_that_the_key_may_ask_answers(
    start_server: StartServer, upstream: FakeUpstream
) -> None:
    server = await start_server(
        api_gateway_endpoint=upstream.url, api_keys=[key("k", models=["structured", "ten-tokens"])]
    )
    asked = body()
    del asked["model"]
    async with http(server.url) as caller:
        reply = await caller.post(PATH, json=asked, headers=bearer("k"))
        listed = (await caller.get("/v1/models", headers=bearer("k"))).json()["data"]
        other = await caller.get("/v1/models/fake", headers=bearer("k"))
    assert text_of(events_of(reply)) == TEN
    assert upstream.generations[0].model == "ten-tokens"
    assert [model["id"] for model in listed] == ["ten-tokens", "structured"]
    assert other.status_code == 404


async def test_an_idle_chat_is_no_content(caller: httpx.AsyncClient) -> None:
    assert (await caller.get(STREAM)).status_code == 204
    assert (await caller.delete(f"{PATH}/c1")).status_code == 204
    await caller.post(PATH, json=body())
    assert (await caller.get(STREAM)).status_code == 204
    assert (await caller.head(STREAM)).status_code == 204


async def test_stop_ends_it_for_everybody(
    caller: httpx.AsyncClient, server: StreamingService, upstream: FakeUpstream
) -> None:
    asking = asyncio.create_task(caller.post(PATH, json=body("endless")))
    generation = await upstream.generation()
    await upstream.until(lambda: generation.sent)
    async with http(server.url) as other:
        assert (await other.delete(f"{PATH}/c1")).status_code == 204
    assert events_of(await asking)[-1] == {"type": "abort"}
    await asyncio.wait_for(generation.closed.wait(), UNIT)


async def test_calls_go_on_in_the_same_message(caller: httpx.AsyncClient) -> None:
    first = events_of(await caller.post(PATH, json=body("tool-calls")))
    call = next(event for event in first if event["type"] == "tool-input-available")
    part = {
        "type": "tool-add",
        "toolCallId": call["toolCallId"],
        "state": "output-available",
        "input": call["input"],
        "output": 3,
    }
    said = {"id": "m2", "role": "assistant", "parts": [{"type": "step-start"}, part]}
    messages = [*body()["messages"], said]
    second = events_of(await caller.post(PATH, json=body(messages=messages)))
    assert second[0] == {"type": "start", "messageId": "m2"}


@pytest.mark.parametrize("model", ["rate-limited", "error-midway", "cut-rst"])
async def test_faults_are_reported(caller: httpx.AsyncClient, model: str) -> None:
    reply = await caller.post(PATH, json=body(model))
    if model == "rate-limited":
        assert (reply.status_code, reply.json()["error"]["message"]) == (429, "Slow down.")
    else:
        assert events_of(reply)[-1]["type"] == "error"


async def test_what_is_wrong_in_a_message_is_refused_by_name(caller: httpx.AsyncClient) -> None:
    reply = await caller.post(PATH, json={"id": "c1", "messages": []})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages")


async def test_an_answer_is_asked_for_again_as_a_message_of_its_own(
    caller: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    first = events_of(await caller.post("/api/chat", json=body()))
    again = body(trigger="regenerate-message", messageId=first[0]["messageId"])
    second = events_of(await caller.post("/api/chat", json=again))
    assert text_of(second) == text_of(first)
    assert second[0]["messageId"] != first[0]["messageId"]
    sent = upstream.generations[1].request.json()
    assert not {"trigger", "messageId", "id"} & set(sent)


async def test_images_go_along_and_other_files_are_refused_by_name(
    caller: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    def asked(media_type: str) -> Json:
        url = f"data:{media_type};base64,AA=="
        parts = [
            {"type": "text", "text": "What is it?"},
            {"type": "file", "mediaType": media_type, "url": url, "filename": "a"},
        ]
        return body(messages=[{"id": "1", "role": "user", "parts": parts}])

    assert text_of(events_of(await caller.post("/api/chat", json=asked("image/png"))))
    sent: Json = upstream.generations[0].request.json()
    assert sent["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AA=="},
    }
    refused = await caller.post("/api/chat", json=asked("application/pdf"))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages[0].parts[1].mediaType"


async def test_with_chat_switched_off_it_is_not_there(start_server: StartServer) -> None:
    server = await start_server(streaming_chat_enabled=False)
    async with http(server.url) as caller:
        assert (await caller.post(PATH, json=body())).status_code == 404
        assert (await caller.get(STREAM)).status_code == 404
