"""What is content, what is a body, and a whole answer said in chunks."""

from __future__ import annotations

import orjson
import pytest

from streaming_api.upstreams.choices import MAX_CHOICES, Choices, carries_content
from streaming_api.upstreams.completion import as_chunks
from streaming_api.upstreams.sniffing import Body, body_of


@pytest.mark.parametrize(
    "part",
    [
        "text", {"content": " "}, {"content": [{"type": "text", "text": "a"}]}, {"refusal": "no"},
        {"reasoning_details": [{"type": "x", "summary": "s"}]}, {"audio": {"data": "AA"}},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}, {"new": "x"},
    ],
)  # fmt: skip
def test_any_text_under_any_name_is_content(part: object) -> None:
    assert carries_content(part)


@pytest.mark.parametrize(
    "part",
    [
        None, "", {}, [], {"role": "assistant"}, {"content": "", "refusal": None},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {}}]},
        {"audio": {"expires_at": 17, "id": "a"}}, {"content": [{"type": "text", "text": ""}]},
    ],
)  # fmt: skip
def test_what_only_places_or_names_things_is_none(part: object) -> None:
    assert not carries_content(part)


def test_deep_nesting_is_no_recursion() -> None:
    assert not carries_content(orjson.loads(b"[" * 1_000 + b"]" * 1_000))


def test_choices_are_bounded() -> None:
    choices = Choices()
    for index in range(10 * MAX_CHOICES):
        choices.note({"index": index, "finish_reason": "stop"}, begun=True)
    assert len(choices._seen) == MAX_CHOICES


@pytest.mark.parametrize(
    ("beginning", "content_type", "body"),
    [
        (b"data: x", "application/json", Body.EVENTS),
        (b"\r\n\n: hi", "", Body.EVENTS),
        (b"\xef\xbb\xbfevent: x", "text/html", Body.EVENTS),
        (b" \n{", "text/event-stream", Body.JSON),
        (b"\xef\xbb\xbf {", "", Body.JSON),
        (b"[", "text/plain", Body.JSON),
        (b"x: y\ndata: z", "text/event-stream", Body.EVENTS),
        (b"<html>", "text/plain", Body.OTHER),
        (b"database error", "text/plain", Body.OTHER),
        (b"nonsense", "application/problem+json", Body.JSON),
        (b"", "text/event-stream", Body.UNKNOWN),
        (b"\xef\xbb", "", Body.UNKNOWN),
        (b"\n\n dat", "text/plain", Body.UNKNOWN),
    ],
)
def test_the_first_bytes_say_what_a_body_is(
    beginning: bytes, content_type: str, body: Body
) -> None:
    assert body_of(beginning, content_type)[0] is body


def test_nothing_is_held_of_blanks() -> None:
    assert body_of(b" \n" * 100_000, "") == (Body.UNKNOWN, b"")


def test_a_whole_answer_in_chunks_keeps_what_it_says() -> None:
    call = {"id": "t", "function": {"name": "f"}}
    answer = {
        "id": "w", "object": "chat.completion", "service_tier": "x", "usage": {"total_tokens": 1},
        "choices": [
            {"index": 0, "message": {"content": "a", "tool_calls": [call, {"index": 7}, None]}},
            {"index": 1, "delta": {"content": "b"}, "finish_reason": "stop", "logprobs": {}},
            None,
        ],
    }  # fmt: skip
    head = {"id": "w", "object": "chat.completion.chunk", "service_tier": "x"}
    calls = [{"index": 0, **call}, {"index": 7}, None]
    first, second = map(orjson.loads, as_chunks(answer, usage_asked=True))
    assert first == {
        **head,
        "choices": [
            {"index": 0, "delta": {"content": "a", "tool_calls": calls}},
            {"index": 1, "delta": {"content": "b"}, "finish_reason": "stop", "logprobs": {}},
        ],
    }
    assert second == {**head, "choices": [], "usage": {"total_tokens": 1}}
    assert len(as_chunks(answer, usage_asked=False)) == 1
