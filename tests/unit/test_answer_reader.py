"""Reading chat answers and refusals: whatever an upstream sends, an honest result and no crash."""

from __future__ import annotations

import sys

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streaming_api.upstreams.answer import AnswerReader
from streaming_api.upstreams.reply_errors import error_of_object, error_of_reply, fault
from tests.conformance import fuzz_targets

FIELDS = ("choices", "delta", "message", "index", "finish_reason", "content", "usage", "error",
          "detail", "loc", "msg", "type", "code", "param", "object", "tool_calls")  # fmt: skip


def json_values() -> st.SearchStrategy[object]:
    """JSON of any shape, made of the words that mean something here."""
    leaves = (
        st.none() | st.booleans() | st.integers(-2, 2_000) | st.floats(allow_nan=False)
        | st.sampled_from(["", "error", "stop", "x"])
    )  # fmt: skip
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner),
        max_leaves=20,
    )


def reader(*, usage_asked: bool = True, limit: int = 100_000) -> AnswerReader:
    return AnswerReader(limit, usage_asked=usage_asked)


def event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def test_usage_that_grows_with_every_chunk_is_passed_on_and_the_last_one_counts() -> None:
    """As vLLM's `continuous_usage_stats` sends it; `usage: null` is as good as none."""
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": {"completion_tokens": 1}},
        {"choices": [{"index": 0, "delta": {"content": "b"}}], "usage": None},
        {"choices": [], "usage": None},
        {"choices": [], "usage": {"completion_tokens": 2}},
    ]
    answer = reader(usage_asked=False)
    passed = answer.read(b"\n" + b"".join(event(chunk) for chunk in chunks))
    assert [orjson.loads(chunk) for chunk in passed] == chunks[:3]
    assert answer.usage == {"completion_tokens": 2}


def test_done_is_the_end_for_good() -> None:
    """Neither what follows in the same read nor a fault that is noticed later is part of it."""
    answer = reader()
    assert answer.read(b"data: [DONE]\n\n" + event({"choices": []})) == []
    answer.fail(fault("upstream_disconnected", "too late"))
    assert (answer.over, answer.error) == (True, None)


def test_named_events_that_are_no_chunks_are_ignored() -> None:
    """A server's own pings and progress are nothing to the client."""
    answer = reader()
    stream = b'event: ping\ndata: {"type":"ping"}\n\nevent: progress\ndata: {"choices":[]}\n\n'
    assert answer.read(stream) == [b'{"choices":[]}']
    assert not answer.over


def test_an_empty_event_is_a_heartbeat() -> None:
    """Some servers keep a connection alive so."""
    answer = reader()
    assert answer.read(b"data: \n\ndata:\n\n: ping\n\n") == []
    assert (answer.over, answer.error) == (False, None)


def test_a_chunk_over_several_lines_comes_out_as_one() -> None:
    """The line ends stood between tokens of JSON, where a space is as good."""
    stream = b'data: {"choices":\ndata: []}\n\n'
    assert reader().read(stream) == [b'{"choices": []}']


def test_a_string_over_several_lines_has_line_ends_in_it() -> None:
    """A space would be another text."""
    answer = reader()
    chunks = answer.read(b'data: {"choices":[],"x":"a\ndata: b"}\n\n')
    assert chunks == [rb'{"choices":[],"x":"a\u000ab"}']
    assert answer.repaired == 1


@pytest.mark.parametrize("depth", [200, 300, 1_000])
def test_an_error_that_is_nested_deeply_is_still_an_error(depth: int) -> None:
    """Deeper than orjson writes is not deeper than orjson reads."""
    reply = b'{"error":{"message":' + b"[" * depth + b"]" * depth + b"}}"
    assert error_of_reply(500, "application/json", reply).message


def test_an_error_in_a_list_is_that_error() -> None:
    """As Google's endpoint of OpenAI's protocol sends it."""
    error = error_of_reply(400, "application/json", b'[{"error":{"code":400,"message":"no"}}]')
    assert (error.code, error.message) == ("400", "no")


