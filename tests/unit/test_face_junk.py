"""Requests and chunks with junk in any one place: taken, or refused by name; never a crash."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson
import pytest

from streaming_api.errors import ApiError, NotFound
from streaming_api.faces.response_request import asked_for, response_fields
from streaming_api.faces.responses import ResponseTranslator
from streaming_api.faces.translator import Translator, delta_of, end_of
from streaming_api.faces.ui_messages import UiMessageTranslator
from streaming_api.faces.ui_request import chat_fields, chat_id, message_id
from streaming_api.wire.commands import chat_request

Json = dict[str, Any]
JUNK: Final[tuple[object, ...]] = (
    None,
    True,
    -1,
    1.5,
    "",
    "x",
    [],
    {},
    [[]],
    [None],
    [{}],
    {"type": []},
    {"x": {}},
)

RESPONSE: Final[Json] = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": "Hello"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "developer",
            "content": [
                {"type": "input_text", "text": "a"},
                {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "b", "annotations": []},
                {"type": "refusal", "refusal": "c"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "d"}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_text", "text": "2"}],
        },
        {"type": "item_reference", "id": "msg_r1_0"},
    ],
    "tools": [{"type": "function", "name": "add", "parameters": {}, "strict": True}],
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "add"}],
    },
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto", "mode": "standard", "context": "auto"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 1,
    "max_output_tokens": 5,
    "metadata": {"a": "b"},
    "temperature": 1,
    "truncation": "disabled",
    "background": False,
    "store": True,
    "stream": True,
    "generate": True,
    "parallel_tool_calls": True,
    "stream_options": {"include_obfuscation": False},
    "previous_response_id": None,
    "on_disconnect": "grace",
}
UI: Final[Json] = {
    "id": "chat",
    "model": "m",
    "messages": [
        {"id": "1", "role": "system", "content": "Be brief."},
        {
            "id": "2",
            "role": "user",
            "parts": [
                {"type": "text", "text": "Hello"},
                {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA=="},
                {"type": "data-x", "data": {}},
            ],
        },
        {
            "id": "3",
            "role": "assistant",
            "parts": [
                {"type": "step-start"},
                {"type": "reasoning", "text": "hm"},
                {"type": "text", "text": "b"},
                {
                    "type": "tool-add",
                    "toolCallId": "c1",
                    "state": "output-available",
                    "input": {},
                    "output": {"sum": 2},
                },
                {
                    "type": "dynamic-tool",
                    "toolName": "sub",
                    "toolCallId": "c2",
                    "state": "output-error",
                    "input": {},
                    "errorText": "no",
                },
            ],
        },
    ],
    "trigger": "submit-message",
    "tools": [{"type": "function", "function": {"name": "add"}}],
}
CHUNK: Final[Json] = {
    "model": "m",
    "choices": [
        {
            "index": 0,
            "delta": {
                "content": "a",
                "reasoning_content": "b",
                "refusal": "c",
                "tool_calls": [
                    {"index": 0, "id": "c1", "function": {"name": "add", "arguments": "{}"}}
                ],
            },
            "logprobs": {"content": [{"token": "a", "logprob": 0.0}]},
        }
    ],
}
END: Final[Json] = {
    "finish_reason": "error",
    "usage_source": "reported",
    "usage": {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    },
    "error": {"code": "x", "message": "y"},
    "timing": {"total_ms": 1.0},
}


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a value."""
    if path:
        yield path
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, part in inside:
        yield from places(part, (*path, name))


def mutants(value: Json) -> Iterator[tuple[tuple[str | int, ...], object, Json]]:
    """The value with junk in one place, for every place and every junk; and without the place.

    A word that is right in one place is junk in another.
    """
    words = sorted(set(re.findall(r'"(\w+)"', orjson.dumps(value).decode())))
    for path in places(value):
        for junk in (*JUNK, *words, ...):
            mutant = copy.deepcopy(value)
            inner: Any = mutant
            for name in path[:-1]:
                inner = inner[name]
            if junk is ...:
                del inner[path[-1]]
            else:
                inner[path[-1]] = copy.deepcopy(junk)
            yield path, junk, mutant


def find_item(item_id: str) -> Json:
    raise NotFound(f"Item with id '{item_id}' not found.", "item_not_found", param="input")


def respond(body: Json) -> None:
    """What the server does with a request of the Responses API, up to the upstream."""
    asked = asked_for(body, "r1", find_item=lambda _: RESPONSE["input"][1])
    fields = dict(asked.chat) | {"stream": True}
    if "on_disconnect" in body:
        fields["on_disconnect"] = body["on_disconnect"]
    orjson.loads(chat_request(fields, orjson.dumps(asked.chat)).body("m"))
    translator = ResponseTranslator(response_fields(asked, "r1", 0), "r1")
    for event in translator.opening():
        orjson.loads(event)


def show(body: Json) -> None:
    """What the server does with a request of useChat, up to the upstream."""
    chat_id(body)
    message_id(body)
    fields = chat_fields(body)
    orjson.loads(chat_request(fields, orjson.dumps(fields)).body("m"))


def test_the_requests_themselves_are_taken() -> None:
    respond(RESPONSE)
    show(UI)


@pytest.mark.parametrize(("take", "body"), [(respond, RESPONSE), (show, UI)])
def test_a_request_with_junk_in_one_place_is_taken_or_refused(
    take: Callable[[Json], None], body: Json
) -> None:
    refused = 0
    for path, junk, mutant in mutants(body):
        try:
            take(mutant)
        except ApiError as error:
            refused += 1
            orjson.dumps(error.body())
        except Exception as error:
            raise AssertionError(f"{junk!r} at {path}") from error
    assert refused


def response() -> ResponseTranslator:
    asked = asked_for({"input": "Hello"}, "r1", find_item=find_item)
    return ResponseTranslator(response_fields(asked, "r1", 0), "r1")


@pytest.mark.parametrize("make", [response, lambda: UiMessageTranslator("m1")])
def test_a_chunk_or_an_end_with_junk_in_one_field_is_translated(
    make: Callable[[], Translator],
) -> None:
    for chunk, end in [
        *((mutant, END) for _, _, mutant in mutants(CHUNK)),
        *((CHUNK, mutant) for _, _, mutant in mutants(END)),
    ]:
        face: Translator = make()
        events = [*face.opening(), *face.read(delta_of(chunk))]
        events += [*face.read(delta_of(CHUNK)), *face.end(end_of(end))]
        for event in events:
            orjson.loads(event)
