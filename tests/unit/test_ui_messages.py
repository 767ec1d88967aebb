"""The AI SDK's UI messages: what a page sends, and the events that it gets."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from streaming_api.errors import BadRequest
from streaming_api.faces.translator import END
from streaming_api.faces.ui_messages import UiMessageTranslator
from streaming_api.faces.ui_request import chat_fields, chat_id
from tests.responses import heard

Json = dict[str, Any]
OPENING = [{"type": "start", "messageId": "r1"}, {"type": "start-step"}]


def delta(**fields: object) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "delta": fields}]})


def call(index: int, arguments: str, call_id: str | None = None) -> bytes:
    function = {"arguments": arguments} | ({"name": "add"} if call_id else {})
    return delta(tool_calls=[{"index": index, "id": call_id, "function": function}])


def translated(
    *chunks: bytes, finish_reason: str = "stop", error: Json | None = None
) -> list[Json]:
    face = UiMessageTranslator("r1")
    events = face.opening()
    ending = orjson.dumps({"object": END, "finish_reason": finish_reason, "error": error})
    for chunk in (*chunks, ending):
        events += heard(face, chunk)
    found = [orjson.loads(event) for event in events]
    assert found[:2] == OPENING
    return found[2:]


def finished(reason: str) -> list[Json]:
    return [{"type": "finish-step"}, {"type": "finish", "finishReason": reason}]


class TestEvents:
    def test_thought_and_text_have_their_events(self) -> None:
        assert translated(
            delta(reasoning_content="Hm"), delta(content="He"), delta(content="y")
        ) == [
            {"type": "reasoning-start", "id": "reasoning-0"},
            {"type": "reasoning-delta", "id": "reasoning-0", "delta": "Hm"},
            {"type": "reasoning-end", "id": "reasoning-0"},
            {"type": "text-start", "id": "text-1"},
            {"type": "text-delta", "id": "text-1", "delta": "He"},
            {"type": "text-delta", "id": "text-1", "delta": "y"},
            {"type": "text-end", "id": "text-1"},
            *finished("stop"),
        ]

    def test_a_call_has_its_events(self) -> None:
        named = {"toolCallId": "c1", "toolName": "add"}
        assert translated(call(0, '{"a":', "c1"), call(0, "1}"), finish_reason="tool_calls") == [
            {"type": "tool-input-start", **named},
            {"type": "tool-input-delta", "toolCallId": "c1", "inputTextDelta": '{"a":'},
            {"type": "tool-input-delta", "toolCallId": "c1", "inputTextDelta": "1}"},
            {"type": "tool-input-available", **named, "input": {"a": 1}},
            *finished("tool-calls"),
        ]

    def test_parallel_calls_whose_pieces_come_mixed_have_their_events(self) -> None:
        events = translated(call(0, "{", "c1"), call(1, "{", "c2"), call(0, "}"), call(1, "}"))
        available = [e["toolCallId"] for e in events if e["type"] == "tool-input-available"]
        assert available == ["c1", "c2"]

    def test_a_call_without_arguments_has_its_events(self) -> None:
        events = translated(call(0, "", "c1"))
        assert events[1]["input"] == {}

    def test_a_call_whose_arguments_are_no_json_is_an_error(self) -> None:
        assert translated(call(0, "{a", "c1"))[-3]["type"] == "tool-input-error"

    @pytest.mark.parametrize("reason", ["cancelled", "length", "error"])
    def test_a_call_that_was_cut_off_is_not_available(self, reason: str) -> None:
        events = translated(call(0, "{", "c1"), finish_reason=reason)
        assert not [e for e in events if e["type"].startswith("tool-input-a")]

    def test_a_refusal_has_its_events(self) -> None:
        assert translated(delta(refusal="No."))[1] == {
            "type": "text-delta", "id": "text-0", "delta": "No.",
        }  # fmt: skip


class TestTheEnd:
    @pytest.mark.parametrize(
        ("reason", "expected"),
        [("stop", "stop"), ("length", "length"), ("content_filter", "content-filter"),
         ("eos", "stop"), ("abort", "other")],
    )  # fmt: skip
    def test_the_end_has_the_reason(self, reason: str, expected: str) -> None:
        assert translated(finish_reason=reason) == finished(expected)

    def test_the_end_of_a_stopped_answer_is_an_abort(self) -> None:
        assert translated(finish_reason="cancelled") == [{"type": "abort"}]

    @pytest.mark.parametrize("reason", ["error", "incomplete"])
    def test_the_end_of_a_fault_says_so(self, reason: str) -> None:
        events = translated(delta(content="x"), finish_reason=reason, error={"message": "Broken."})
        assert events[-2:] == [
            {"type": "text-end", "id": "text-0"},
            {"type": "error", "errorText": "Broken."},
        ]


def user(*parts: Json) -> Json:
    return {"id": "m", "role": "user", "parts": list(parts)}


class TestRequests:
    def test_a_text_becomes_a_message(self) -> None:
        body = {"id": "chat-1", "messages": [user({"type": "text", "text": "Hi"})],
                "trigger": "submit-message", "model": "m", "temperature": 0}  # fmt: skip
        assert chat_id(body) == "chat-1"
        assert chat_fields(body) == {
            "model": "m", "temperature": 0, "stream": True,
            "messages": [{"role": "user", "content": "Hi"}],
        }  # fmt: skip

    def test_an_image_becomes_a_part(self) -> None:
        image = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"}
        content = chat_fields({"messages": [user({"type": "text", "text": "?"}, image)]})
        assert content["messages"] == [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "?"},
                    {"type": "image_url", "image_url": {"url": image["url"]}},
                ],
            }
        ]

    def test_steps_with_calls_and_their_results_become_messages(self) -> None:
        parts = [
            {"type": "step-start"},
            {"type": "reasoning", "text": "Hm"},
            {"type": "reasoning-file", "mediaType": "image/png", "url": "data:image/png,"},
            {"type": "custom", "kind": "provider.note"},
            {"type": "text", "text": "Let me see."},
            {"type": "tool-add", "toolCallId": "c1", "state": "output-available",
             "input": {"a": 1}, "output": {"sum": 2}},
            {"type": "dynamic-tool", "toolName": "sub", "toolCallId": "c2",
             "state": "output-error", "input": None, "errorText": "No."},
            {"type": "tool-add", "toolCallId": "c3", "state": "input-streaming"},
            {"type": "step-start"},
            {"type": "text", "text": "It is 2."},
        ]  # fmt: skip
        messages = chat_fields({"messages": [{"role": "assistant", "parts": parts}]})["messages"]
        assert messages == [
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    {"id": "c1", "type": "function",
                     "function": {"name": "add", "arguments": '{"a":1}'}},
                    {"id": "c2", "type": "function",
                     "function": {"name": "sub", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": '{"sum":2}'},
            {"role": "tool", "tool_call_id": "c2", "content": "No."},
            {"role": "assistant", "content": "It is 2."},
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "user"}]}, "messages[0].parts"),
            ({"messages": [{"role": "tool", "parts": []}]}, "messages[0].role"),
            ({"messages": [user({"type": "text"})]}, "messages[0].parts[0].text"),
            ({"messages": [user({"type": "file", "mediaType": "application/pdf", "url": "x"})]},
             "messages[0].parts[0].mediaType"),
            ({"messages": [user({"type": "hologram"})]}, "messages[0].parts[0].type"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_refused_by_name(self, body: Json, param: str) -> None:
        with pytest.raises(BadRequest) as refused:
            chat_fields(body)
        assert refused.value.param == param

    @pytest.mark.parametrize("body", [{}, {"id": 1}, {"id": ""}, {"id": "x" * 257}])
    def test_a_chat_has_an_id(self, body: Json) -> None:
        with pytest.raises(BadRequest):
            chat_id(body)


@pytest.mark.parametrize("choice", [{"index": None}, {}, {"index": 0}])
def test_a_choice_without_a_number_is_the_first(choice: Json) -> None:
    chunk = orjson.dumps({"choices": [choice | {"delta": {"content": "a"}}]})
    assert "a" in [event.get("delta") for event in translated(chunk)]
