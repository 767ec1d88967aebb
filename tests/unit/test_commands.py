"""Commands: any bytes become a command or a BadRequest that says what to do; nothing else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.errors import BadRequest
from streaming_api.wire.commands import (
    Cancel,
    ChatRequest,
    Command,
    OnDisconnect,
    Resume,
    Subscribe,
    Unsubscribe,
    chat_request,
    check_request_id,
    message_type_of,
    parse_command,
)
from streaming_api.wire.objects import parse_object

HELLO = [{"role": "user", "content": "Hello"}]
COMMANDS = (ChatRequest, Cancel, Resume, Subscribe, Unsubscribe)

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8)
JSON = st.recursive(
    SCALARS | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
TELLING: dict[str, st.SearchStrategy[Any]] = {
    "message_type": st.sampled_from(
        ["chat_completion", "metrics_update", "alert", "status_update"]
    ),
    "action": st.sampled_from(["start", "cancel", "resume", "subscribe", "unsubscribe"]),
    "request_id": st.from_regex(r"[A-Za-z0-9_.-]{1,9}", fullmatch=True),
    "messages": st.just(HELLO),
    "model": st.text(max_size=5),
    "model_id": st.text(max_size=5),
    "stream": st.booleans(),
    "after": st.integers(-(2**63), 2**64 - 1),
    "cursor": st.text(max_size=5),
    "on_disconnect": st.sampled_from(["cancel", "grace", "finish"]),
    "stream_options": st.just({"include_usage": True}),
}


@st.composite
def nearly_commands(draw: st.DrawFn) -> dict[str, Any]:
    """Objects with the fields of commands, most of them right, some of them anything."""
    names = draw(st.lists(st.sampled_from(sorted(TELLING)), unique=True))
    return {
        name: draw(TELLING[name] if draw(st.integers(0, 9)) else JSON)
        for name in ["message_type", *names]
    }


def command(text: str | bytes) -> Command:
    text = text if isinstance(text, bytes) else text.encode()
    return parse_command(parse_object(text), text)


def request_of(fields: dict[str, Any], **options: Any) -> ChatRequest:  # noqa: ANN401
    return chat_request(fields, orjson.dumps(fields), **options)


def sent(request: ChatRequest, model: str | None = None) -> object:
    """What the upstream is asked."""
    return orjson.loads(request.body(model))


def outcome(text: bytes) -> Command | BadRequest:
    """The command, or what is said about it; any other error is the test's."""
    try:
        return command(text)
    except BadRequest as error:
        return error


def refused(fields: object) -> BadRequest:
    """What is said about a command."""
    with pytest.raises(BadRequest) as caught:
        command(orjson.dumps(fields))
    return caught.value


def chat(**fields: object) -> dict[str, object]:
    return {"message_type": "chat_completion", "messages": HELLO} | fields


class TestAnyBytes:
    @settings(max_examples=300)
    @given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    def test_any_bytes_are_a_command_or_a_bad_request(self, text: bytes) -> None:
        found = outcome(text)
        if isinstance(found, BadRequest):
            assert found.status == 400
            orjson.dumps(found.body())
        else:
            assert isinstance(found, COMMANDS)

    @settings(max_examples=500)
    @given(nearly_commands())
    def test_what_is_nearly_a_command_is_an_error_that_names_the_field(
        self, fields: dict[str, Any]
    ) -> None:
        found = outcome(orjson.dumps(fields))
        if isinstance(found, BadRequest):
            assert found.param in TELLING
            assert found.message
            assert found.code
        elif isinstance(found, ChatRequest):
            check_request_id(found.request_id)
            orjson.loads(found.body(found.model))
        elif isinstance(found, Resume):
            assert 0 <= found.after < 2**63
        else:
            assert isinstance(found, COMMANDS)

    @given(JSON)
    def test_any_json_has_a_message_type_to_answer_with(self, value: object) -> None:
        fields = value if isinstance(value, dict) else {"message_type": value}
        assert message_type_of(fields) in {
            "chat_completion", "metrics_update", "alert", "status_update"
        }  # fmt: skip


