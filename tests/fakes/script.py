"""What a fake upstream is to say, and the bytes of it; no sockets.

Tokens are numbered text, "t0 ", "t1 ", ..., so that a test can prove that none was lost or doubled.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from typing import Final, Literal, cast

import attrs

BEFORE_HEADERS: Final = -1
"""For `Script.hang_after`: accept the request and say nothing at all."""

CREATED: Final = 1_700_000_000


class Gate:
    """Lets tokens through when the test says so. Give it to one script, and use it for one answer.

    `release(n)` lets n more through; `open()` all of them.
    """

    def __init__(self) -> None:
        self._permits = 0
        self._is_open = False
        self._changed = asyncio.Event()

    def release(self, tokens: int = 1) -> None:
        """Let `tokens` more pass."""
        self._permits += tokens
        self._changed.set()

    def open(self) -> None:
        """Let everything pass from now on."""
        self._is_open = True
        self._changed.set()

    async def passed(self) -> None:
        """Wait for the next permit and use it up."""
        while not self._is_open and self._permits == 0:
            self._changed.clear()
            await self._changed.wait()
        self._permits -= 1


@attrs.frozen(kw_only=True)
class Script:
    """How one answer goes. The default is a well-behaved one of ten tokens, at once.

    Attributes:
        tokens: how many numbered tokens, or the very texts.
        rate: tokens a second; None for as fast as the client reads.
        gate: every token waits for it.
        endless: tokens go on for ever.
        choices: how many choices, each with all the tokens.
        role: a first chunk with the role and no content, as OpenAI sends it.
        reasoning: numbered `reasoning_content` tokens, "r0 ", ..., before the text.
        tool_call: name of a function that is called, in pieces, after the text.
        deltas: further pieces of the first choice before the text, as JSON: refusals, calls.
        logprobs: a log probability beside every token.
        finish_reason: None for an answer that just stops.
        done: whether `[DONE]` is sent.
        usage: whether a chunk of usage is sent; None for "if the request asked for it".
        error_after: after so many tokens, an `error` object and the end.
        hang_after: after so many tokens, silence; `BEFORE_HEADERS`, or 0 for before the first.
        cut_after: after so many tokens, the connection ends as `cut` says.
        cut: "rst", "fin" (which cuts a chunked body), or "end" (the body ends in good order).
        newline: line end of the event stream.
        multiline: JSON over several `data:` lines.
        spaced: a space after `data:`.
        comments: a comment before every event.
        named: an `event: message` line in every event.
        mark: a byte order mark first.
        split: bytes a write; 1 for one byte at a time; 0 for whole events.
        seed: cut writes at random places instead, from this seed.
        chunked: transfer encoding; without it the end of the body is the end of the connection.
        status, headers, body: a reply that is no answer, if `body` is set. Any headers set are
            also added to an answer.
        content_type: of the reply, in place of the right one.
        wire: the whole response, byte for byte; then the connection is left open, or ends as `cut`
            says if there is a `cut_after`.
        after: bytes sent when everything else was.
        then: the script in place of this one where the messages hold the result of a call.
    """

    tokens: int | tuple[str, ...] = 10
    rate: float | None = None
    gate: Gate | None = None
    endless: bool = False
    choices: int = 1
    role: bool = True
    reasoning: int = 0
    tool_call: str | None = None
    deltas: tuple[str, ...] = ()
    logprobs: bool = False
    finish_reason: str | None = "stop"
    done: bool = True
    usage: bool | None = None
    error_after: int | None = None
    hang_after: int | None = None
    cut_after: int | None = None
    cut: Literal["rst", "fin", "end"] = "fin"
    newline: bytes = b"\n"
    multiline: bool = False
    spaced: bool = True
    comments: bool = False
    named: bool = False
    mark: bool = False
    split: int = 0
    seed: int | None = None
    chunked: bool = True
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    content_type: str | None = None
    wire: bytes | None = None
    after: bytes = b""
    then: Script | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it can be played from one list of ready bytes, without a task."""
        return self == Script(
            tokens=self.tokens,
            rate=self.rate,
            usage=self.usage,
            role=self.role,
            reasoning=self.reasoning,
            choices=self.choices,
        )

    def texts(self) -> Iterator[str]:
        """Yield the text tokens in order."""
        if self.endless:
            return (f"t{number} " for number in itertools.count())
        if isinstance(self.tokens, int):
            return (f"t{number} " for number in range(self.tokens))
        return iter(self.tokens)

    def text(self) -> str:
        """Return the whole text of one choice of a finite answer."""
        return "".join(self.texts())


