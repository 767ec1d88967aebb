"""Streams of chunks as no two servers send them, and what is to become of each: a slow reference.

Every event says for itself what it holds, so the reference parses nothing: it knows. Bytes choose
the events, so that any fuzzer can.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Final, Literal

import attrs

End = Literal["delimited", "closed", "cut"]
"""How the body ends: by its own word, with the connection, or broken off."""


@attrs.frozen(kw_only=True)
class Said:
    """What an event says of one choice.

    Attributes:
        content: any at all.
        reason: why the choice ended, if it says so.
        opens: it holds the role.
    """

    choice: int
    content: bool = False
    reason: str | None = None
    opens: bool = False


@attrs.frozen(kw_only=True)
class Event:
    """One event of a stream.

    Attributes:
        wire: its bytes.
        shown: what the client gets of it; None for nothing. An error may have content.
        said: of which choices.
        usage: the figure in its usage, if it has one.
        only_usage: it is shown to those alone who asked for usage.
        kind: "done", "error" (the upstream says so itself) and "fault" end the stream; "other"
            is an event that is no chunk.
    """

    wire: bytes
    shown: bytes | None = None
    said: tuple[Said, ...] = ()
    usage: int | None = None
    only_usage: bool = False
    kind: Literal["chunk", "other", "silent", "done", "error", "fault"] = "chunk"


@attrs.frozen
class Result:
    """What a reader must make of it all."""

    shown: list[bytes]
    finish_reason: str | None
    usage: object
    is_fault: bool
    done: bool


def expected(events: list[Event], end: End, *, usage_asked: bool) -> Result:
    """The rule, spelt out."""
    shown: list[bytes] = []
    heard: list[Said] = []
    usage: int | None = None
    others = 0
    for event in events:
        if event.kind == "done":
            return Result(shown, _last_reason(heard), usage, is_fault=False, done=True)
        if event.kind in {"error", "fault"}:
            shown += [event.shown] if event.shown is not None else []
            return _broken(shown, heard if event.kind == "fault" else [], usage)
        if event.usage is not None:
            usage = event.usage
        if event.shown is not None and (usage_asked or not event.only_usage):
            shown.append(event.shown)
        others += event.kind == "other"
        heard += event.said
    if end == "cut":
        return _broken(shown, heard, usage)
    if others and not heard:
        return Result(shown, None, usage, is_fault=True, done=False)
    if end == "closed" and _went_on(heard):
        return Result(shown, None, usage, is_fault=False, done=False)
    return Result(shown, _last_reason(heard), usage, is_fault=False, done=False)


def _last_reason(heard: list[Said]) -> str | None:
    """The lowest choice's, if every choice has one."""
    last: dict[int, str | None] = {said.choice: None for said in heard}
    for said in heard:
        if said.reason is not None:
            last[said.choice] = said.reason
    return last[min(last)] if last and None not in last.values() else None


def _went_on(heard: list[Said]) -> bool:
    """Whether any choice had content after a reason."""
    return any(
        later.content and later.choice == earlier.choice
        for at, earlier in enumerate(heard)
        if earlier.reason is not None
        for later in heard[at + 1 :]
    )


def _broken(shown: list[bytes], heard: list[Said], usage: int | None) -> Result:
    """Complete only if every choice was closed by a chunk of its own, and none went on."""
    complete = bool(heard) and not _went_on(heard)
    for choice in {said.choice for said in heard}:
        mine = [at for at, said in enumerate(heard) if said.choice == choice]
        closing = [
            at
            for at in mine
            if heard[at].reason is not None
            and not heard[at].content
            and (not heard[at].opens or any(said.content for said in heard[:at]))
        ]
        complete = complete and any(
            not any(heard[later].content for later in mine if later > at) for at in closing
        )
    reason = _last_reason(heard) if complete else None
    return Result(shown, reason, usage, is_fault=not complete, done=False)


# Events


_LONGEST: Final = 40
"""Events of a stream: what a reader can do wrong, it can do in so many."""


def stream_of(data: bytes) -> tuple[list[Event], End, bool]:
    """The events that these bytes choose, how the body ends, and whether usage was asked for."""
    flags = data[0] if data else 0
    end: End = ("delimited", "closed", "cut", "cut")[flags & 3]
    choices = (1, 1, 2, 3)[flags >> 2 & 3]
    return [_event(byte, choices) for byte in data[1:_LONGEST]], end, bool(flags & 16)


def wire_of(events: list[Event], end: End) -> bytes:
    """All of it; the last event lacks its empty line, as servers forget it that end in order."""
    wire = b"".join(event.wire for event in events)
    if events and end != "cut" and events[-1].kind in {"chunk", "done"}:
        return wire.rstrip(b"\r\n")
    return wire


