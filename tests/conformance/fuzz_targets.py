"""What fuzzing feeds: one function for each parser of hostile bytes; knows no fuzzer.

A target takes any bytes and returns; whatever it raises is a bug: an exception that the parser does
not promise, or a promise that does not hold (`AssertionError`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle
from operator import xor
from pathlib import Path
from typing import Final
from zlib import crc32

import attrs
import orjson

from streaming_api.config import SETTINGS, ConfigError, effective, load, read_env_file
from streaming_api.errors import ApiError, NotFound
from streaming_api.faces.response_request import asked_for, response_fields
from streaming_api.faces.responses import ResponseTranslator
from streaming_api.faces.ui_request import chat_fields, chat_id, message_id
from streaming_api.sources.alertmanager import WebhookError, parse_webhook
from streaming_api.upstreams.answer import AnswerReader
from streaming_api.upstreams.reply_errors import fault
from streaming_api.upstreams.sse_parser import Event, EventParser, EventTooLargeError
from streaming_api.wire import json_text
from streaming_api.wire.commands import ChatRequest, chat_request, message_type_of, parse_command
from streaming_api.wire.deflate import negotiate
from streaming_api.wire.frame_parser import FrameParser, Received, Violation
from streaming_api.wire.framing import deflate
from streaming_api.wire.messages import Encoder, notice, parse_cursor
from streaming_api.wire.objects import parse_object
from tests.fakes import odd_answers

LIMIT: Final = 4_096
"""Bytes of a message, or of an event, in these targets: small, so that it is met."""
_ROOT: Final = Path(__file__).parents[2]


_SIZES: Final = (1, 2, 3, 7, 20, 50, 150)


@attrs.frozen
class Target:
    """One parser.

    Attributes:
        check: takes one input.
        tokens: what its inputs are made of, beside noise.
        seeds: whole inputs to start from.
    """

    name: str
    check: Callable[[bytes], None]
    tokens: tuple[bytes, ...]
    seeds: tuple[bytes, ...]


def _cuts(data: bytes) -> Iterator[bytes]:
    """The data in pieces of one size, which the data itself decides."""
    size = _SIZES[crc32(data) % len(_SIZES)]
    for start in range(0, len(data), size):
        yield data[start : start + size]


# The upstream's answer


def sse_parser(data: bytes) -> None:
    """Events are the same however the bytes are cut, and never larger than the bound."""
    whole = EventParser(2**30).feed(data)
    parser = EventParser(2**30)
    assert [event for piece in _cuts(data) for event in parser.feed(piece)] == whole
    bounded = EventParser(16)
    try:
        small: list[Event] = [event for piece in _cuts(data) for event in bounded.feed(piece)]
    except EventTooLargeError as error:
        small = error.events
    assert all(len(payload) <= 16 for _, payload in small)


def answer_reader(data: bytes) -> None:
    """Chunks are single lines of JSON, and the same however the bytes are cut."""
    whole = AnswerReader(2**20, usage_asked=bool(data[:1] > b"\x40"))
    chunks = whole.read(data)
    pieces = AnswerReader(2**20, usage_asked=bool(data[:1] > b"\x40"))
    in_pieces: list[bytes] = []
    for piece in _cuts(data):
        in_pieces += pieces.read(piece)
        if pieces.over:
            break
    assert in_pieces == chunks
    assert pieces.finish_reason == whole.finish_reason
    assert (pieces.error is None) == (whole.error is None)
    for chunk in chunks:
        _check_splices(chunk)
    unstreamed = AnswerReader(2**20, usage_asked=True)
    for chunk in unstreamed.read_whole(data):
        _check_splices(chunk)
    assert unstreamed.over


def answers(data: bytes) -> None:
    """A stream of odd events: no content lost, order kept, bytes unchanged, an honest end."""
    events, end, usage_asked = odd_answers.stream_of(data)
    expected = odd_answers.expected(events, end, usage_asked=usage_asked)
    reader = AnswerReader(2**20, usage_asked=usage_asked)
    shown: list[bytes] = []
    for read in odd_answers.reads_of(odd_answers.wire_of(events, end), crc32(data)):
        shown += reader.read(read)
        if reader.over:
            break
    if not reader.over and end == "cut":
        reader.fail(fault("upstream_disconnected", "It was cut."))
    elif not reader.over:
        shown += reader.read_end(delimited=end == "delimited")
    usage = None if reader.usage is None else reader.usage["completion_tokens"]
    assert reader.over
    assert expected == odd_answers.Result(
        shown, reader.finish_reason, usage, reader.error is not None, reader.done
    )


def _check_splices(chunk: bytes) -> None:
    """It may stand in a message, on a line of an event stream."""
    message = Encoder("chat_completion", "chat/f", "f", "f").encode(1, chunk, 0.0)
    assert b"\n" not in message.payload
    assert b"\r" not in message.payload
    assert isinstance(orjson.loads(message.payload)["data"], dict)


# Clients


def commands(data: bytes) -> None:
    """A command that is taken can be passed on, and one that is not is told why, in JSON."""
    fields: dict[str, object] = {}
    try:
        fields = parse_object(data)
        command = parse_command(fields, data)
    except ApiError as error:
        orjson.dumps(error.body())
        notice(message_type_of(fields), {"error": error.body()})
        return
    if isinstance(command, ChatRequest):
        orjson.loads(command.body(command.model))


def response_requests(data: bytes) -> None:
    """A request of the Responses API that is taken can be passed on; its response is JSON."""
    try:
        parse_object(data)
        body = json_text.exact(data)
        asked = asked_for(body, "r1", find_item=_no_item)
        request = chat_request({**asked.chat, "stream": True}, orjson.dumps(asked.chat))
    except ApiError as error:
        orjson.dumps(error.body())
        return
    orjson.loads(request.body(request.model))
    for event in ResponseTranslator(response_fields(asked, "r1", 0), "r1").opening():
        orjson.loads(event)


def _no_item(item_id: str) -> dict[str, object]:
    raise NotFound(f"Item with id '{item_id}' not found.", "item_not_found", param="input")


def ui_requests(data: bytes) -> None:
    """What `useChat` sends is passed on, or refused in JSON."""
    try:
        parse_object(data)
        body = json_text.exact(data)
        chat_id(body)
        message_id(body)
        fields = chat_fields(body)
        request = chat_request(fields, orjson.dumps(fields))
    except ApiError as error:
        orjson.dumps(error.body())
        return
    orjson.loads(request.body(request.model))


def cursors(data: bytes) -> None:
    """A cursor reads as what it says, and anything else as none."""
    text = data.decode("utf-8", "surrogateescape")
    found = parse_cursor(text)
    if found is None:
        return
    line, number = found
    assert parse_cursor(f"{line}:{number}") == found
    assert text.startswith(f"{line}:")


def frames(data: bytes) -> None:
    """Any bytes: messages within the limit or a violation, the same however they are cut."""
    for compressing in (False, True):
        whole = _received(compressing, [data])
        assert _received(compressing, list(_cuts(data))) == whole
        assert all(len(received.payload) <= LIMIT for received in whole[0])


def _received(compressing: bool, pieces: list[bytes]) -> tuple[list[Received], int]:  # noqa: FBT001
    """What came before the violation, and its code; 0 for none."""
    parser = FrameParser(LIMIT, deflate=compressing)
    received: list[Received] = []
    try:
        for piece in pieces:
            received += _each(parser, piece)
    except _Broken as broken:
        return received + broken.before, broken.code
    return received, 0


class _Broken(Exception):
    def __init__(self, before: list[Received], code: int) -> None:
        super().__init__(code)
        self.before = before
        self.code = code


def _each(parser: FrameParser, piece: bytes) -> list[Received]:
    received: list[Received] = []
    try:
        received.extend(parser.feed(piece))
    except Violation as violation:
        raise _Broken(received, violation.code) from None
    return received


def masked_frames(data: bytes) -> None:
    """What a client frames, fragments, compresses and masks comes out as it went in."""
    text = data.decode("utf-8", "ignore").encode()[:LIMIT]
    compressed = bool(data[:1] < b"\x80")
    payload = deflate(text).removesuffix(b"\x00\x00\xff\xff") if compressed else text
    half = len(payload) // 2
    sent = b"".join(
        _frame(opcode, part, final=final, compressed=compressed)
        for opcode, part, final in ((1, payload[:half], False), (0, payload[half:], True))
    )
    received, code = _received(compressed, list(_cuts(sent)))
    assert (received, code) == ([Received(1, text)], 0)


def _frame(opcode: int, payload: bytes, *, final: bool, compressed: bool) -> bytes:
    first = opcode | (0x80 if final else 0) | (0x40 if compressed and opcode else 0)
    size = len(payload)
    head = bytes((first, 0x80 | size)) if size < 126 else b"%c\xfe%b" % (first, size.to_bytes(2))
    mask = b"\x37\xfa\x21\x3d"
    return head + mask + bytes(map(xor, payload, cycle(mask)))


def extensions(data: bytes) -> None:
    """What is agreed is what RFC 7692 lets a server say."""
    agreed = negotiate(data.decode("latin-1"))
    if agreed is not None:
        assert 9 <= agreed.server_bits <= 15
        assert agreed.header.isprintable()


# Alertmanager and the operator


def webhook(data: bytes) -> None:
    """A webhook that is taken can be sent on; one that is not says what is wrong."""
    try:
        alerts = parse_webhook(data).alerts
    except WebhookError as error:
        _check_said(error.problems)
        return
    for alert in alerts:
        assert alert.fingerprint


def _check_said(lines: Sequence[str]) -> None:
    """Something is said, each thing on one line."""
    assert lines
    assert all(line.isprintable() for line in lines)


_DIRECTORY: Final = tempfile.TemporaryDirectory(
    prefix="fuzz-",
    dir="/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108 (any name)
)


def configuration(data: bytes) -> None:
    """A file and an environment are taken or refused, in words, each on a line of its own."""
    name = list(SETTINGS.values())[len(data) % len(SETTINGS)].env
    text, _, value = data.partition(b"\0")
    path = Path(_DIRECTORY.name, str(os.getpid()))
    path.write_bytes(text)
    environ = {name: os.fsdecode(value)} if value else {}
    try:
        shown = effective(load(path, environ))
    except ConfigError as error:
        _check_said(str(error).split("\n"))
    else:
        assert len(shown.split("\n")) == len(SETTINGS)
    with suppress(ConfigError):
        read_env_file(path)


def _data(name: str) -> bytes:
    return (_ROOT / "tests/data" / name).read_bytes()


_CHUNK: Final = b'{"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}'
_ALERT: Final = (
    b'{"version":"4","status":"firing","groupKey":"{}","receiver":"r","alerts":[{"status":"firing",'
    b'"labels":{"alertname":"A"},"annotations":{"summary":"s"},"startsAt":"2026-01-31T12:00:00Z",'
    b'"endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://p/","fingerprint":"0a1b"}]}'
)
_JSON: Final = (
    b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"true", b"1e999", b"-0", b"\\ud800",
    b'{"a":' * 300, b"[" * 300, b"9" * 400, b"NaN", b"\xff", b"\xe2\x80\xa8",
)  # fmt: skip
_STREAM: Final = (
    b"data: ", b"data:", b"event: ", b"event: error\n", b"id: ", b": ping", b"\n", b"\r", b"\r\n",
    b"\n\n", b"[DONE]", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", b"\x0b", b"\0",
)  # fmt: skip

TARGETS: Final = (
    Target(
        "sse_parser",
        sse_parser,
        _STREAM,
        (b"data: a\n\ndata: b\n\n", b"\xef\xbb\xbfevent: x\r\ndata: a\r\rdata:b\n: c\n\n"),
    ),
    Target(
        "answer_reader",
        answer_reader,
        (*_STREAM, *_JSON, _CHUNK, b'"choices":', b'"finish_reason":"stop"', b'"error":',
         b'"usage":{}', b'"index":', b'"message":{"content":"x"}'),
        (b"data: " + _CHUNK + b"\n\ndata: [DONE]\n\n", b'data: {"error":{"message":"no"}}\n\n',
         b"data: " + _CHUNK.replace(b",", b",\ndata: ") + b"\n\n",
         _CHUNK.replace(b"delta", b"message").replace(b",", b",\r\n")),
    ),
    Target(
        "answers",
        answers,
        tuple(bytes((byte,)) for byte in range(256)),
        (b"\x00" + bytes(range(208)), b"\x1a\x01\x02\x81\xb0\xd0", b"\x02\x01\xa1",
         b"\x01\xfc\xfd", b"\x00\xeb", b"\x10\xeb", b"\x00\xeb\xe2"),
    ),
    Target(
        "commands",
        commands,
        (*_JSON, b'"message_type":', b'"chat_completion"', b'"metrics_update"', b'"action":',
         b'"start"', b'"cancel"', b'"resume"', b'"subscribe"', b'"messages":[{}]', b'"after":',
         b'"request_id":', b'"model_id":', b'"stream":', b'"on_disconnect":', b'"cursor":'),
        (b'{"message_type":"chat_completion","model_id":"m","messages":[{"role":"user"}]}',
         b'{"message_type":"chat_completion","action":"resume","request_id":"r","after":3}',
         b'{"message_type":"alert","cursor":"a:1"}',
         b'{"message_type":"chat_completion","messages":[' + b'{"a":' * 300 + b"1" + b"}" * 300
         + b"]}"),
    ),
    Target(
        "response_requests",
        response_requests,
        (*_JSON, b'"input":', b'"type":', b'"role":', b'"content":', b'"function_call"',
         b'"function_call_output"', b'"call_id":', b'"output":', b'"message"', b'"input_text"',
         b'"input_image"', b'"text":', b'"tools":', b'"tool_choice":', b'"name":', b'"reasoning":',
         b'"include":', b'"previous_response_id":', b'"user"', b'"assistant"', b'"id":'),
        (b'{"model":"m","input":"Hello","instructions":"Be brief."}',
         (b'{"input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},'
          b'{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},'
          b'{"type":"function_call_output","call_id":"c","output":"1"}],'
          b'"tools":[{"type":"function","name":"f"}],"tool_choice":"auto"}'),
         (b'{"input":"x","text":{"format":{"type":"json_schema","schema":{}}},'
          b'"reasoning":{"effort":"low"},"top_logprobs":1,"max_output_tokens":5}')),
    ),
    Target(
        "ui_requests",
        ui_requests,
        (*_JSON, b'"id":', b'"messages":', b'"parts":', b'"type":', b'"role":', b'"text"',
         b'"tool-f"', b'"dynamic-tool"', b'"toolCallId":', b'"state":', b'"output-available"',
         b'"file"', b'"mediaType":', b'"url":', b'"step-start"', b'"user"', b'"assistant"'),
        ((b'{"id":"c","messages":[{"id":"1","role":"user","parts":[{"type":"text","text":"a"}]},'
          b'{"id":"2","role":"assistant","parts":[{"type":"step-start"},{"type":"tool-f",'
          b'"toolCallId":"t","state":"output-available","input":{},"output":1}]}]}'),),
    ),
    Target(
        "cursors",
        cursors,
        (b":", b"-", b".", b"0", b"9" * 18, b"a" * 128, b"\n", b"\0", b"\xd9\xa3"),
        (b"r-1:7", b"0123456789abcdef:42"),
    ),
    Target(
        "frames",
        frames,
        (b"\x81\x80\0\0\0\0", b"\xc1\x85\0\0\0\0", b"\x01\x81\0\0\0\0a", b"\x00\x80\0\0\0\0",
         b"\x80\x81\0\0\0\0b", b"\x88\x82\0\0\0\0\x03\xe8", b"\x89\x80\0\0\0\0", b"\x82\xfe\x01\0",
         b"\x81\xff\0\0\0\0\0\0\x10\x01", b"\xc1\x84\0\0\0\0\x03\0\0\0"),
        (_frame(1, b"Hello", final=True, compressed=False),
         _frame(1, deflate(b"Hello" * 9)[:-4], final=True, compressed=True),
         _frame(1, deflate(b"a" * (LIMIT + 1))[:-4], final=True, compressed=True)),
    ),
    Target("masked_frames", masked_frames, (b"\0", b"\xc3\xa9", b"a" * 126), (b"Hello",)),
    Target(
        "extensions",
        extensions,
        (b"permessage-deflate", b";", b",", b"=", b'"', b" ", b"server_max_window_bits",
         b"client_max_window_bits", b"server_no_context_takeover", b"10", b"15", b"8"),
        (b"permessage-deflate; client_max_window_bits, permessage-deflate",),
    ),
    Target(
        "webhook",
        webhook,
        (*_JSON, b'"version":"4"', b'"alerts":', b'"labels":', b'"annotations":', b'"startsAt":',
         b'"status":"resolved"', b'"endsAt":', b'"fingerprint":', b'"generatorURL":',
         b"9999-12-31T23:59:60+23:59"),
        (_ALERT,),
    ),
    Target(
        "configuration",
        configuration,
        (b"service:\n", b"  port: ", b"websocket:\n", b"security:\n", b"  api_keys:\n", b"    - ",
         b"name: ", b"sha256: ", b"\n", b"\0", b"  ", b"&a ", b"*a", b"!!python/object ", b"? ",
         b"[", b"{", b"|", b">", b"'", b'"', b"#", b"\t", b"%YAML 1.1\n", b"---\n", b"1.9", b".inf",
         b"0o7", b"[" * 500, b"monitoring:\n  queries:\n", b"\xef\xbb\xbf", b"\xff"),
        (_data("streaming-api.yaml"), _data("streaming.env"),
         b"service:\n  port: 1\nperformance:\n  cpu_cores: 2\n\0[1, 2]"),
    ),
)  # fmt: skip
"""Every target."""
