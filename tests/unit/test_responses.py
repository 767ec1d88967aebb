"""Responses: the events that chunks become, checked against the specification's own models."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.faces.response_request import asked_for, response_fields
from streaming_api.faces.responses import ResponseTranslator
from streaming_api.faces.translator import END, Delta, delta_of
from tests.responses import heard, types, valid_event

Json = dict[str, Any]

TEXT = ["output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done"]  # fmt: skip
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done"]  # fmt: skip
OPENING = ["created", "in_progress"]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def delta(index: int = 0, **fields: object) -> bytes:
    return orjson.dumps({"model": "m-1", "choices": [{"index": index, "delta": fields}]})


def call(index: int, arguments: str, call_id: str | None = None, name: str = "add") -> bytes:
    function: Json = {"arguments": arguments}
    if call_id is not None:
        function["name"] = name
    return delta(tool_calls=[{"index": index, "id": call_id, "function": function}])


def end(finish_reason: str = "stop", **fields: object) -> bytes:
    data = {"object": END, "finish_reason": finish_reason, "usage": USAGE,
            "usage_source": "reported", "timing": {"total_ms": 2500.0}, **fields}  # fmt: skip
    return orjson.dumps(data)


def translator(**body: object) -> ResponseTranslator:
    asked = asked_for({"model": "m", "input": "Hello", **body}, "r1", find_item=lambda _: {})
    return ResponseTranslator(response_fields(asked, "r1", 1_700_000_000), "r1")


def translated(*chunks: bytes, **body: object) -> list[Json]:
    """The events of an answer, each valid, in the order of their numbers."""
    face = translator(**body)
    events = face.opening()
    for chunk in chunks:
        events += heard(face, chunk)
    found = [valid_event(orjson.loads(event)) for event in events]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def output(events: list[Json]) -> list[Json]:
    items: list[Json] = events[-1]["response"]["output"]
    return items


class TestText:
    def test_text_goes_through_item_part_and_deltas(self) -> None:
        events = translated(delta(role="assistant", content=""), delta(content="Hel"),
                      delta(content="lo"), end())  # fmt: skip
        assert types(events) == [*OPENING, *TEXT, "completed"]
        assert [event["delta"] for event in events if "delta" in event] == ["Hel", "lo"]
        last = events[-1]["response"]
        assert last["status"] == "completed"
        assert last["output"][0]["content"][0]["text"] == "Hello"
        assert last["output"][0]["status"] == "completed"
        assert last["model"] == "m-1"
        assert last["completed_at"] == last["created_at"] + 2
        assert last["usage"]["total_tokens"] == 5

    def test_the_first_events_describe_the_request(self) -> None:
        first = translated(instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)[0][
            "response"
        ]
        assert (first["status"], first["output"]) == ("in_progress", [])
        assert first["id"] == "resp_r1"
        assert (first["instructions"], first["metadata"]) == ("Be brief.", {"a": "b"})
        assert first["temperature"] == 0.5

    def test_a_whole_completion_is_one_delta(self) -> None:
        whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}]}
        events = translated(orjson.dumps(whole), end())
        assert [event["delta"] for event in events if "delta" in event] == ["Hello"]

    @pytest.mark.parametrize(
        ("choice", "said"),
        [
            ({"index": "0", "delta": {"content": "a"}}, Delta(text="a")),
            ({"index": -1, "delta": {"content": "a"}}, Delta(text="a")),
            ({"delta": {}, "message": {"content": "ab"}}, Delta()),  # once more, all of it
            ({"index": 0, "text": "a"}, Delta(text="a")),
            (
                {"delta": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}},
                Delta(text="ab"),
            ),
            (
                {"delta": {"content": [{"type": "thinking", "thinking": [{"text": "t"}]}]}},
                Delta(reasoning="t"),
            ),
        ],
    )
    def test_what_a_choice_says_is_understood_as_odd_servers_say_it(
        self, choice: dict[str, object], said: Delta
    ) -> None:
        assert delta_of({"choices": [choice]}) == said

    def test_other_choices_and_usage_chunks_say_nothing(self) -> None:
        usage = orjson.dumps({"choices": [], "usage": USAGE})
        assert types(translated(delta(index=1, content="no"), usage)) == OPENING

    def test_logprobs_stand_beside_the_text(self) -> None:
        logprob = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
        choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [logprob]}}
        events = translated(orjson.dumps({"choices": [choice]}), end(), top_logprobs=1)
        assert [event["logprobs"] for event in events if "delta" in event] == [[logprob]]
        assert output(events)[0]["content"][0]["logprobs"] == [logprob]


class TestOtherItems:
    def test_reasoning_comes_before_the_text_as_a_summary(self) -> None:
        events = translated(delta(reasoning_content="Hm, "), delta(reasoning="so."),
                      delta(content="A"), delta(content="B"), end())  # fmt: skip
        assert types(events) == [
            *OPENING, "output_item.added", "reasoning_summary_part.added",
            "reasoning_summary_text.delta", "reasoning_summary_text.delta",
            "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
            *TEXT, "completed",
        ]  # fmt: skip
        assert output(events)[0]["summary"] == [{"type": "summary_text", "text": "Hm, so."}]

    def test_a_refusal_is_a_part_of_its_own(self) -> None:
        events = translated(delta(refusal="I can"), delta(refusal="not."), end())
        assert types(events)[2:-1] == [
            "output_item.added", "content_part.added", "refusal.delta", "refusal.delta",
            "refusal.done", "content_part.done", "output_item.done",
        ]  # fmt: skip
        assert output(events)[0]["content"] == [{"type": "refusal", "refusal": "I cannot."}]

    def test_a_refusal_after_text_follows_it_in_the_same_message(self) -> None:
        events = translated(delta(content="Well, "), delta(refusal="no."), end())
        assert [part["type"] for part in output(events)[0]["content"]] == ["output_text", "refusal"]
        assert [event["content_index"] for event in events if "delta" in event] == [0, 1]

    def test_calls_follow_each_other(self) -> None:
        events = translated(call(0, "", "c1"), call(0, '{"a":1}'), call(1, "", "c2", "sub"),
                      call(1, "{}"), end("tool_calls"))  # fmt: skip
        assert types(events) == [*OPENING, *CALL, *CALL, "completed"]
        assert [(item["call_id"], item["name"], item["arguments"]) for item in output(events)] == [
            ("c1", "add", '{"a":1}'), ("c2", "sub", "{}"),
        ]  # fmt: skip

    def test_calls_whose_pieces_come_mixed_stay_open_together(self) -> None:
        events = translated(call(0, '{"a":', "c1"), call(1, '{"b":', "c2"), call(0, "1}"),
                      call(1, "2}"), end("tool_calls"))  # fmt: skip
        assert [item["arguments"] for item in output(events)] == ['{"a":1}', '{"b":2}']
        assert types(events).count("output_item.done") == 2
        deltas = [(e["output_index"], e["delta"]) for e in events if "delta" in e]
        assert deltas == [(0, '{"a":'), (1, '{"b":'), (0, "1}"), (1, "2}")]

    def test_calls_under_one_index_are_distinguished_by_their_ids(self) -> None:
        events = translated(call(0, "{}", "c1"), call(0, "{}", "c2"), end("tool_calls"))
        assert [item["call_id"] for item in output(events)] == ["c1", "c2"]

    def test_a_call_may_follow_text(self) -> None:
        events = translated(delta(content="Let "), delta(content="me."), call(0, "{}", "c1"),
                      end("tool_calls"))  # fmt: skip
        assert types(events) == [*OPENING, *TEXT, *CALL, "completed"]


class TestTheEnd:
    @pytest.mark.parametrize(
        ("reason", "event", "status", "details"),
        [
            ("stop", "completed", "completed", None),
            ("eos", "completed", "completed", None),
            ("length", "incomplete", "incomplete", {"reason": "max_output_tokens"}),
            ("MAX_TOKENS", "incomplete", "incomplete", {"reason": "max_output_tokens"}),
            ("content_filter", "incomplete", "incomplete", {"reason": "content_filter"}),
            ("abort", "incomplete", "incomplete", {"reason": "abort"}),
            ("incomplete", "incomplete", "incomplete", {"reason": "incomplete"}),
            ("cancelled", "incomplete", "cancelled", {"reason": "cancelled"}),
            ("error", "failed", "failed", None),
        ],
    )
    def test_the_end_is_honest(
        self, reason: str, event: str, status: str, details: Json | None
    ) -> None:
        last = translated(delta(content="Hel"), end(reason))[-1]
        response = last["response"]
        assert types([last]) == [event]
        assert (response["status"], response["incomplete_details"]) == (status, details)
        assert (response["error"] is None) == (status != "failed")
        assert (response["completed_at"] is None) == (status != "completed")
        assert output([last])[0]["status"] == (
            "completed" if status == "completed" else "incomplete"
        )

    def test_the_end_says_what_went_wrong(self) -> None:
        error = {"code": "upstream_timeout", "message": "Silence for 30 s.", "type": "x"}
        last = translated(end("error", error=error))[-1]["response"]
        assert last["error"] == {"code": "upstream_timeout", "message": "Silence for 30 s."}

    def test_an_answer_that_was_cut_says_what_went_wrong(self) -> None:
        error = {"code": "upstream_disconnected", "message": "The connection broke.", "type": "x"}
        last = translated(delta(content="Hel"), end("incomplete", error=error))[-1]["response"]
        assert (last["status"], last["incomplete_details"]) == (
            "incomplete", {"reason": "upstream_disconnected"},
        )  # fmt: skip
        assert last["error"] == {
            "code": "upstream_disconnected", "message": "The connection broke.",
        }  # fmt: skip

    def test_an_estimate_is_no_usage(self) -> None:
        assert translated(end(usage_source="estimated"))[-1]["response"]["usage"] is None

    @pytest.mark.parametrize("reason", ["length", "cancelled", "error"])
    def test_a_call_that_was_cut_off_is_not_done(self, reason: str) -> None:
        events = translated(call(0, '{"a"', "c1"), end(reason))
        assert not any(kind.endswith("done") for kind in types(events))
        assert output(events)[0]["status"] == "incomplete"


PIECES = st.one_of(
    st.builds(lambda text: delta(content=text), st.text(max_size=5)),
    st.builds(lambda text: delta(reasoning_content=text), st.text(max_size=5)),
    st.builds(lambda text: delta(refusal=text), st.text(max_size=5)),
    st.builds(call, st.integers(0, 2), st.sampled_from(["", "{", "}", '{"a":1}']),
              st.sampled_from([None, "c1", "c2"])),
)  # fmt: skip
REASONS = st.sampled_from(["stop", "length", "tool_calls", "cancelled", "error"])


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12), REASONS)
def test_whatever_comes_every_event_is_valid_and_adds_up(pieces: list[bytes], how: str) -> None:
    events = translated(*pieces, end(how))
    assert translated(*pieces, end(how)) == events
    items = output(events)
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["item"]["id"] for event in added] == [item["id"] for item in items]
    for index, item in enumerate(items):
        told_of = (e["delta"] for e in events if e.get("output_index") == index and "delta" in e)
        parts = itertools.chain(item.get("content", ()), item.get("summary", ()))
        whole = "".join(part.get("text") or part.get("refusal") or "" for part in parts)
        assert "".join(told_of) == whole + item.get("arguments", "")
