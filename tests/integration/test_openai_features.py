"""What the `openai` package can do beyond a plain chat, with only its base_url changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import openai
import pytest
from pydantic import BaseModel

from streaming_api.service import StreamingService
from tests.clients import UNIT
from tests.fakes.upstream import FakeUpstream, Script
from tests.responses import valid_response

Json = dict[str, Any]
Client = openai.AsyncOpenAI
TEN: Final = "".join(f"t{number} " for number in range(10))
ASKED: Final[Any] = [{"role": "user", "content": "Hello"}]
PARAMETERS: Final = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
CHAT_TOOLS: Final[Any] = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS, "strict": True}}
    for name in ("add", "sub")
]
TOOLS: Final[Any] = [
    {"type": "function", "name": name, "parameters": PARAMETERS, "strict": True}
    for name in ("add", "sub")
]
IMAGE: Final = "data:image/png;base64,iVBORw0KGgo="


class City(BaseModel):
    city: str
    size: int


@pytest.fixture
async def client(server: StreamingService) -> AsyncIterator[Client]:
    async with Client(base_url=f"{server.url}/v1", api_key="sk-client", max_retries=0) as sdk:
        yield sdk


def run(name: str, arguments: str) -> str:
    """What the client's own functions return."""
    given = json.loads(arguments)
    return str(given["a"] + given["b"] if name == "add" else given["a"] - given["b"])


def asked(upstream: FakeUpstream, number: int = -1) -> Json:
    """What the upstream was asked."""
    found: Json = upstream.generations[number].request.json()
    return found


async def left(asking: asyncio.Task[Any], upstream: FakeUpstream) -> None:
    """Give up a request that the upstream has got, and wait until the upstream knows it."""
    generation = await upstream.generation()
    asking.cancel()
    await generation.wait_closed()


