"""Calls come in many kinds of pieces; each wire shows whole calls, none lost or mixed up."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest

from streaming_api.faces.response_request import asked_for, response_fields
from streaming_api.faces.responses import ResponseTranslator
from streaming_api.faces.translator import END, Translator
from streaming_api.faces.ui_messages import UiMessageTranslator
from tests.responses import heard, types, valid_event

Json = dict[str, Any]
ADD: Final = ("add", {"a": 1})
SUB: Final = ("sub", {"b": 2})


def piece(index: int | None = 0, **fields: object) -> Json:
    """A piece of a call: ``id``, ``name``, ``arguments``, as far as they are given."""
    function = {name: fields.pop(name) for name in ("name", "arguments") if name in fields}
    numbered = {} if index is None else {"index": index}
    return numbered | fields | {"function": function}


WHOLE_ADD: Final[Json] = {"name": "add", "arguments": '{"a":1}'}
WHOLE_SUB: Final[Json] = {"name": "sub", "arguments": '{"b":2}'}
SERVERS: Final[dict[str, tuple[list[list[Json]], list[tuple[str, Json]]]]] = {
    "the name comes after the id": (
        [[piece(id="c1")], [piece(name="add")], [piece(arguments='{"a":1}')]],
        [ADD],
    ),
    "the name comes in pieces": (
        [[piece(id="c1", name="a")], [piece(name="dd")], [piece(arguments='{"a":1}')]],
        [ADD],
    ),
    "the name comes with every piece": (
        [[piece(id="c1", name="add", arguments='{"a"')], [piece(name="add", arguments=":1}")]],
        [ADD],
    ),
    "id and name come with every piece": (
        [
            [piece(id="c1", name="add", arguments="")],
            [piece(id="c1", name="add", arguments='{"a":1}')],
            [piece(id="c1", name="add", arguments="")],
        ],
        [ADD],
    ),
    "the id comes late": (
        [[piece(name="add", arguments='{"a"')], [piece(id="c1", arguments=":1}")]],
        [ADD],
    ),
    "arguments are an object": ([[piece(id="c1", name="add", arguments={"a": 1})]], [ADD]),
    "there are no arguments": (
        [[piece(id="c1", name="now")], [piece(1, id="c2", **WHOLE_SUB)]],
        [("now", {}), SUB],
    ),
    "all calls have one index, and no id": (
        [[piece(**WHOLE_ADD)], [piece(**WHOLE_SUB)], [piece(**WHOLE_SUB)]],
        [ADD, SUB, SUB],
    ),
    "all calls have one index, and ids": (
        [[piece(id="c1", **WHOLE_ADD)], [piece(id="c2", **WHOLE_SUB)]],
        [ADD, SUB],
    ),
    "calls have no index": (
        [[piece(None, id="c1", **WHOLE_ADD), piece(None, id="c2", **WHOLE_SUB)]],
        [ADD, SUB],
    ),
    "pieces of two calls come mixed, after their heads": (
        [
            [piece(0, id="c1", name="add"), piece(1, id="c2", name="sub")],
            [piece(1, arguments='{"b"')],
            [piece(0, arguments='{"a":1}')],
            [piece(1, arguments=":2}")],
        ],
        [ADD, SUB],
    ),
}


def said(face: Translator, deltas: list[Json]) -> list[Json]:
    """The events of an answer that has these deltas and ends well."""
    end = {"object": END, "finish_reason": "tool_calls"}
    chunks: list[Json] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    events = face.opening()
    for chunk in (*chunks, end):
        events += heard(face, orjson.dumps(chunk))
    return [orjson.loads(event) for event in events]


def response() -> ResponseTranslator:
    asked = asked_for({"model": "m", "input": "Hello"}, "r1", find_item=lambda _: {})
    return ResponseTranslator(response_fields(asked, "r1", 1_700_000_000), "r1")


@pytest.mark.parametrize(("chunks", "calls"), SERVERS.values(), ids=SERVERS)
def test_a_response_has_the_calls(chunks: list[list[Json]], calls: list[tuple[str, Json]]) -> None:
    events = said(response(), [{"tool_calls": pieces} for pieces in chunks])
    output = events[-1]["response"]["output"]
    assert [(item["name"], orjson.loads(item["arguments"] or "{}")) for item in output] == calls
    assert len({item["call_id"] for item in output}) == len(calls)
    added = [valid_event(event)["item"] for event in events if types([event])[0].endswith("added")]
    assert [item["name"] for item in added] == [name for name, _ in calls]


@pytest.mark.parametrize(("chunks", "calls"), SERVERS.values(), ids=SERVERS)
def test_a_page_has_the_calls(chunks: list[list[Json]], calls: list[tuple[str, Json]]) -> None:
    events = said(UiMessageTranslator("m1"), [{"tool_calls": pieces} for pieces in chunks])
    inputs = [event for event in events if event["type"] == "tool-input-available"]
    assert sorted((event["toolName"], str(event["input"])) for event in inputs) == sorted(
        (name, str(given)) for name, given in calls
    )
    begun = [event["toolName"] for event in events if event["type"] == "tool-input-start"]
    assert begun == [name for name, _ in calls]
    assert not any(event["type"] == "tool-input-error" for event in events)


def test_a_call_that_waits_for_more_of_its_name_begins_before_the_text_after_it() -> None:
    deltas: list[Json] = [{"tool_calls": [piece(id="c1", name="now")]}, {"content": "Hm."}]
    output = said(response(), deltas)[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["function_call", "message"]


def test_a_call_goes_on_after_what_is_said_between_its_pieces() -> None:
    deltas: list[Json] = [
        {"tool_calls": [piece(id="c1", name="add", arguments='{"a"')], "content": "Let "},
        {"tool_calls": [piece(arguments=":")], "content": "me "},
        {"tool_calls": [piece(arguments="1}")], "reasoning_content": "Hm."},
        {"content": "see."},
    ]
    events = said(response(), deltas)
    for event in events:
        valid_event(event)
    output = events[-1]["response"]["output"]
    assert [item["arguments"] for item in output if "arguments" in item] == ['{"a":1}']
    assert "".join(e["delta"] for e in events if "text.delta" in e["type"]) == "Let me Hm.see."
    (given,) = (
        event["input"]
        for event in said(UiMessageTranslator("m1"), deltas)
        if event["type"].startswith("tool-input-") and "input" in event
    )
    assert given == {"a": 1}


def test_a_call_as_it_was_before_there_were_tools_is_one() -> None:
    deltas: list[Json] = [
        {"function_call": {"name": "add", "arguments": ""}},
        {"function_call": {"arguments": '{"a":1}'}},
    ]
    (item,) = said(response(), deltas)[-1]["response"]["output"]
    assert (item["name"], item["arguments"]) == ("add", '{"a":1}')