class TestObjects:
    @pytest.mark.parametrize(
        "text",
        ["", " ", "{", "Hello", '{"a":NaN}', '{"a":Infinity}', '{"a":1e99999}', '{"a":"\\ud800"}',
         '{"a":1}{"b":2}', "\ufeff{}", '{"a":\'b\'}', '{"a":"\n"}', "[" * 100_000,
         '{"a":' * 100_000, '{"a":-' + "9" * 5_000 + "}"],
    )  # fmt: skip
    def test_what_is_not_json_is_refused_as_such(self, text: str) -> None:
        with pytest.raises(BadRequest, match="not JSON") as caught:
            parse_object(text.encode())
        assert caught.value.code == "invalid_json"
        assert len(caught.value.message) < 300

    def test_bytes_that_are_no_text_are_refused(self) -> None:
        with pytest.raises(BadRequest, match="not JSON"):
            parse_object(b'{"a":"\xff"}')

    @pytest.mark.parametrize(
        ("text", "found"),
        [("[]", "an array"), ('"a"', "a string"), ("1", "a number"), ("1.5", "a number"),
         ("true", "a boolean"), ("null", "null")],
    )  # fmt: skip
    def test_what_is_no_object_is_refused_with_what_it_is(self, text: str, found: str) -> None:
        with pytest.raises(BadRequest) as caught:
            parse_object(text.encode())
        assert caught.value.code == "not_an_object"
        assert found in caught.value.message

    @pytest.mark.parametrize("depth", [10, 200, 252, 260, 500, 1_000])
    def test_what_is_taken_can_be_sent_on(self, depth: int) -> None:
        """orjson reads four times as deep as it writes."""
        text = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        if depth > 253:
            with pytest.raises(BadRequest) as caught:
                parse_object(text)
            assert caught.value.code == "too_deep"
        else:
            assert orjson.dumps(parse_object(text)) == text

    def test_many_brackets_side_by_side_are_not_deep(self) -> None:
        assert len(parse_object(b'{"a":[' + b"[]," * 5_000 + b"[]]}")["a"]) == 5_001  # type: ignore[arg-type]


class TestStart:
    def test_the_shortest_start_gets_a_request_id_and_the_defaults(self) -> None:
        first, second = command(orjson.dumps(chat())), command(orjson.dumps(chat()))
        assert isinstance(first, ChatRequest)
        assert isinstance(second, ChatRequest)
        assert first.request_id != second.request_id
        assert (first.model, first.stream, first.on_disconnect) == (None, True, OnDisconnect.GRACE)
        assert orjson.loads(first.parameters) == {"messages": HELLO}

    def test_every_other_field_goes_on_unchanged(self) -> None:
        extra = {"temperature": 0.5, "tools": [{"type": "function"}], "n": 2, "x_ours": None}
        found = command(orjson.dumps(chat(model="m", action="start", stream=False, **extra)))
        assert isinstance(found, ChatRequest)
        assert sent(found, "m") == {"messages": HELLO, "model": "m", "stream": False, **extra}
        assert (found.model, found.stream) == ("m", False)

    def test_model_id_is_the_model(self) -> None:
        found = command(orjson.dumps(chat(model_id="a", model="b")))
        assert isinstance(found, ChatRequest)
        assert found.model == "a"
        assert b"model" not in found.parameters

    @pytest.mark.parametrize("choice", list(OnDisconnect))
    def test_each_way_to_leave_is_taken(self, choice: OnDisconnect) -> None:
        found = command(orjson.dumps(chat(on_disconnect=choice.value)))
        assert isinstance(found, ChatRequest)
        assert found.on_disconnect is choice

    @pytest.mark.parametrize(
        ("options", "asked"),
        [(None, False), ({}, False), ({"include_usage": True}, True), ({"include_usage": 1}, False),
         ([], False)],
    )  # fmt: skip
    def test_usage_is_asked_for_by_true_alone(self, options: object, asked: bool) -> None:  # noqa: FBT001
        assert request_of(chat(stream_options=options)).usage_asked is asked

    def test_null_is_what_is_not_set(self) -> None:
        """OpenAI's parameters are nullable, and typed clients send every one."""
        request = request_of(chat(stream=None, model=None, stream_options=None))
        assert (request.stream, request.model, request.usage_asked) == (True, None, False)

    def test_null_is_what_is_not_set_in_our_own_fields_too(self) -> None:
        request = request_of(chat(request_id=None, on_disconnect=None))
        assert (request.request_id != "", request.chosen) == (True, False)
        assert request.on_disconnect is OnDisconnect.GRACE
        assert isinstance(command(orjson.dumps(chat(action=None))), ChatRequest)
        resume = {
            "message_type": "chat_completion",
            "action": "resume",
            "request_id": "r",
            "after": None,
        }
        assert command(orjson.dumps(resume)) == Resume("r", 0)
        topic = {"message_type": "metrics_update", "action": None, "topic": None, "cursor": None}
        assert command(orjson.dumps(topic)) == Subscribe("metrics_update", "metrics", None)

    def test_another_face_has_its_own_default(self) -> None:
        request = request_of(chat(), on_disconnect=OnDisconnect.CANCEL)
        assert request.on_disconnect is OnDisconnect.CANCEL

    @pytest.mark.parametrize(
        ("fields", "code", "param"),
        [
            ({"messages": None}, "missing_field", "messages"),
            ({"messages": []}, "invalid_value", "messages"),
            ({"messages": 7}, "invalid_value", "messages"),
            ({"messages": "Hello"}, "invalid_value", "messages"),
            ({"messages": ["Hello"]}, "invalid_value", "messages"),
            ({"messages": {"role": "user"}}, "invalid_value", "messages"),
            ({"model": ""}, "invalid_value", "model"),
            ({"model": 7}, "invalid_value", "model"),
            ({"model_id": []}, "invalid_value", "model_id"),
            ({"stream": "false"}, "invalid_value", "stream"),
            ({"stream": 1}, "invalid_value", "stream"),
            ({"request_id": ""}, "invalid_value", "request_id"),
            ({"request_id": "a b"}, "invalid_value", "request_id"),
            ({"request_id": "a/b"}, "invalid_value", "request_id"),
            ({"request_id": "a\n"}, "invalid_value", "request_id"),
            ({"request_id": "ä"}, "invalid_value", "request_id"),
            ({"request_id": "a" * 129}, "invalid_value", "request_id"),
            ({"on_disconnect": "stay"}, "invalid_value", "on_disconnect"),
            ({"on_disconnect": ["cancel"]}, "invalid_value", "on_disconnect"),
            ({"action": "begin"}, "unknown_action", "action"),
            ({"action": "subscribe"}, "unknown_action", "action"),
            ({"action": ["start"]}, "unknown_action", "action"),
            ({"message_type": None}, "missing_field", "message_type"),
            ({"message_type": "chat"}, "unknown_message_type", "message_type"),
            ({"message_type": {}}, "unknown_message_type", "message_type"),
        ],
    )
    def test_a_fault_is_reported_with_its_field(
        self, fields: dict[str, object], code: str, param: str
    ) -> None:
        error = refused(chat(**fields))
        assert (error.code, error.param) == (code, param)

    def test_the_longest_request_id_is_taken(self) -> None:
        assert check_request_id("a" * 128) == "a" * 128