@attrs.frozen
class Writer:
    """Chunks of one answer, as bytes of the wire."""

    script: Script
    model: str
    identity: str = "chatcmpl-fake"

    def opening(self) -> list[bytes]:
        """Return the events before the first token of text."""
        script = self.script
        events = [b"\xef\xbb\xbf"] if script.mark else []
        if script.role:
            events.append(self.delta({"role": "assistant", "content": ""}))
        events += [
            self.delta({"reasoning_content": f"r{number} "}) for number in range(script.reasoning)
        ]
        events += [self.delta(json.loads(delta)) for delta in script.deltas]
        return events

    def token(self, text: str) -> bytes:
        """Return one token, for every choice."""
        return b"".join(
            self.delta({"content": text}, index=index) for index in range(self.script.choices)
        )

    def closing(self, *, usage: bool, tokens: int) -> list[bytes]:
        """Return the events after the last token."""
        script = self.script
        events = []
        if script.tool_call is not None:
            events += self._tool_call(script.tool_call)
        if script.finish_reason is not None:
            events += [
                self.delta({}, index=index, finish_reason=script.finish_reason)
                for index in range(script.choices)
            ]
        if usage:
            events.append(self.chunk({"choices": [], "usage": usage_of(tokens)}))
        if script.done:
            events.append(self.event(b"[DONE]"))
        return events

    def delta(
        self, delta: dict[str, object], *, index: int = 0, finish_reason: str | None = None
    ) -> bytes:
        """Return the event of a chunk with one choice."""
        logprobs = None
        if self.script.logprobs and delta.get("content"):
            logprobs = {"content": [_logprob(str(delta["content"]))], "refusal": None}
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self.chunk({"choices": [choice]})

    def chunk(self, fields: dict[str, object]) -> bytes:
        """Return the event of a `chat.completion.chunk`."""
        return self.event(
            as_json(
                {
                    "id": self.identity,
                    "object": "chat.completion.chunk",
                    "created": CREATED,
                    "model": self.model,
                    "system_fingerprint": "fp_fake",
                    **fields,
                },
                indent=1 if self.script.multiline else None,
            )
        )

    def event(self, data: bytes) -> bytes:
        """Frame data as the script wants it."""
        script = self.script
        end = script.newline
        prefix = b"data: " if script.spaced else b"data:"
        lines = [prefix + line for line in data.split(b"\n")]
        if script.named:
            lines.insert(0, b"event: message")
        ping = b": ping" + end + end if script.comments else b""
        return ping + end.join(lines) + end + end

    def completion(self) -> bytes:
        """Return the whole answer as a `chat.completion`, pretty-printed as many servers do."""
        script = self.script
        text = script.text()
        message: dict[str, object] = {"role": "assistant", "content": text}
        if script.reasoning:
            message["reasoning_content"] = "".join(f"r{n} " for n in range(script.reasoning))
        for delta in script.deltas:
            _merge(message, json.loads(delta))
        logprobs = {"content": [_logprob(token) for token in script.texts()]}
        choices = [
            {
                "index": index,
                "message": message,
                "logprobs": logprobs if script.logprobs else None,
                "finish_reason": script.finish_reason,
            }
            for index in range(script.choices)
        ]
        reply = {
            "id": self.identity,
            "object": "chat.completion",
            "created": CREATED,
            "model": self.model,
            "choices": choices,
            "usage": usage_of(len(list(script.texts()))),
        }
        return as_json(reply, indent=2)

    def _tool_call(self, name: str) -> list[bytes]:
        def piece(**function: str) -> bytes:
            call = {"index": 0, "id": "call_0", "type": "function", "function": function}
            return self.delta({"tool_calls": [call]})

        return [piece(name=name, arguments=""), piece(arguments='{"a":'), piece(arguments="1}")]


def _logprob(token: str) -> dict[str, object]:
    logprob_of = {"token": token, "logprob": -0.25, "bytes": list(token.encode())}
    return {**logprob_of, "top_logprobs": [logprob_of]}


def _merge(message: dict[str, object], delta: dict[str, object]) -> None:
    """Put the pieces of calls and texts together, as a whole answer has them."""
    for name, value in delta.items():
        if name != "tool_calls":
            message[name] = f"{message.get(name) or ''}{value}"
            continue
        calls = cast("list[dict[str, object]]", message.setdefault("tool_calls", []))
        for piece in cast("list[dict[str, object]]", value):
            index = cast("int", piece["index"])
            if index == len(calls):
                calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
            function = cast("dict[str, str]", calls[index]["function"])
            for part, text in cast("dict[str, str]", piece["function"]).items():
                function[part] += text
            calls[index] |= {"id": piece["id"]} if "id" in piece else {}
            message["content"] = message["content"] or None


