"""Upstreams that end, name and mix their chunks oddly: all text arrives, and an honest end."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Final, Literal

import attrs
import httpx
import pytest

from streaming_api.service import StreamingService
from tests.clients import Message, events, http, question
from tests.fakes.script import as_json
from tests.fakes.upstream import FakeUpstream, Script

DONE: Final = b"data: [DONE]\n\n"
USAGE: Final = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
BASE: Final[dict[str, object]] = {"id": "c", "object": "chat.completion.chunk", "created": 1}


def event(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else as_json(value)) + b"\n\n"


def chunk(delta: object, reason: object = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    return event({**BASE, "choices": [choice]})


def text(*words: str, reason: object = None) -> bytes:
    return b"".join(chunk({"content": word}, reason) for word in words)


def body(data: bytes, content_type: str = "text/event-stream") -> Script:
    """A response with a length, so that its end is an end."""
    return Script(body=data, content_type=content_type)


def cut(data: bytes, how: Literal["fin", "rst"] = "fin") -> Script:
    """A response that is cut: its length promises more."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    head += b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (len(data) + 9)
    return Script(wire=head + data, cut_after=0, cut=how)


@attrs.define
class OpenAIAnswer:
    """What a client of OpenAI's wire is sent."""

    chunks: list[Message]
    error: dict[str, object] | None
    is_done: bool

    @property
    def text(self) -> str:
        return text_of(self.chunks)


async def on_our_wire(server: StreamingService) -> list[Message]:
    async with events(server.url, "/streaming/sse/chat", body=question()) as stream:
        return await stream.rest()


async def post(server: StreamingService, **fields: object) -> httpx.Response:
    async with http() as client:
        return await client.post(f"{server.url}/v1/chat/completions", json=question() | fields)


async def on_openais(server: StreamingService, **fields: object) -> OpenAIAnswer:
    reply = await post(server, stream=True, **fields)
    if reply.status_code != 200:
        return OpenAIAnswer([], reply.json()["error"], is_done=False)
    said = [line[6:] for line in reply.text.split("\n") if line.startswith("data: ")]
    objects = [json.loads(line) for line in said if line != "[DONE]"]
    errors = [each["error"] for each in objects if "error" in each]
    chunks = [each for each in objects if "error" not in each]
    return OpenAIAnswer(chunks, errors[0] if errors else None, is_done=said[-1:] == ["[DONE]"])


def text_of(chunks: list[Message]) -> str:
    """The text of all choices, whatever else is in the chunks or missing there."""
    choices = [each for chunk in chunks for each in chunk.get("choices") or () if each]
    return "".join((each.get("delta") or {}).get("content") or "" for each in choices)


def shown(seen: list[Message]) -> str:
    return text_of([message["data"] for message in seen])