class TestOthers:
    def test_cancel_and_resume_name_an_answer(self) -> None:
        assert command('{"message_type":"chat_completion","action":"cancel","request_id":"r"}') == (
            Cancel("r")
        )
        assert command(
            '{"message_type":"chat_completion","action":"resume","request_id":"r","after":7}'
        ) == Resume("r", 7)

    def test_resume_without_a_number_is_from_the_start(self) -> None:
        found = command('{"message_type":"chat_completion","action":"resume","request_id":"r"}')
        assert found == Resume("r", 0)

    @pytest.mark.parametrize("action", ["cancel", "resume"])
    def test_cancel_and_resume_without_a_request_id_are_refused(self, action: str) -> None:
        error = refused({"message_type": "chat_completion", "action": action})
        assert (error.code, error.param) == ("missing_field", "request_id")

    @pytest.mark.parametrize("after", [-1, 1.5, "1", True, 2**63, [], 1e30])
    def test_after_is_a_whole_number(self, after: object) -> None:
        error = refused(chat(action="resume", request_id="r", after=after))
        assert error.param == "after"

    @pytest.mark.parametrize(
        ("message_type", "topic"),
        [("metrics_update", "metrics"), ("alert", "alerts"), ("status_update", "status")],
    )
    def test_a_topic_is_subscribed_to_by_default(self, message_type: str, topic: str) -> None:
        found = command(orjson.dumps({"message_type": message_type}))
        assert found == Subscribe(message_type, topic, None)
        found = command(orjson.dumps({"message_type": message_type, "cursor": "any text"}))
        assert found == Subscribe(message_type, topic, "any text")
        found = command(orjson.dumps({"message_type": message_type, "action": "unsubscribe"}))
        assert found == Unsubscribe(message_type, topic)

    @pytest.mark.parametrize("cursor", [1, [], {}, True])
    def test_a_cursor_is_text(self, cursor: object) -> None:
        assert refused({"message_type": "alert", "cursor": cursor}).param == "cursor"