def call_pieces(index: int, name: str, arguments: str, size: int = 4) -> tuple[str, ...]:
    """Return a function call as the deltas that OpenAI would send."""
    head = {
        "index": index,
        "id": f"call_{index}",
        "type": "function",
        "function": {"name": name, "arguments": ""},
    }
    cuts = [arguments[start : start + size] for start in range(0, len(arguments), size)]
    pieces = [head, *({"index": index, "function": {"arguments": cut}} for cut in cuts)]
    return tuple(json.dumps({"tool_calls": [piece]}) for piece in pieces)


def usage_of(tokens: int) -> dict[str, object]:
    """Return OpenAI's `usage` of an answer of `tokens` to a prompt of 7."""
    return {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}


def as_json(value: object, *, indent: int | None = None) -> bytes:
    """Return JSON with U+2028 and its like as they are, not escaped."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators).encode()


def error_body(message: str, kind: str, code: str | None) -> bytes:
    """Return OpenAI's error object."""
    return as_json({"error": {"message": message, "type": kind, "param": None, "code": code}})


def pieces(data: bytes, script: Script) -> Iterator[bytes]:
    """Cut `data` as the script says. Random cuts are the same for the same seed and data."""
    if script.seed is not None:
        chance = random.Random(script.seed * 1_000_003 + len(data))
        start = 0
        while start < len(data):
            size = chance.choice((1, 1, 2, 3, 7, 40, 200))
            yield data[start : start + size]
            start += size
    elif script.split:
        for start in range(0, len(data), script.split):
            yield data[start : start + script.split]
    else:
        yield data


_PAGE = (
    b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)


def _refusal(
    status: int, message: str, kind: str, code: str | None, *headers: tuple[str, str]
) -> Script:
    return Script(status=status, body=error_body(message, kind, code), headers=headers)


NAMED: Final[dict[str, Script]] = {
    "ten-tokens": Script(),
    "slow": Script(tokens=50, rate=20),
    "endless": Script(endless=True, rate=100),
    "flood": Script(endless=True),
    "reasoning": Script(reasoning=3),
    "tool-calls": Script(tokens=0, tool_call="add", finish_reason="tool_calls"),
    "parallel-calls": Script(
        tokens=0,
        deltas=(
            *call_pieces(0, "add", '{"a": 1, "b": 2}'),
            *call_pieces(1, "sub", '{"a": 3, "b": 1}'),
        ),
        finish_reason="tool_calls",
    ),
    "tool-loop": Script(
        tokens=0,
        deltas=(
            *call_pieces(0, "add", '{"a": 1, "b": 2}'),
            *call_pieces(1, "sub", '{"a": 3, "b": 1}'),
        ),
        finish_reason="tool_calls",
        then=Script(tokens=("Three ", "and ", "two.")),
    ),
    "refusal": Script(tokens=0, deltas=('{"refusal": "I can"}', '{"refusal": "not."}')),
    "logprobs": Script(logprobs=True),
    "structured": Script(tokens=('{"city": ', '"Paris", ', '"size": 2}')),
    "two-choices": Script(choices=2),
    "no-finish-reason": Script(finish_reason=None),
    "no-done": Script(done=False),
    "stops-without-end": Script(finish_reason=None, done=False),
    "cut-fin": Script(cut_after=3, cut="fin"),
    "cut-rst": Script(cut_after=3, cut="rst"),
    "cut-end": Script(cut_after=3, cut="end"),
    "error-midway": Script(error_after=3),
    "hang-before-headers": Script(hang_after=BEFORE_HEADERS),
    "hang-before-first-token": Script(hang_after=0, role=False),
    "hang-midway": Script(hang_after=3),
    "crlf": Script(newline=b"\r\n", comments=True),
    "cr": Script(newline=b"\r", comments=True),
    "one-byte": Script(split=1),
    "random-cuts": Script(seed=1, newline=b"\r\n", tokens=("ä", "\u2028", "\x85", "🙂", "end")),
    "multiline": Script(multiline=True),
    "separators": Script(tokens=("a\u2028b", "c\x85d", "e\x0bf", "🙂")),
    "huge-line": Script(tokens=("x" * 10_000_000,)),
    "not-json": Script(body=b"data: nonsense\n\n", content_type="text/event-stream"),
    "html-502": Script(status=502, body=_PAGE, content_type="text/html"),
    "error-500": _refusal(500, "The model crashed.", "server_error", "crashed"),
    "unauthorized": _refusal(
        401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"
    ),
    "rate-limited": _refusal(
        429, "Slow down.", "rate_limit_error", "rate_limit_exceeded", ("Retry-After", "7")
    ),
    "redirect": Script(
        status=307, body=b"", headers=(("Location", "http://user:pw@example.invalid/v1?key=s"),)
    ),
    "wrong-type": Script(body=b"<html>Please log in</html>", content_type="text/html"),
}
"""Scripts that a request can ask for by naming one as its `model`."""