SOUND: Final[dict[str, Sequence[bytes]]] = {
    "an empty reason": (text("a", "b", reason=""), chunk({}, "stop")),
    "null in quotes": (text("a", "b", reason="null"), chunk({}, "stop")),
    "null as Python says it": (text("a", "b", reason="None"), chunk({}, "stop")),
    "a reason on every chunk": (text("a", "b", reason="stop"),),
    "another reason first": (text("a", reason="length"), text("b"), chunk({}, "stop")),
    "a reason on the role": (chunk({"role": "assistant", "content": ""}, "stop"), text("a", "b"),
                             chunk({}, "stop")),
    "a reason that is a number": (text("a", "b", reason=0), chunk({}, "stop")),
    "reasoning with reasons": (chunk({"reasoning": "r"}, "stop"), text("a", "b", reason="stop")),
    "null": (event(b"null"), text("a"), event(b"null"), text("b"), chunk({}, "stop")),
    "an empty object": (event({}), text("a", "b"), event({}), chunk({}, "stop")),
    "a list and a number": (event([]), text("a"), event(3), text("b"), chunk({}, "stop")),
    "no choices": (event(BASE), text("a", "b"), event({"choices": None}), chunk({}, "stop")),
    "choices of nothing": (event({"choices": [None]}), text("a", "b"), chunk({}, "stop")),
    "choices as an object": (event({"choices": {}}), text("a", "b"), chunk({}, "stop")),
    "odd deltas": (chunk(None), text("a"), chunk([]), text("b"), chunk(None, "stop")),
    "an odd index": (b"".join(event({**BASE, "choices": [{"index": index, "delta": delta}]})
                              for index, delta in ((None, {"content": "a"}), (-1, {"content": "b"}),
                                                   (10**9, {}), ("0", {}))), chunk({}, "stop")),
    "an empty error": (event({"error": None}), text("a", "b"), event({"error": {"code": None}}),
                       chunk({}, "stop")),
    "pings of its own": (event({"type": "ping"}), text("a"), b"event: ping\ndata: here\n\n",
                         b"event: ping\ndata: 1.5.2\n\n", text("b"), chunk({}, "stop")),
    "plain words": (event(b"OK"), text("a"), event(b"still here"), text("b"), chunk({}, "stop")),
    "words in braces": (text("a"), event(b"{wait}"), b"event: ping\ndata: {now}\n\n", text("b"),
                        chunk({}, "stop")),
    "half a ping": (text("a"), b'event: ping\ndata: {"type": "ping",}\n\n', text("b"),
                    chunk({}, "stop")),
    "half a list": (text("a"), event(b"[1,"), text("b"), chunk({}, "stop")),
    "an empty detail": (event({"detail": None}), text("a", "b"), event({"detail": ""}),
                        chunk({}, "stop")),
    "control characters": (text("a"),
                           event(b'{"choices":[{"delta":{"content":"b"},"x":"\t\x01"}]}'),
                           chunk({}, "stop")),
    "half an event at the end": (text("a", "b"), chunk({}, "stop").rstrip()),
    "a lone surrogate in a field": (text("a", "b"), event(b'{"choices":[],"x":"\\ud83d"}'),
                                    chunk({}, "stop")),
    "numbers that JSON has not": (
        event(b'{"choices":[{"delta":{"content":"a"},"logprobs":{"x":-Infinity,"y":NaN}}]}'),
        event(b'{"choices":[{"delta":{"content":"b"},"x":1e999}]}'), chunk({}, "stop")),
    "done in quotes": (text("a", "b"), chunk({}, "stop"), event("[DONE]"), text("late")),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
async def test_a_sound_answer_arrives_whole(
    server: StreamingService, upstream: FakeUpstream, name: str
) -> None:
    data = b"".join(SOUND[name])
    upstream.default = body(data if name == "half an event at the end" else data + DONE)
    seen = await on_our_wire(server)
    assert shown(seen) == "ab"
    assert seen[-1]["data"]["finish_reason"] == "stop"
    assert "error" not in seen[-1]["data"]
    answer = await on_openais(server)
    assert (answer.text, answer.error, answer.is_done) == ("ab", None, True)


@pytest.mark.parametrize("words", [b"OK", b"[1,", b'"still here"', b"12"])
async def test_a_stream_of_other_words_alone_is_an_error_that_quotes_them(
    server: StreamingService, upstream: FakeUpstream, words: bytes
) -> None:
    upstream.default = body(event(words) * 3)
    answer = await on_openais(server)
    assert answer.error is not None
    assert words.decode() in str(answer.error["message"])


async def test_an_error_with_content_shows_it_first(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    error = {
        **BASE,
        "choices": [{"index": 0, "delta": {"content": "b"}}],
        "error": {"message": "x"},
    }
    upstream.default = body(text("a") + event(error) + text("c"))
    seen = await on_our_wire(server)
    assert shown(seen) == "ab"
    assert seen[-1]["data"]["error"]["message"] == "x"


BOOM: Final = {"message": "boom", "type": "server_error", "code": 500}
ERRORS: Final[dict[str, bytes]] = {
    "vLLM": event({"error": BOOM}),
    "vLLM, once": event({"object": "error", **BOOM}),
    "llama.cpp": b"error: " + as_json(BOOM) + b"\n\n",
    "a message and a code": event({"code": 503, "message": "boom"}),
    "a message and a type": event({"message": "boom", "type": "InternalServerError"}),
    "without a field": as_json({"error": BOOM}) + b"\n\n",
    "in a list": event([{"error": BOOM}]),
    "in words": event({"error": "boom", "error_type": "generation"}),
    "of a name": b"event: error\n" + event(BOOM),
    "OpenRouter": event({**BASE, "error": BOOM, "choices": [
        {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}),
    "of a choice": event({**BASE, "choices": [
        {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": BOOM}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_in_the_stream_is_one_in_every_dialect(
    server: StreamingService, upstream: FakeUpstream, name: str
) -> None:
    """Also where the upstream says [DONE] behind it."""
    upstream.default = body(text("ab") + ERRORS[name] + DONE)
    seen = await on_our_wire(server)
    end = seen[-1]["data"]
    assert (shown(seen), end["finish_reason"], end["error"]["message"]) == ("ab", "error", "boom")
    answer = await on_openais(server)
    assert (answer.text, answer.is_done) == ("ab", False)
    assert answer.error is not None
    assert answer.error["message"] == "boom"
    assert (await post(server, stream=False)).status_code == 502


@pytest.mark.parametrize(
    "sign",
    [{"message": "loading", "status": "waiting"}, {"message": "ok", "code": 200, "type": "info"}],
)
async def test_a_message_without_an_errors_code_is_a_sign_of_life(
    server: StreamingService, upstream: FakeUpstream, sign: object
) -> None:
    upstream.default = body(text("a") + event(sign) + text("b") + chunk({}, "stop") + DONE)
    answer = await on_openais(server)
    assert (answer.text, answer.error, answer.is_done) == ("ab", None, True)


async def test_an_error_without_words_is_said_in_ours(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    upstream.default = body(text("ab") + chunk({}, "error") + DONE)
    end = (await on_our_wire(server))[-1]["data"]
    assert (end["finish_reason"], end["error"]["code"]) == ("error", "upstream_error")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_stream_without_its_end_is_cut(
    server: StreamingService, upstream: FakeUpstream, coding: str
) -> None:
    """However well HTTP ends: a proxy compressed what broke behind it."""
    compress = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    data = compress.compress(text("a", "b", reason="stop")) + compress.flush(zlib.Z_SYNC_FLUSH)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
    for end, reason in ((b"", "incomplete"), (compress.flush(), "stop")):
        wire = head % (coding.encode(), len(data + end)) + data + end
        upstream.default = Script(wire=wire)
        seen = await on_our_wire(server)
        assert (shown(seen), seen[-1]["data"]["finish_reason"]) == ("ab", reason)


CUT: Final[dict[str, bytes]] = {
    "an empty reason": text("a", "b", reason=""),
    "null in quotes": text("a", "b", reason="null"),
    "a reason on every chunk": text("a", "b", reason="stop"),
    "a reason beside the last text": text("a") + text("b", reason="stop"),
    "a reason and then text": text("a") + chunk({}, "stop") + text("b"),
    "tool calls with reasons": text("ab")
    + chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}, "tool_calls"),
    "one choice of two": text("ab") + chunk({}, "stop") + chunk({"role": "x"}, index=1),
}


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("name", CUT)
async def test_a_cut_is_never_reported_as_complete(
    server: StreamingService, upstream: FakeUpstream, name: str, how: Literal["fin", "rst"]
) -> None:
    upstream.default = cut(CUT[name], how)
    seen = await on_our_wire(server)
    assert shown(seen) == "ab"
    assert seen[-1]["data"]["finish_reason"] == "incomplete"
    assert seen[-1]["data"]["error"]["code"] == "upstream_disconnected"
    answer = await on_openais(server)
    assert (answer.text, answer.is_done) == ("ab", False)
    assert answer.error is not None


async def test_a_reason_in_a_chunk_of_its_own_ends_an_answer_that_is_cut_behind_it(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    upstream.default = cut(text("a", "b") + chunk({"role": "assistant", "content": ""}, "length"))
    assert (await on_our_wire(server))[-1]["data"]["finish_reason"] == "length"
    assert (await on_openais(server)).is_done


async def test_a_closed_connection_is_no_end_where_reasons_were_none(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    """Without a length the end of the file is an end, unless text came after a reason before."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    for reasons, ends in ((("", "stop"), "stop"), (("stop", "stop"), "incomplete")):
        data = b"".join(text(word, reason=given) for word, given in zip("ab", reasons, strict=True))
        upstream.default = Script(wire=head + data, cut_after=0)
        seen = await on_our_wire(server)
        assert (shown(seen), seen[-1]["data"]["finish_reason"]) == ("ab", ends)


async def test_done_counts_where_only_one_of_two_choices_has_a_reason(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    data = text("ab") + chunk({"content": "x"}, index=1) + chunk({}, "stop", index=1) + DONE
    upstream.default = body(data)
    assert (await on_our_wire(server))[-1]["data"]["finish_reason"] == "incomplete"
    answer = await on_openais(server)
    assert (answer.error, answer.is_done) == (None, True)


@pytest.mark.parametrize(
    "odd", [{**BASE, "choices": None, "usage": USAGE}, {**BASE, "usage": USAGE}, {"usage": USAGE}]
)
async def test_usage_is_noted_wherever_it_comes(
    server: StreamingService, upstream: FakeUpstream, odd: object
) -> None:
    upstream.default = body(text("ab") + chunk({}, "stop") + event(odd) + DONE)
    end = (await on_our_wire(server))[-1]["data"]
    assert (end["usage"], end["usage_source"]) == (USAGE, "reported")
    asked = await on_openais(server, stream_options={"include_usage": True})
    assert [each["usage"] for each in asked.chunks if "usage" in each] == [USAGE]
    unasked = await on_openais(server)
    assert not any("usage" in each for each in unasked.chunks)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json", "application/octet-stream", "text/html", ""]
)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\r\n\n", b": hello\n\n"])
async def test_a_stream_is_one_whatever_its_type_says(
    server: StreamingService, upstream: FakeUpstream, content_type: str, before: bytes
) -> None:
    data = before + text("a", "b") + chunk({}, "stop") + DONE
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
    kind = b"Content-Type: " + content_type.encode() + b"\r\n" if content_type else b""
    upstream.default = Script(wire=head + kind + b"\r\n" + data)
    answer = await on_openais(server)
    assert (answer.text, answer.is_done) == ("ab", True)


WHOLE: Final[dict[str, object]] = {
    "id": "w", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {
        "role": "assistant", "content": "ab",
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}],
    }}],
}  # fmt: skip


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "text/event-stream"])
async def test_a_whole_answer_to_a_request_for_a_stream_is_shown_in_chunks(
    server: StreamingService, upstream: FakeUpstream, content_type: str
) -> None:
    upstream.default = body(json.dumps(WHOLE, indent=1).encode(), content_type)
    seen = await on_our_wire(server)
    assert shown(seen) == "ab"
    assert [message["data"]["object"] for message in seen] == [
        "chat.completion.chunk",
        "chat.completion.end",
    ]
    assert (seen[-1]["data"]["finish_reason"], seen[-1]["data"]["usage"]) == ("stop", USAGE)
    answer = await on_openais(server, stream_options={"include_usage": True})
    assert (answer.text, answer.is_done) == ("ab", True)
    assert answer.chunks[0]["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    assert answer.chunks[-1]["usage"] == USAGE


async def test_a_whole_answer_as_an_event_is_shown_in_chunks_unless_its_text_was(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    """Some servers say it once at the end, when all of it has been streamed."""
    unnamed = {name: value for name, value in WHOLE.items() if name != "object"}
    for before, whole in ((b"", WHOLE), (b"", unnamed), (text("a", "b"), WHOLE)):
        upstream.default = body(before + event(whole) + DONE)
        seen = await on_our_wire(server)
        assert (shown(seen), seen[-1]["data"]["finish_reason"]) == ("ab", "stop")
        answer = await on_openais(server, stream_options={"include_usage": True})
        assert (answer.text, answer.is_done) == ("ab", True)
        assert answer.chunks[-1]["usage"] == USAGE
        (choice,) = (await post(server, stream=False)).json()["choices"]
        assert choice["message"]["content"] == "ab"
        async with http(server.url) as client:
            reply = await client.post("/v1/responses", json={"model": "m", "input": "Hello"})
        (message, *_calls) = reply.json()["output"]
        assert [part["text"] for part in message["content"]] == ["ab"]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "text/event-stream"])
async def test_a_whole_error_to_a_request_for_a_stream_is_that_error(
    server: StreamingService, upstream: FakeUpstream, content_type: str
) -> None:
    upstream.default = body(b'{"error":{"message":"no\\ud83d","code":"c"}}', content_type)
    answer = await on_openais(server)
    assert answer.error is not None
    assert (answer.error["code"], answer.error["message"]) == ("c", "no\ufffd")


@pytest.mark.parametrize("name", SOUND)
async def test_a_stream_where_a_whole_answer_was_asked_for_is_put_together(
    server: StreamingService, upstream: FakeUpstream, name: str
) -> None:
    data = b"".join(SOUND[name])
    upstream.default = body(data if name == "half an event at the end" else data + DONE)
    reply = await post(server, stream=False)
    assert reply.status_code == 200, reply.text
    whole = reply.json()
    (choice,) = whole["choices"]
    assert (whole["object"], choice["message"]["content"]) == ("chat.completion", "ab")
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("data", [*CUT.values(), text("a") + chunk({}, "stop")])
async def test_of_a_whole_answer_that_came_in_part_nothing_is_shown(
    server: StreamingService, upstream: FakeUpstream, data: bytes, how: Literal["fin", "rst"]
) -> None:
    upstream.default = cut(data, how)
    reply = await post(server, stream=False)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_disconnected")


@pytest.mark.parametrize("data", [DONE, b": ping\n\n" + DONE, event({"type": "ping"}) + DONE])
async def test_a_stream_without_an_answer_is_no_whole_answer(
    server: StreamingService, upstream: FakeUpstream, data: bytes
) -> None:
    upstream.default = body(data)
    reply = await post(server, stream=False)
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_invalid_response")


@pytest.mark.parametrize("reason", ["", "null", None])
async def test_a_whole_answer_without_a_reason_is_shown(
    server: StreamingService, upstream: FakeUpstream, reason: str | None
) -> None:
    whole = {**WHOLE, "choices": [{"message": {"content": "ab"}, "finish_reason": reason}]}
    upstream.default = body(json.dumps(whole).encode(), "application/json")
    reply = await post(server)
    assert (reply.status_code, reply.json()) == (200, whole)


async def test_what_utf_8_json_cannot_say_is_replaced_and_counted(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    around = b'{"choices":[{"delta":{"content":"%b"}}]}'
    sent = (b"x", rb"\ud83d", rb"\ude00", b"\xf0\x9f", rb"\\ud83d", rb"\ud83d\ude00", b"y")
    data = b"".join(event(around % part) for part in sent) + chunk({}, "stop")
    upstream.default = body(data + DONE)
    assert (await on_openais(server)).text == "x\ufffd\ufffd\ufffd\\ud83d😀y"
    whole = b'{"choices":[{"message":{"content":"\\udcaf"},"finish_reason":"stop","p":-Infinity}]}'
    upstream.default = body(whole, "application/json")
    assert (await post(server)).json()["choices"] == [
        {"message": {"content": "\ufffd"}, "finish_reason": "stop", "p": None}
    ]
    upstream.default = Script(status=500, body=b'{"error":{"message":"\\ud83d"}}')
    assert (await post(server)).json()["error"]["message"] == "\ufffd"
    async with http() as client:
        scrape = (await client.get(f"{server.url}/metrics")).text
    assert "\nstreaming_chunks_repaired_total 5.0\n" in scrape


async def test_odd_bytes_are_passed_on_as_they_came(
    server: StreamingService, upstream: FakeUpstream
) -> None:
    odd = (
        b'{ "z":1.50, "choices" : [ {"finish_reason":"", "delta":{"content":"\\u0061"}} ],"a":1E2}',
        b'{"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}],"big":18446744073709551617}',
    )
    upstream.default = body(b"".join(map(event, odd)) + DONE)
    reply = await post(server, stream=True)
    shown = [line[6:] for line in reply.content.split(b"\n") if line.startswith(b"data: ")]
    assert shown == [*odd, b"[DONE]"]
