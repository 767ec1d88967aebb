"""Chunks of a stream put together as one whole answer."""

from __future__ import annotations

from typing import Any, Final

import orjson

from streaming_api.upstreams.assembly import Assembly
from streaming_api.upstreams.whole_answer import WholeAnswerReader

HEAD: Final = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def whole(*choices: dict[str, object], **more: object) -> dict[str, Any]:
    assembly = Assembly()
    for choice in choices:
        assembly.add({**HEAD, "choices": [choice]})
    if more:
        assembly.add({**HEAD, "choices": [], **more})
    answer = orjson.loads(assembly.answer())
    assert isinstance(answer, dict)
    return answer


def test_texts_add_up_and_the_newest_usage_counts() -> None:
    answer = whole(
        {"index": 0, "delta": {"role": "assistant", "content": ""}},
        {"index": 0, "delta": {"role": "assistant", "reasoning": "h"}},
        {"index": 0, "delta": {"content": "a", "reasoning": "m"}, "finish_reason": None},
        {"index": 0, "delta": {"content": "b"}, "finish_reason": "length"},
        {"index": 0, "delta": {}, "finish_reason": ""},
        usage={"total_tokens": 3},
    )
    message = {"role": "assistant", "content": "ab", "reasoning": "hm"}
    assert answer == {
        **HEAD,
        "object": "chat.completion",
        "usage": {"total_tokens": 3},
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
    }


def test_each_choice_is_put_together_by_itself() -> None:
    choices: object = whole(
        {"index": 1, "delta": {"content": "x"}},
        {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"},
        {"index": 1, "delta": {"content": "y"}, "finish_reason": "length"},
    )["choices"]
    assert choices == [
        {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
        {"index": 1, "message": {"content": "xy"}, "finish_reason": "length"},
    ]


def test_a_message_beside_its_delta_is_no_second_text() -> None:
    """Perplexity says in each chunk all that there is so far, too."""
    answer = whole(
        {"index": 0, "delta": {"content": "a"}, "message": {"content": "a"}},
        {"index": 0, "message": {"content": "ab"}, "delta": {"content": "b"}},
        {"index": 0, "message": {"content": "ab"}, "delta": {}, "finish_reason": "stop"},
    )
    assert answer["choices"] == [
        {"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}
    ]


def test_pieces_may_be_messages() -> None:
    answer = whole(
        {"index": 0, "message": {"content": "a"}},
        {"index": 0, "message": {"content": "b"}, "delta": None},
    )
    assert answer["choices"] == [{"index": 0, "message": {"content": "ab"}, "finish_reason": None}]


def test_tool_calls_are_put_together_by_their_index() -> None:
    def piece(index: int, **function: str) -> dict[str, object]:
        call = {"index": index, "id": f"t{index}", "type": "function", "function": function}
        return {"index": 0, "delta": {"tool_calls": [call]}}

    answer = whole(
        piece(0, name="f", arguments=""), piece(1, name="g", arguments="{"),
        piece(0, arguments="{}"), piece(1, name="g", arguments="}"),
    )  # fmt: skip
    assert answer["choices"] == [
        {
            "index": 0,
            "finish_reason": None,
            "message": {
                "tool_calls": [
                    {"id": "t0", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                    {"id": "t1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ]
            },
        }
    ]


def test_tool_calls_under_one_index_are_told_apart_by_their_ids() -> None:
    def delta(call_id: str, **function: str) -> dict[str, object]:
        call = {"index": 0, "id": call_id, "function": function}
        return {"index": 0, "delta": {"tool_calls": [call]}}

    (choice,) = whole(
        delta("a", name="add", arguments="{"),
        delta("a", arguments="}"),
        delta("b", name="sub", arguments="{}"),
    )["choices"]
    assert choice["message"]["tool_calls"] == [
        {"id": "a", "function": {"name": "add", "arguments": "{}"}},
        {"id": "b", "function": {"name": "sub", "arguments": "{}"}},
    ]


def test_texts_among_the_parts_of_a_content_are_parts() -> None:
    """Mistral's models think in parts and answer in texts."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}
    pieces: list[object] = ["a", [thought], "b", "c", [{"type": "text", "text": "d"}], "e"]
    answer = whole(*({"index": 0, "delta": {"content": piece}} for piece in pieces))
    texts = [{"type": "text", "text": text} for text in ("a", "bc", "de")]
    content = [texts[0], thought, *texts[1:]]
    assert answer["choices"] == [
        {"index": 0, "message": {"content": content}, "finish_reason": None}
    ]


def test_lists_go_on_and_nesting_is_bounded() -> None:
    nested: object = {"x": 1}
    for _ in range(200):
        nested = {"y": nested}
    answer = whole(
        {"index": 0, "delta": {"content": "a", "z": nested}, "logprobs": {"content": [{"t": "a"}]}},
        {"index": 0, "delta": {"content": "b", "z": nested}, "logprobs": {"content": [{"t": "b"}]}},
    )
    assert answer["choices"] == [
        {
            "index": 0,
            "finish_reason": None,
            "message": {"content": "ab", "z": nested},
            "logprobs": {"content": [{"t": "a"}, {"t": "b"}]},
        }
    ]


def test_a_whole_answer_is_bounded() -> None:
    """Its text, not the chunks around it."""
    reader = WholeAnswerReader(1_000)
    event = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n'
    assert reader.read((event % b"x" * 100) * 10) == []
    assert not reader.over
    assert reader.read(event % b"x") == []
    assert reader.error is not None
    assert reader.error.code == "upstream_event_too_large"