@pytest.mark.parametrize(
    "said",
    [b'data: {"error":{"message":"no"}}', b"event: error\ndata: no", b'data: {"detail":"no"}'],
)
def test_an_error_is_reported_whatever_came_before_it(said: bytes) -> None:
    """A client that asked the upstream itself would be told, too."""
    answer = reader()
    answer.read(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
    answer.read(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n')
    answer.read(said + b"\n\n")
    assert answer.error is not None
    assert (answer.error.message, answer.finish_reason) == ("no", None)


def test_an_error_message_is_bounded() -> None:
    """An upstream that echoes the prompt in its error does not get it sent on whole."""
    error = error_of_object({"error": {"message": "x" * 100_000}})
    assert error is not None
    assert len(error.message) < 5_000


@pytest.mark.parametrize("page", [b"<" * 65_536, b"<style" * 11_000, b"<script>" * 8_000, b"&" * 9])
def test_a_page_made_to_be_slow_is_read_anyway(page: bytes) -> None:
    assert "502 Bad Gateway" in error_of_reply(502, "text/html", page).message


@given(json_values(), st.sampled_from([b"", b"event: error\n", b"event: x\n", b"event: message\n"]))
def test_no_json_in_an_event_can_crash_the_reader(value: object, prefix: bytes) -> None:
    """It is a chunk and passed on as it is, or noted, or an error with words."""
    answer = reader()
    passed = answer.read(b"\n" + prefix + event(value))
    assert passed in ([], [orjson.dumps(value)])
    assert answer.error is None or isinstance(answer.error.message, str)
    assert answer.finish_reason is None or isinstance(answer.finish_reason, str)


@given(json_values())
def test_no_json_body_can_crash_the_reader(value: object) -> None:
    answer = reader()
    passed = answer.read_whole(orjson.dumps(value))
    assert answer.over
    assert (answer.error is None) or passed == []


@given(st.integers(400, 599), st.sampled_from(["application/json", "text/html", ""]),
       json_values().map(orjson.dumps) | st.binary())  # fmt: skip
@example(400, "application/json", b'{"choices":null,"detail":[""]}')
@example(500, "application/json", b'{"error":" "}')
def test_every_refusal_has_words_for_a_person(status: int, kind: str, body: bytes) -> None:
    error = error_of_reply(status, kind, body)
    assert error.status == status
    assert error.message
    assert error.type
    assert orjson.dumps([error.message, error.type, error.code, error.param])


@given(st.binary())
def test_no_bytes_can_crash_the_reader(data: bytes) -> None:
    answer = reader()
    answer.read(data)
    answer.read(b"data: " + data + b"\n\n")


TEXTS = ("a", "Grüße", "🌍", " ", r"\n", r"\u0041", r"\ud83c", "", '"', r"\"", "\\", "\x00")
"""What stands between the quotes, as it is on the wire: much of it is no JSON."""
AROUND = (
    (b'{"choices":[{"index":0,"delta":{"content":"', b'"},"finish_reason":null}]}'),
    (b'{"choices":[{"index":1,"delta":{"content":"', b'"},"finish_reason":null}]}'),
    (b'{"choices": [{"index": 0, "delta": {"content": "', b'"}}], "usage": null}'),
    (b'{"choices":[{"index":0,"delta":{"content":"', b'"},"finish_reason":"stop"}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"}}],"usage":{"completion_tokens":3}}'),
    (b'{"choices":[{"delta":{"role":"', b'","content":"x"}}]}'),
    (b'{"choices":[{"delta":{"content":"a","content":"', b'"}}]}'),
    (b'{"error":{"message":"', b'"},"choices":[{"delta":{"content":"x"}}]}'),
    (b'{"x":{"content":"', b'"},"choices":[{"delta":{"content":"y"}}]}'),
    (b'{"choices":[{"delta":{"content":"', b'"}},{"index":1,"delta":{"content":"z"}}]}'),
    (b'{"choices":[{"message":{"content":"', b'"}}]}'),
    (b'[{"content":"', b'"}]'),
)


@given(
    st.lists(
        st.tuples(st.sampled_from(AROUND), st.lists(st.sampled_from(TEXTS), max_size=3)),
        max_size=30,
    ),
    st.sampled_from([1, 2, 3, 30]),
    st.booleans(),
)
def test_chunks_read_by_what_they_have_in_common_are_read_as_if_each_were_parsed(
    chunks: list[tuple[tuple[bytes, bytes], list[str]]],
    together: int,
    usage_asked: bool,  # noqa: FBT001
) -> None:
    events = [
        b"data: %b%b%b\n\n" % (before, "".join(text).encode(), after)
        for (before, after), text in chunks
    ]
    answer = reader(usage_asked=usage_asked)
    parsing = reader(usage_asked=usage_asked)
    parsing._learn_at = sys.maxsize  # it remembers nothing of one chunk for the next
    for start in range(0, len(events), together):
        data = b"".join(events[start : start + together])
        assert answer.read(data) == parsing.read(data)
        for name in ("over", "error", "usage", "content_chunks", "finish_reason"):
            assert getattr(answer, name) == getattr(parsing, name)
        if answer.over:
            break  # nothing that comes after this belongs to the answer


def test_most_chunks_of_an_answer_are_not_parsed() -> None:
    answer = reader()
    before, after = AROUND[0]
    for number in range(100):
        answer.read(b"data: %b%d%b\n\n" % (before, number, after))
    assert answer._learn_at < 100
    assert answer.content_chunks == 100


@pytest.mark.parametrize("end", range(3), ids=["delimited", "closed", "cut"])
@pytest.mark.parametrize("odd", range(256))
def test_any_odd_event_between_others_is_read_by_the_rule(odd: int, end: int) -> None:
    """Alone, before text, after it, and behind a finish reason; `make conformance` mixes them."""
    for events in ([odd], [odd, 0], [0, odd, 16], [0, 0xA0, odd], [odd, odd, 0xB0, odd]):
        fuzz_targets.answers(bytes([end, *events]))


@given(st.binary(max_size=40))
def test_any_stream_of_events_is_read_by_the_rule(choice: bytes) -> None:
    fuzz_targets.answers(choice)