class TestChat:
    async def test_the_helper_for_chat_streams_works(self, client: Client) -> None:
        async with client.chat.completions.stream(model="fake", messages=ASKED) as stream:
            kinds = [event.type async for event in stream]
            completion = await stream.get_final_completion()
        assert {"chunk", "content.delta", "content.done"} <= set(kinds)
        assert completion.choices[0].message.content == TEN

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_a_chat_loops_over_parallel_tools(
        self, client: Client, upstream: FakeUpstream, *, streamed: bool
    ) -> None:
        messages: list[Any] = [*ASKED]
        for _ in range(2):
            if streamed:
                async with client.chat.completions.stream(
                    model="tool-loop", messages=messages, tools=CHAT_TOOLS
                ) as stream:
                    message: Any = (await stream.get_final_completion()).choices[0].message
            else:
                whole = await client.chat.completions.create(
                    model="tool-loop", messages=messages, tools=CHAT_TOOLS
                )
                message = whole.choices[0].message
            messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
            for call in message.tool_calls or ():
                result = run(call.function.name, call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        assert message.content == "Three and two."
        results = [m["content"] for m in asked(upstream)["messages"] if m["role"] == "tool"]
        assert results == ["3", "2"]

    async def test_a_chat_has_structured_output(
        self, client: Client, upstream: FakeUpstream
    ) -> None:
        parsed = await client.chat.completions.parse(
            model="structured", messages=ASKED, response_format=City
        )
        assert parsed.choices[0].message.parsed == City(city="Paris", size=2)
        assert asked(upstream)["response_format"]["json_schema"]["name"] == "City"

    async def test_a_chat_says_that_it_was_refused(self, client: Client) -> None:
        async with client.chat.completions.stream(
            model="refusal", messages=ASKED, response_format=City
        ) as stream:
            kinds = {event.type async for event in stream}
            message = (await stream.get_final_completion()).choices[0].message
        assert "refusal.delta" in kinds
        assert message.refusal == "I cannot."

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_a_chat_has_two_choices(self, client: Client, *, streamed: bool) -> None:
        texts = {0: "", 1: ""}
        if streamed:
            stream = await client.chat.completions.create(
                model="two-choices", messages=ASKED, n=2, stream=True
            )
            async for chunk in stream:
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
        else:
            whole = await client.chat.completions.create(model="two-choices", messages=ASKED, n=2)
            texts = {choice.index: choice.message.content or "" for choice in whole.choices}
        assert texts == {0: TEN, 1: TEN}

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_a_chat_has_logprobs(self, client: Client, *, streamed: bool) -> None:
        listed: list[Any] = []
        if streamed:
            stream = await client.chat.completions.create(
                model="logprobs", messages=ASKED, logprobs=True, top_logprobs=1, stream=True
            )
            async for chunk in stream:
                for choice in chunk.choices:
                    listed += (choice.logprobs and choice.logprobs.content) or ()
        else:
            whole = await client.chat.completions.create(
                model="logprobs", messages=ASKED, logprobs=True, top_logprobs=1
            )
            logprobs = whole.choices[0].logprobs
            assert logprobs is not None
            listed += logprobs.content or ()
        assert "".join(each.token for each in listed) == TEN

    async def test_a_chat_shows_what_the_model_thinks(self, client: Client) -> None:
        stream = await client.chat.completions.create(
            model="reasoning", messages=ASKED, stream=True, reasoning_effort="low"
        )
        deltas = [choice.delta async for chunk in stream for choice in chunk.choices]
        assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "r0 r1 r2 "
        assert "".join(d.content or "" for d in deltas) == TEN

    async def test_a_chat_has_raw_responses(self, client: Client) -> None:
        raw = await client.chat.completions.with_raw_response.create(model="fake", messages=ASKED)
        assert raw.headers["x-request-id"]
        assert raw.parse().choices[0].message.content == TEN
        async with client.chat.completions.with_streaming_response.create(
            model="fake", messages=ASKED, stream=True
        ) as response:
            lines = [line async for line in response.iter_lines()]
        assert "data: [DONE]" in lines

    async def test_every_parameter_of_a_chat_goes_to_the_gateway_as_it_is(
        self, client: Client, upstream: FakeUpstream
    ) -> None:
        parts = [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"type": "file", "file": {"file_data": "data:text/plain;base64,AA==", "filename": "a"}},
        ]
        body: Json = {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": parts, "name": "me"},
            ],
            "seed": 7,
            "logit_bias": {"50256": -100},
            "temperature": 0.1,
            "top_p": 0.2,
            "presence_penalty": 0.3,
            "frequency_penalty": 0.4,
            "stop": ["END"],
            "max_completion_tokens": 99,
            "user": "u",
            "store": True,
            "metadata": {"a": "b"},
            "service_tier": "flex",
            "modalities": ["text"],
            "prediction": {"type": "content", "content": "t0 "},
            "verbosity": "low",
            "reasoning_effort": "high",
            "safety_identifier": "s",
            "prompt_cache_key": "p",
            "parallel_tool_calls": False,
            "tools": [
                *CHAT_TOOLS,
                {"type": "custom", "custom": {"name": "free", "format": {"type": "text"}}},
            ],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": CHAT_TOOLS[:1]},
            },
            "web_search_options": {"search_context_size": "low"},
        }
        await client.chat.completions.create(model="fake", **body)
        sent = asked(upstream)
        assert {name: sent[name] for name in body} == body

    async def test_who_has_no_patience_for_a_chat_frees_the_upstream(
        self, client: Client, upstream: FakeUpstream
    ) -> None:
        asking = asyncio.create_task(
            client.chat.completions.create(model="hang-before-headers", messages=ASKED)
        )
        await left(asking, upstream)

    @pytest.mark.parametrize(
        ("ask", "why"),
        [
            (lambda c: c.chat.completions.list(), "not listed here"),
            (lambda c: c.chat.completions.retrieve("chatcmpl-fake"), "start it first"),
            (lambda c: c.chat.completions.delete("chatcmpl-fake"), "start it first"),
            (lambda c: c.chat.completions.update("c", metadata={}), "cannot be changed"),
            (lambda c: c.chat.completions.messages.list("c"), "not kept here"),
            (lambda c: c.responses.compact(model="fake", input="x"), "not compacted here"),
            (lambda c: c.responses.input_tokens.count(model="fake", input="x"), "not counted"),
            (lambda c: c.files.list(), "relay_paths"),
            (lambda c: c.files.create(file=b"x", purpose="batch"), "relay_paths"),
            (lambda c: c.uploads.create(bytes=1, filename="f", mime_type="a/b", purpose="batch"),
             "relay_paths"),
            (lambda c: c.batches.list(), "relay_paths"),
            (lambda c: c.vector_stores.list(), "relay_paths"),
            (lambda c: c.containers.list(), "relay_paths"),
            (lambda c: c.conversations.create(), "previous_response_id"),
            (lambda c: c.conversations.items.list("conv_1"), "previous_response_id"),
            (lambda c: c.fine_tuning.jobs.list(), "relay_paths"),
            (lambda c: c.models.delete("fake"), "cannot be deleted"),
            (lambda c: c.get("/assistants", cast_to=object), "POST /v1/responses"),
            (lambda c: c.get("/nothing", cast_to=object), "Of OpenAI's API there is"),
        ],
    )  # fmt: skip
    async def test_what_is_not_there_is_refused_and_why_is_said(
        self, client: Client, ask: Callable[[Client], Awaitable[object]], why: str
    ) -> None:
        with pytest.raises(openai.APIStatusError) as refused:
            await ask(client)
        assert refused.value.status_code in {404, 405}
        assert refused.value.code in {"not_found", "stream_not_found", "method_not_allowed"}
        assert why in refused.value.message


