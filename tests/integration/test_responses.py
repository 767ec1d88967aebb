"""The Responses API: the `openai` package with only its base_url changed, and raw HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import httpx_sse
import openai
import pytest
from openai.types.responses import FunctionToolParam

from streaming_api.service import StreamingService
from tests.clients import UNIT, bearer, eventually, http, key
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.responses import text_of, types, valid_event, valid_response
from tests.sdk import sdk

Json = dict[str, Any]
PATH = "/v1/responses"
ADD: FunctionToolParam = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {}},
    "strict": False,
}
TEN = "".join(f"t{number} " for number in range(10))


@pytest.fixture
async def client(server: StreamingService) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(server, attempts=1) as client:
        yield client


async def events_of(
    caller: httpx.AsyncClient, method: str, path: str, body: Json | None = None
) -> list[Json]:
    """The events of a stream, each valid and named as its data says."""
    async with httpx_sse.aconnect_sse(caller, method, path, json=body) as source:
        assert source.response.status_code == 200, await source.response.aread()
        found = []
        async for event in source.aiter_sse():
            data = valid_event(json.loads(event.data))
            assert event.event == data["type"]
            found.append(data)
        return found


def chat_of(upstream: FakeUpstream, number: int = 0) -> Json:
    """What the upstream was asked."""
    asked: Json = upstream.generations[number].request.json()
    return asked


def first_data(text: str) -> str:
    return text.split("data: ")[1].split("\n", maxsplit=1)[0]


class TestCreate:
    async def test_a_response_is_created_whole(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        response = await client.responses.create(
            model="fake", input="Hello", instructions="Be brief.", metadata={"a": "b"}
        )
        valid_response(response.model_dump(exclude_unset=True))
        assert (response.output_text, response.status) == (TEN, "completed")
        assert response.id.startswith("resp_")
        assert response.usage is not None
        assert response.usage.total_tokens == 17
        sent = upstream.generations[0].request
        assert sent.headers["authorization"] == "Bearer sk-client"
        assert sent.json()["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ]
        assert sent.json()["metadata"] == {"a": "b"}

    async def test_every_event_of_a_response_is_valid(self, caller: httpx.AsyncClient) -> None:
        body = {"model": "reasoning", "input": "Hello", "stream": True}
        events = await events_of(caller, "POST", PATH, body)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert text_of(events) == TEN
        assert types(events)[-1] == "completed"

    async def test_parallel_calls_and_their_results_go_along(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        first = await client.responses.create(model="parallel-calls", input="?", tools=[ADD])
        valid_response(first.model_dump(exclude_unset=True))
        calls = [item for item in first.output if item.type == "function_call"]
        assert [(call.name, json.loads(call.arguments)) for call in calls] == [
            ("add", {"a": 1, "b": 2}),
            ("sub", {"a": 3, "b": 1}),
        ]
        second = await client.responses.create(
            model="fake",
            previous_response_id=first.id,
            input=[
                {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
                for call in calls
            ],
        )
        assert second.previous_response_id == first.id
        roles = [message["role"] for message in chat_of(upstream, 1)["messages"]]
        assert roles == ["user", "assistant", "tool", "tool"]

    async def test_a_call_comes_in_the_standards_order(self, caller: httpx.AsyncClient) -> None:
        body = {"model": "tool-calls", "input": "?", "tools": [ADD], "stream": True}
        kinds = types(await events_of(caller, "POST", PATH, body))
        assert kinds == [
            "created", "in_progress", "output_item.added", "function_call_arguments.delta",
            "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
            "completed",
        ]  # fmt: skip


class TestTurns:
    async def test_a_turn_goes_on_from_what_is_kept(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        first = await client.responses.create(model="fake", input="One", instructions="Be brief.")
        second = await client.responses.create(
            model="fake", input="Two", previous_response_id=first.id
        )
        third = await client.responses.create(
            model="fake", input="Three", previous_response_id=second.id
        )
        assert chat_of(upstream, 2)["messages"] == [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": TEN},
            {"role": "user", "content": "Two"},
            {"role": "assistant", "content": TEN},
            {"role": "user", "content": "Three"},
        ]
        items = await client.responses.input_items.list(third.id, order="asc", limit=3)
        assert [getattr(item, "role", None) for item in items.data] == ["user", "assistant", "user"]
        assert items.has_more
        again = [item.id async for item in items]
        assert len(again) == len(set(again)) == 5

    async def test_an_item_may_be_referred_to(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        first = await client.responses.create(model="fake", input="One")
        item_id = first.output[0].id
        assert item_id is not None
        await client.responses.create(
            model="fake",
            input=[{"type": "item_reference", "id": item_id}, {"role": "user", "content": "Two"}],
        )
        assert chat_of(upstream, 1)["messages"][0]["content"] == TEN

    async def test_a_turn_after_one_that_is_gone_is_refused(
        self, client: openai.AsyncOpenAI
    ) -> None:
        with pytest.raises(openai.NotFoundError) as refused:
            await client.responses.create(input="x", previous_response_id="resp_nothing")
        assert refused.value.code == "previous_response_not_found"
        assert refused.value.param == "previous_response_id"
        assert "Previous response with id 'resp_nothing' not found." in refused.value.message

    async def test_nothing_is_kept_without_store(self, client: openai.AsyncOpenAI) -> None:
        response = await client.responses.create(model="fake", input="One", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)

    async def test_somebody_elses_response_is_not_there(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        keys = (key("k1"), key("k2"))
        server = await start_server(api_gateway_endpoint=upstream.url, api_keys=keys)
        one, other = bearer("k1"), bearer("k2")
        async with http(server.url) as caller:
            made = await caller.post(PATH, json={"model": "fake", "input": "x"}, headers=one)
            assert made.status_code == 200
            found = await caller.get(f"{PATH}/{made.json()['id']}", headers=other)
            assert found.status_code == 404


class TestBackground:
    async def test_a_background_response_goes_on_without_anybody(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated(model="gated")
        response = await client.responses.create(model="gated", input="Hello", background=True)
        assert response.status == "in_progress"
        gate.open()
        async with asyncio.timeout(UNIT):
            while (found := await client.responses.retrieve(response.id)).status == "in_progress":
                await asyncio.sleep(0.01)
        assert (found.status, found.output_text) == ("completed", TEN)

    async def test_a_background_response_is_streamed_again_from_anywhere(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated(model="gated")
        stream = await client.responses.create(
            model="gated", input="Hello", background=True, stream=True
        )
        gate.release(3)
        seen: list[Any] = []
        async for event in stream:
            seen.append(event)
            if text_of([e.model_dump() for e in seen]) == "t0 t1 t2 ":
                break
        await stream.close()
        gate.open()
        response_id = seen[0].response.id
        again = await client.responses.retrieve(
            response_id, stream=True, starting_after=seen[-1].sequence_number
        )
        seen += [event async for event in again]
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert seen[-1].response.output_text == TEN

    async def test_a_background_response_is_cancelled(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        response = await client.responses.create(model="endless", input="x", background=True)
        generation = await upstream.generation()
        cancelled = await client.responses.cancel(response.id)
        assert cancelled.status == "cancelled"
        await asyncio.wait_for(generation.closed.wait(), UNIT)
        assert (await client.responses.cancel(response.id)).status == "cancelled"
        assert (await client.responses.retrieve(response.id)).status == "cancelled"

    async def test_a_background_response_is_deleted(
        self, client: openai.AsyncOpenAI, upstream: FakeUpstream
    ) -> None:
        response = await client.responses.create(model="endless", input="x", background=True)
        generation = await upstream.generation()
        await client.responses.delete(response.id)
        await asyncio.wait_for(generation.closed.wait(), UNIT)
        await upstream.until(lambda: not upstream.running)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)


class TestResume:
    async def test_a_response_is_resumed_byte_for_byte(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream
    ) -> None:
        body = {"model": "fake", "input": "Hello", "stream": True}
        whole = await caller.post(PATH, json=body)
        response_id = json.loads(first_data(whole.text))["response"]["id"]
        stream = f"{PATH}/{response_id}?stream=true"
        assert (await caller.get(stream)).content == whole.content
        rest = await caller.get(f"{stream}&starting_after=4")
        assert whole.text.endswith(rest.text)
        assert json.loads(first_data(rest.text))["sequence_number"] == 5
        assert len(upstream.generations) == 1

    async def test_a_response_is_resumed_in_mid_answer_after_a_cut(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated(model="gated")
        body = {"model": "gated", "input": "Hello", "stream": True}
        seen: list[Json] = []
        gate.release(2)
        async with httpx_sse.aconnect_sse(caller, "POST", PATH, json=body) as source:
            async for event in source.aiter_sse():
                seen.append(json.loads(event.data))
                if text_of(seen) == "t0 t1 ":
                    break
        gate.open()
        after = seen[-1]["sequence_number"]
        path = f"{PATH}/{seen[0]['response']['id']}?stream=true&starting_after={after}"
        seen += await events_of(caller, "GET", path)
        assert text_of(seen) == TEN
        assert [event["sequence_number"] for event in seen] == list(range(len(seen)))

    async def test_two_watch_the_same_events(
        self, caller: httpx.AsyncClient, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        gate = upstream.gated(model="gated")
        body = {"model": "gated", "input": "Hello", "background": True}
        made = (await caller.post(PATH, json=body)).json()
        path = f"{PATH}/{made['id']}?stream=true"
        async with http(server.url) as other:
            both = asyncio.gather(caller.get(path), other.get(path))
            await eventually(lambda: len(server.context.manager.connections) == 2)
            gate.open()
            first, second = await both
        assert first.content == second.content

    @pytest.mark.parametrize("after", ["x", "-1", "9" * 19, "5000"])
    async def test_a_nonsensical_resume_is_refused(
        self, caller: httpx.AsyncClient, after: str
    ) -> None:
        made = (await caller.post(PATH, json={"model": "fake", "input": "x"})).json()
        reply = await caller.get(f"{PATH}/{made['id']}?stream=true&starting_after={after}")
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "starting_after"

    async def test_a_whole_response_does_not_wait_for_its_own_events(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        """They take more than is kept of an answer, but its text does not."""
        upstream.default = Script(tokens=5_000)
        server = await start_server(api_gateway_endpoint=upstream.url, chat_retention_bytes=400_000)
        async with http(server.url) as caller:
            reply = await caller.post(PATH, json={"model": "fake", "input": "x"})
            assert reply.json()["output"][0]["content"][0]["text"].endswith("t4999 ")
            (answer,) = server.context.answers.present
            assert answer.faces["responses"].channel.slowest() > 5_000

    async def test_what_is_no_longer_kept_is_gone(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=400)
        server = await start_server(api_gateway_endpoint=upstream.url, chat_retention_messages=100)
        async with http(server.url) as caller:
            body = {"model": "fake", "input": "x", "background": True}
            path = f"{PATH}/{(await caller.post(PATH, json=body)).json()['id']}"
            async with asyncio.timeout(UNIT):
                while (whole := (await caller.get(path)).json())["status"] == "in_progress":
                    await asyncio.sleep(0.01)
            assert whole["output"][0]["content"][0]["text"].endswith("t399 ")
            reply = await caller.get(f"{path}?stream=true")
            assert (reply.status_code, reply.json()["error"]["code"]) == (410, "stream_evicted")

    async def test_a_retry_gets_the_same_response(
        self, caller: httpx.AsyncClient, upstream: FakeUpstream
    ) -> None:
        body = {"model": "fake", "input": "x"}
        headers = {"Idempotency-Key": "one"}
        replies = [await caller.post(PATH, json=body, headers=headers) for _ in range(2)]
        assert replies[0].json() == replies[1].json()
        assert len(upstream.generations) == 1

    @pytest.mark.parametrize(
        "other", [{"stream": True}, {"store": False}, {"background": True}, {"input": "y"}]
    )
    async def test_another_request_is_no_retry(
        self, caller: httpx.AsyncClient, other: Json
    ) -> None:
        body = {"model": "fake", "input": "x"}
        headers = {"Idempotency-Key": "one"}
        assert (await caller.post(PATH, json=body, headers=headers)).status_code == 200
        reply = await caller.post(PATH, json=body | other, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "idempotency_key_reused")


class TestEnds:
    @pytest.mark.parametrize(
        ("model", "status", "last"),
        [
            ("no-finish-reason", "incomplete", "incomplete"),
            ("cut-rst", "incomplete", "incomplete"),
            ("error-midway", "failed", "failed"),
        ],
    )
    async def test_the_end_of_a_response_is_honest(
        self, caller: httpx.AsyncClient, model: str, status: str, last: str
    ) -> None:
        body = {"model": model, "input": "Hello", "stream": True}
        events = await events_of(caller, "POST", PATH, body)
        assert types(events)[-1] == last
        assert events[-1]["response"]["status"] == status

    @pytest.mark.parametrize("stream", [True, False])
    async def test_an_error_before_the_first_token_is_an_http_error(
        self, client: openai.AsyncOpenAI, *, stream: bool
    ) -> None:
        with pytest.raises(openai.RateLimitError) as refused:
            await client.responses.create(model="rate-limited", input="x", stream=stream)
        assert refused.value.response.headers["Retry-After"] == "7"

    async def test_who_leaves_the_stream_may_come_back_in_time(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, resume_grace=0.2)
        body = {"model": "endless", "input": "x", "stream": True}
        async with http(server.url) as caller, caller.stream("POST", PATH, json=body) as response:
            await anext(response.aiter_lines())
        await (await upstream.generation()).wait_closed(UNIT)


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status", "param"),
        [
            ({"model": "fake"}, 400, "input"),
            ({"input": [{"type": "item_reference", "id": "msg_x_0"}]}, 404, "input"),
            ({"input": "x", "stream": "yes"}, 400, "stream"),
        ],
    )
    async def test_a_refused_request_names_the_field(
        self, caller: httpx.AsyncClient, body: Json, status: int, param: str
    ) -> None:
        reply = await caller.post(PATH, json=body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/resp_none"),
            ("GET", "/none"),
            ("POST", "/resp_none/cancel"),
            ("DELETE", "/resp_none"),
            ("GET", "/resp_none/input_items"),
        ],
    )
    async def test_a_response_that_is_not_there_is_refused(
        self, caller: httpx.AsyncClient, method: str, path: str
    ) -> None:
        reply = await caller.request(method, PATH + path)
        assert reply.status_code == 404
        assert "not found." in reply.json()["error"]["message"]

    async def test_the_limit_of_answers_a_key_counts(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, answers_per_key=1)
        body = {"model": "endless", "input": "x", "background": True}
        async with http(server.url) as caller:
            statuses = [(await caller.post(PATH, json=body)).status_code for _ in range(2)]
        assert statuses == [200, 429]