def reads_of(wire: bytes, seed: int) -> Iterator[bytes]:
    """The bytes in reads that end anywhere."""
    chance = random.Random(seed)
    start = 0
    while start < len(wire):
        size = chance.choice((1, 2, 9, 60, 300, 2_000))
        yield wire[start : start + size]
        start += size


_CONTENT: Final[tuple[dict[str, object], ...]] = (
    {"content": "a"},
    {"content": "Grüße"},
    {"content": "\\n\\"},
    {"content": '"'},
    {"content": "\u2028\0"},
    {"content": "x" * 99},
    {"role": "assistant", "content": "b"},
    {"reasoning_content": "r"},
    {"reasoning": "r", "content": None},
    {"reasoning_details": [{"type": "reasoning.text", "text": "r"}]},
    {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f"}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}], "content": ""},
    {"refusal": "no"},
    {"audio": {"data": "AAAA"}},
    {"function_call": {"arguments": "1"}},
    {"something_new": {"deep": [{"er": "x"}]}},
)
_EMPTY: Final[tuple[object, ...]] = (
    {}, None, "missing", {"content": ""}, {"content": None, "tool_calls": None},
    {"role": "assistant", "content": ""}, {"tool_calls": []}, {"reasoning": "", "audio": {}},
    {"tool_calls": [{"index": 0, "type": "function", "function": {"arguments": ""}}]},
)  # fmt: skip
_REASONS: Final = ("stop", "length", "tool_calls", "stop")
_NO_REASONS: Final[tuple[object, ...]] = (None, "", "null", "missing")


def _event(byte: int, choices: int) -> Event:
    """Half of them text, as in life; the others anything."""
    chance = random.Random(byte)
    choice = byte % choices
    kind = byte >> 4
    if kind < 6:
        return _chunk(chance, [(choice, True, None)])
    if kind < 8:
        return _chunk(chance, [(choice, False, None)])
    if kind < 10:
        return _chunk(chance, [(choice, True, chance.choice(_REASONS))])
    if kind < 12:
        return _chunk(chance, [(choice, False, chance.choice(_REASONS))])
    if kind == 12:
        each = [
            (number, chance.random() < 0.5, chance.choice((None, "stop")))
            for number in range(choices)
        ]
        return _chunk(chance, each)
    return _REMARKS[byte - 13 * 16]


def _chunk(chance: random.Random, each: list[tuple[int, bool, str | None]]) -> Event:
    written, said = [], []
    for choice, content, reason in each:
        delta = chance.choice(_CONTENT) if content else chance.choice(_EMPTY)
        fields: dict[str, object] = {"index": choice, "delta": delta, "logprobs": None}
        if delta == "missing":
            del fields["delta"]
        if choice == 0 and chance.random() < 0.1:
            fields["index"] = None
        given = reason if reason is not None else chance.choice(_NO_REASONS)
        if given != "missing":
            fields["finish_reason"] = given
        if chance.random() < 0.3:
            fields = dict(reversed(fields.items()))
        opens = isinstance(delta, dict) and "role" in delta
        said.append(Said(choice=choice, content=content, reason=reason, opens=opens))
        written.append(fields)
    usage = chance.choice((None, None, None, chance.randrange(1, 99)))
    chunk: dict[str, object] = {"id": "c", "choices": written, "created": 1}
    if usage is not None:
        chunk["usage"] = {"completion_tokens": usage}
    name = chance.choice(
        (b"", b"", b"", b"event: message\n", b": ping\nid: 1\n", b"event: chunk\n")
    )
    payload = _written(chunk, chance)
    return Event(
        wire=name + b"data: " + payload + b"\n\n", shown=payload, said=tuple(said), usage=usage
    )


def _written(chunk: object, chance: random.Random) -> bytes:
    """JSON as one of the many writers writes it."""
    separators = chance.choice(((",", ":"), (", ", ": "), (" ,", " :  ")))
    ascii_only = chance.random() < 0.5
    return json.dumps(chunk, ensure_ascii=ascii_only, separators=separators).encode()


def _other(payload: bytes, name: bytes = b"") -> Event:
    return Event(wire=b"%bdata: %b\n\n" % (name, payload), kind="other")


def _silent(wire: bytes) -> Event:
    return Event(wire=wire, kind="silent")


def _usage(payload: bytes, name: bytes = b"") -> Event:
    return Event(wire=b"%bdata: %b\n\n" % (name, payload), shown=payload, usage=7, only_usage=True)


def _text(sent: bytes, shown: bytes | None = None, reason: str | None = None) -> Event:
    around = b'{"choices":[{"index":0,"delta":{"content":"%b"}}]}'
    if reason is not None:
        around = around.replace(b"}}", b'},"finish_reason":"%b"}' % reason.encode())
    return Event(
        wire=b"data: " + around % sent + b"\n\n",
        shown=around % (sent if shown is None else shown),
        said=(Said(choice=0, content=True, reason=reason),),
    )


_U: Final = b'"usage":{"completion_tokens":7}'
_REMARKS: Final = (
    Event(wire=b"data: [DONE]\n\n", kind="done"),
    Event(wire=b'data: "[DONE]"\n\n', kind="done"),
    Event(wire=b'data: {"error":{"message":"no"}}\n\n', kind="error"),
    Event(wire=b"event: error\ndata: no luck\n\n", kind="error"),
    Event(
        wire=b'data: {"error":{"message":"no"},"choices":[{"delta":{"content":"x"}}]}\n\n',
        shown=b'{"error":{"message":"no"},"choices":[{"delta":{"content":"x"}}]}',
        kind="error",
    ),
    Event(wire=b'data: {"object":"error","message":"old"}\n\n', kind="error"),
    Event(wire=b'data: {"choices":[{"delta":{"content":"half}]}\n\n', kind="fault"),
    Event(wire=b'event: chunk\ndata: {"choices":[{"delta":{"content":"half}]}\n\n', kind="fault"),
    _other(b"null"),
    _other(b"{}"),
    _other(b"[]"),
    _other(b'{"type":"ping"}'),
    _other(b'{"type":"ping"}', b"event: ping\n"),
    _other(b'{"id":"c","choices":null}'),
    _other(b'{"id":"c","choices":{}}'),
    _other(b'{"choices":[null,1]}'),
    _other(b'{"error":null,"choices":null}'),
    _other(b'{"error":{"message":"","code":null}}'),
    _other(b'{"usage":{}}'),
    _silent(b"event: ping\ndata: still here\n\n"),
    _silent(b"event: heartbeat\ndata: 12:00:01\n\n"),
    _silent(b'event: ping\ndata: {"type": "ping",}\n\n'),
    _silent(b": comment\n\n"),
    _silent(b"data: \n\n"),
    _silent(b"event: nothing\n\n"),
    _silent(b"retry: 10\n\n\n\n"),
    Event(wire=b'data: {"choices":[]}\n\n', shown=b'{"choices":[]}'),
    Event(wire=b'data: {"choices":[],"usage":null}\n\n', shown=b'{"choices":[],"usage":null}'),
    _usage(b'{"choices":[],%b}' % _U),
    _usage(b'{"choices":null,%b}' % _U),
    _usage(b"{%b}" % _U),
    _usage(b"{%b}" % _U, b"event: usage\n"),
    _text(rb"x\ud83d", rb"x\ufffd"),
    _text(rb"\ude00y\\ud83d", rb"\ufffdy\\ud83d"),
    _text(rb"\ud83d\ude00"),
    _text(b"x\xff\xf0\x9f", "x\ufffd\ufffd".encode()),
    Event(
        wire=b'data: {"x":[NaN,-Infinity, 1e999,1.50],"choices":[{"delta":{"content":"NaN"}}]}\n\n',
        shown=b'{"x":[null,null, null,1.50],"choices":[{"delta":{"content":"NaN"}}]}',
        said=(Said(choice=0, content=True),),
    ),
    Event(
        wire=b'data: {"choices":[{"index":-1,"delta":{"content":"x"},"finish_reason":{}}]}\n\n',
        shown=b'{"choices":[{"index":-1,"delta":{"content":"x"},"finish_reason":{}}]}',
        said=(Said(choice=0, content=True),),
    ),
    Event(
        wire=b'data: {"choices":[null,{"delta":\ndata: {"content":"x"}}]}\n\n',
        shown=b'{"choices":[null,{"delta": {"content":"x"}}]}',
        said=(Said(choice=0, content=True),),
    ),
    Event(
        wire=b'data: {"choices":[{"index":0,"text":"x"}]}\r\n\r\n',
        shown=b'{"choices":[{"index":0,"text":"x"}]}',
        said=(Said(choice=0, content=True),),
    ),
    _text(b"a\tb\x01\\n", rb"a\u0009b\u0001\n"),
    _other(b"still here"),
    *[_text(b"%d" % number) for number in range(3)],
    *[_text(b"%d" % number, reason="stop") for number in range(3)],
)