STATUSES: Final = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}


@pytest.mark.parametrize("status", STATUSES)
async def test_errors_of_the_gateway_are_the_clients_own_exceptions(
    client: Client, upstream: FakeUpstream, status: int
) -> None:
    error = {"message": "No.", "type": "some_error", "param": "model", "code": "some_code"}
    upstream.default = Script(status=status, body=json.dumps({"error": error}).encode())
    attempts: list[Awaitable[object]] = [
        client.chat.completions.create(model="x", messages=ASKED),
        client.chat.completions.create(model="x", messages=ASKED, stream=True),
        client.responses.create(model="x", input="Hello"),
        client.responses.create(model="x", input="Hello", stream=True),
    ]
    for attempt in attempts:
        with pytest.raises(STATUSES[status]) as refused:
            await attempt
        listed = refused.value
        assert (listed.status_code, listed.code, listed.param) == (status, "some_code", "model")
        assert "No." in listed.message


class TestResponses:
    @pytest.mark.parametrize("streamed", [True, False])
    async def test_responses_loop_over_parallel_tools(
        self, client: Client, upstream: FakeUpstream, *, streamed: bool
    ) -> None:
        items: list[Any] = [*ASKED]
        for _ in range(2):
            body: Json = {"model": "tool-loop", "input": items, "tools": TOOLS, "store": False}
            if streamed:
                async with client.responses.stream(**body) as stream:
                    response: Any = await stream.get_final_response()
            else:
                response = await client.responses.create(**body)
                valid_response(response.model_dump(exclude_unset=True))
            items += [item.to_dict() for item in response.output]
            items += [
                {
                    "type": "function_call_output",
                    "call_id": item.call_id,
                    "output": run(item.name, item.arguments),
                }
                for item in response.output
                if item.type == "function_call"
            ]
        assert response.output_text == "Three and two."
        results = [m["content"] for m in asked(upstream)["messages"] if m["role"] == "tool"]
        assert results == ["3", "2"]

    async def test_a_response_is_structured_or_refused(self, client: Client) -> None:
        async with client.responses.stream(
            model="structured", input="?", text_format=City
        ) as stream:
            final = await stream.get_final_response()
        assert final.output_parsed == City(city="Paris", size=2)
        async with client.responses.stream(model="refusal", input="?", text_format=City) as stream:
            kinds = {event.type async for event in stream}
        assert {"response.refusal.delta", "response.refusal.done"} <= kinds

    async def test_a_response_shows_what_the_model_thinks(self, client: Client) -> None:
        response = await client.responses.create(
            model="reasoning", input="?", reasoning={"effort": "low", "summary": "auto"}
        )
        assert [item.type for item in response.output] == ["reasoning", "message"]
        thought: Any = response.output[0]
        assert thought.summary[0].text == "r0 r1 r2 "

    async def test_the_responses_api_has_raw_responses(self, client: Client) -> None:
        raw = await client.responses.with_raw_response.create(model="fake", input="x")
        assert raw.parse().output_text == TEN
        assert raw.headers["x-request-id"] == raw.parse().id.removeprefix("resp_")
        async with client.responses.with_streaming_response.create(
            model="fake", input="x", stream=True
        ) as response:
            text = await response.text()
        assert text.startswith("event: response.created\n")

    async def test_every_parameter_that_chats_know_is_translated(
        self, client: Client, upstream: FakeUpstream
    ) -> None:
        response = await client.responses.create(
            model="fake",
            input="Hello",
            instructions="Be brief.",
            include=["reasoning.encrypted_content"],
            max_output_tokens=99,
            max_tool_calls=3,
            metadata={"a": "b"},
            parallel_tool_calls=False,
            prompt_cache_key="p",
            reasoning={"effort": "low", "summary": "auto"},
            safety_identifier="s",
            service_tier="flex",
            store=False,
            temperature=0.5,
            text={"verbosity": "low"},
            tool_choice={"type": "function", "name": "add"},
            tools=TOOLS,
            top_p=0.5,
            truncation="disabled",
            user="u",
            stream_options={"include_obfuscation": False},
        )
        valid_response(response.model_dump(exclude_unset=True))
        assert (response.metadata, response.temperature, response.max_tool_calls) == (
            {"a": "b"}, 0.5, 3,
        )  # fmt: skip
        sent = asked(upstream)
        assert sent["max_completion_tokens"] == 99
        assert (sent["verbosity"], sent["reasoning_effort"]) == ("low", "low")
        assert sent["tool_choice"] == {"type": "function", "function": {"name": "add"}}
        assert (sent["parallel_tool_calls"], sent["service_tier"]) == (False, "flex")
        assert "store" not in sent

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            *(
                ({"tools": [{"type": kind}]}, "tools[0].type")
                for kind in (
                    "web_search", "file_search", "code_interpreter", "mcp", "image_generation",
                    "computer_use_preview", "local_shell", "shell", "apply_patch", "custom",
                )
            ),
            *(
                ({"input": [{"type": kind, "id": "x"}]}, "input[0].type")
                for kind in (
                    "file_search_call", "computer_call", "computer_call_output", "web_search_call",
                    "image_generation_call", "code_interpreter_call", "local_shell_call",
                    "mcp_call", "mcp_list_tools", "mcp_approval_response", "custom_tool_call",
                    "custom_tool_call_output", "compaction", "nonsense",
                )
            ),
            ({"conversation": "conv_1"}, "conversation"),
            ({"prompt": {"id": "pmpt_1"}}, "prompt"),
            ({"truncation": "auto"}, "truncation"),
            ({"context_management": [{"type": "compaction"}]}, "context_management"),
            ({"background_options": {"completion_window": "2h"}}, "background_options"),
            ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
            ({"include": ["file_search_call.results"]}, "include[0]"),
            ({"generate": False}, "generate"),
            (
                {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
                "input[0].content[0].type",
            ),
            (
                {
                    "input": [
                        {
                            "type": "function_call_output",
                            "call_id": "c",
                            "output": [{"type": "input_image", "image_url": IMAGE}],
                        }
                    ]
                },
                "input[0].output[0].type",
            ),
        ],
    )  # fmt: skip
    async def test_what_chats_do_not_know_is_refused_by_name(
        self, client: Client, upstream: FakeUpstream, fields: Json, param: str
    ) -> None:
        body = {"model": "fake", "input": "Hello", **fields}
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(extra_body=body)
        assert refused.value.param == param
        assert not upstream.generations

    async def test_who_has_no_patience_for_a_response_frees_the_upstream(
        self, client: Client, upstream: FakeUpstream
    ) -> None:
        asking = asyncio.create_task(
            client.responses.create(model="hang-before-first-token", input="Hello")
        )
        await left(asking, upstream)


class TestTheSocketThatReconnects:
    """`responses.connect(on_reconnecting=...)`: the SDK dials again, with a query of its own."""

    async def test_the_socket_that_reconnects_goes_on_after_every_cut(
        self, client: Client, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        upstream.scripts["long"] = Script(tokens=60, rate=300)
        seen: list[Any] = []

        def where(_: object) -> Any:  # noqa: ANN401 (a TypedDict of the package)
            last = {"response_id": seen[0].response.id}
            return {"extra_query": {**last, "starting_after": str(seen[-1].sequence_number)}}

        cuts = 0
        async with (
            asyncio.timeout(4 * UNIT),
            client.responses.connect(on_reconnecting=where, initial_delay=0.01) as connection,
        ):
            await connection.response.create(model="long", input="Hello")
            async for event in connection:
                seen.append(event)
                if event.type == "response.completed":
                    break
                if cuts < 3 and len(seen) == 10 * (cuts + 1):
                    cuts += 1
                    for each in tuple(server.context.manager.connections.values()):
                        each.transport.abort()
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        deltas = [e.delta for e in seen if e.type == "response.output_text.delta"]
        assert "".join(deltas) == upstream.scripts["long"].text()
        assert (cuts, len(upstream.generations)) == (3, 1)
