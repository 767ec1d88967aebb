"""Responses: what a request becomes for chat completions, and what is refused, by name."""

from __future__ import annotations

from typing import Any

import pytest

from streaming_api.errors import BadRequest, NotFound
from streaming_api.faces.response_request import asked_for

Json = dict[str, Any]
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}
SUB = {"type": "function", "name": "sub", "parameters": {"type": "object"}}
SHAPE = {"type": "json_schema", "name": "s", "schema": {"type": "object"}}
IMAGE = "data:image/png;base64,AAAA"


def nothing(item_id: str) -> Json:
    raise NotFound(f"Item with id '{item_id}' not found.", "not_found", param="input")


def chat(**body: object) -> Json:
    return asked_for({"input": "Hello", **body}, "r1", find_item=nothing).chat


def messages(*items: object, **body: object) -> list[Json]:
    found: list[Json] = chat(input=list(items), **body)["messages"]
    return found


class TestMessages:
    def test_a_text_is_a_message_of_the_user(self) -> None:
        assert chat()["messages"] == [{"role": "user", "content": "Hello"}]

    def test_instructions_come_first_as_the_system(self) -> None:
        assert chat(instructions="Be brief.")["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ]

    def test_the_developer_is_the_system(self) -> None:
        assert messages({"role": "developer", "content": "x"})[0]["role"] == "system"

    def test_an_image_is_a_part(self) -> None:
        parts = [
            {"type": "input_text", "text": "What is it?"},
            {"type": "input_image", "image_url": IMAGE, "detail": "low"},
        ]
        assert messages({"role": "user", "content": parts}) == [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
                ],
            }
        ]

    def test_a_turn_with_parallel_calls_is_one_message_and_their_results(self) -> None:
        said = {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]}
        assert messages(
            {"role": "user", "content": "1+1, 2-1?"},
            {"type": "reasoning", "id": "rs", "summary": []},
            said,
            {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "sub", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "2"},
            {"type": "function_call_output", "call_id": "c2",
             "output": [{"type": "input_text", "text": "1"}]},
        )[1:] == [
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    {"id": "c1", "type": "function",
                     "function": {"name": "add", "arguments": "{}"}},
                    {"id": "c2", "type": "function",
                     "function": {"name": "sub", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "tool", "tool_call_id": "c2", "content": "1"},
        ]  # fmt: skip

    def test_a_reference_stands_for_the_item_that_is_kept(self) -> None:
        kept = {"type": "message", "id": "msg_1", "role": "assistant",
                "content": [{"type": "output_text", "text": "Hi"}]}  # fmt: skip
        asked = asked_for(
            {"input": [{"type": "item_reference", "id": "msg_1"}]}, "r1", find_item=lambda _: kept
        )
        assert asked.chat["messages"] == [{"role": "assistant", "content": "Hi"}]

    def test_every_item_has_an_id(self) -> None:
        asked = asked_for({"input": [{"role": "user", "content": "x"}]}, "r1", find_item=nothing)
        assert asked.items[0]["id"] == "msg_r1_in0"


class TestParameters:
    def test_what_both_know_goes_through_unchanged(self) -> None:
        fields: Json = {"model": "m", "temperature": 0.1, "top_p": 0.2, "user": "u",
                        "metadata": {"a": "b"}, "top_k": 5,
                        "frequency_penalty": 0.3, "presence_penalty": 0.4}  # fmt: skip
        found = chat(**fields)
        assert {name: found[name] for name in fields} == fields

    def test_calls_in_parallel_are_a_matter_of_tools(self) -> None:
        assert "parallel_tool_calls" not in chat(parallel_tool_calls=False, tools=[])
        assert chat(parallel_tool_calls=False, tools=[ADD])["parallel_tool_calls"] is False

    def test_what_only_the_client_and_its_vendor_know_stays_here(self) -> None:
        assert "client_metadata" not in chat(client_metadata={"a": "b"})

    def test_nothing_of_the_responses_api_alone_goes_to_the_upstream(self) -> None:
        found = chat(background=False, store=True, stream=True, previous_response_id=None,
                     include=["reasoning.encrypted_content"], truncation="disabled")  # fmt: skip
        assert found == {"messages": [{"role": "user", "content": "Hello"}]}

    def test_limits_thinking_and_verbosity_are_renamed(self) -> None:
        found = chat(max_output_tokens=16, reasoning={"effort": "low"}, text={"verbosity": "low"})
        assert found["max_completion_tokens"] == 16
        assert found["reasoning_effort"] == "low"
        assert found["verbosity"] == "low"

    def test_logprobs_are_asked_for_by_either_name(self) -> None:
        assert chat(top_logprobs=2)["top_logprobs"] == 2
        assert chat(include=["message.output_text.logprobs"])["logprobs"] is True

    def test_a_schema_is_the_response_format(self) -> None:
        form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
        assert chat(text={"format": form})["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        }
        assert chat(text={"format": {"type": "json_object"}})["response_format"] == {
            "type": "json_object"
        }
        assert "response_format" not in chat(text={"format": {"type": "text"}})

    def test_tools_are_nested(self) -> None:
        assert chat(tools=[ADD], tool_choice="required") == {
            "messages": [{"role": "user", "content": "Hello"}],
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "add", "parameters": {"type": "object"}, "strict": True},
                }
            ],
            "tool_choice": "required",
        }

    def test_one_tool_may_be_named(self) -> None:
        found = chat(tools=[ADD, SUB], tool_choice={"type": "function", "name": "sub"})
        assert found["tool_choice"] == {"type": "function", "function": {"name": "sub"}}

    def test_what_is_not_allowed_is_not_offered(self) -> None:
        allowed = {"type": "allowed_tools", "mode": "required",
                   "tools": [{"type": "function", "name": "sub"}]}  # fmt: skip
        found = chat(tools=[ADD, SUB], tool_choice=allowed)
        assert [tool["function"]["name"] for tool in found["tools"]] == ["sub"]
        assert found["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [1]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
         "input[0].content[0].file_id"),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "n"}]}, "input[0].arguments"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [ADD], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tool_calls": "x"}, "max_tool_calls"),
        ({"top_logprobs": 50}, "top_logprobs"),
        ({"parallel_tool_calls": "x"}, "parallel_tool_calls"),
        ({"tool_choice": "x"}, "tool_choice"),
        ({"service_tier": 5}, "service_tier"),
        ({"safety_identifier": 5}, "safety_identifier"),
        ({"prompt_cache_key": 5}, "prompt_cache_key"),
        ({"user": 5}, "user"),
        ({"reasoning": {"summary": 5}}, "reasoning.summary"),
        ({"tools": [ADD | {"description": 5}]}, "tools[0].description"),
        ({"tools": [ADD | {"parameters": "x"}]}, "tools[0].parameters"),
        ({"tools": [ADD | {"strict": "x"}]}, "tools[0].strict"),
        ({"text": {"format": SHAPE | {"name": 5}}}, "text.format.name"),
        ({"text": {"format": SHAPE | {"strict": 5}}}, "text.format.strict"),
        ({"background": "yes"}, "background"),
        ({"background": True, "store": False}, "store"),
        ({"temperature": "hot"}, "temperature"),
        ({"metadata": "x"}, "metadata"),
        ({"instructions": ["x"]}, "instructions"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(body: Json, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        chat(**body)
    assert refused.value.param == param


def test_without_input_there_is_nothing_to_answer() -> None:
    with pytest.raises(BadRequest) as refused:
        asked_for({"model": "m"}, "r1", find_item=nothing)
    assert refused.value.code == "missing_required_parameter"
