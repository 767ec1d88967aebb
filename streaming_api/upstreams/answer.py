"""Reads a chat answer out of response bytes: which chunks, which end; pure, no sockets.

A chunk is checked here and passed on as the bytes that came: parsed once, encoded never. Most are
not even parsed: within one answer, chunks of text differ in the text alone (`_learn`).
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

import orjson

from streaming_api.upstreams.reply_errors import UpstreamFault, error_of_object, fault
from streaming_api.upstreams.sse_parser import Event, EventParser, EventTooLargeError

MAX_CHOICES: Final = 1_024  # OpenAI allows n = 128; the bound keeps what is held small

LF: Final = 10

RELEARN_AFTER: Final = 8  # chunks of text: what each of them differs in is not worth learning
_NEVER: Final = b"\n"  # no line starts with it
_TEXT: Final = re.compile(rb'"content": ?"')

_LINE_ENDS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")


class InvalidAnswerError(Exception):
    """The upstream sent something that is not an OpenAI answer; the text says what."""


class AnswerReader:
    """One answer, from first byte to its end.

    Attributes:
        over: nothing that comes after this belongs to the answer.
        error: why it ended, when that was a fault. A fault that comes after the finish reason of
            every choice is not one: the answer was complete.
        usage: the newest `usage` object that the upstream reported.
        content_chunks: chunks (or whole messages) that carried text, reasoning or tool calls.
    """

    __slots__ = (
        "_choices",
        "_events",
        "_finished",
        "_learn_at",
        "_text_after",
        "_text_before",
        "_usage_asked",
        "content_chunks",
        "error",
        "over",
        "usage",
    )

    def __init__(self, max_event_bytes: int, *, usage_asked: bool) -> None:
        self._events = EventParser(max_event_bytes)
        self._usage_asked = usage_asked
        self._choices: set[int] = set()
        self._finished: dict[int, str] = {}
        self._text_before = _NEVER
        self._text_after = b""
        self._learn_at = 0
        self.content_chunks = 0
        self.error: UpstreamFault | None = None
        self.over = False
        self.usage: dict[str, object] | None = None

    @property
    def finish_reason(self) -> str | None:
        """The first choice's, once every choice that was seen has one."""
        if not self._finished or len(self._finished) < len(self._choices):
            return None
        return self._finished[min(self._finished)]

    def fail(self, error: UpstreamFault) -> None:
        """End the answer with `error`, unless it was complete already or has ended."""
        if not self.over and self.finish_reason is None:
            self.error = error
        self.over = True

    def read(self, data: bytes) -> list[bytes]:
        """Take bytes of an event stream; return the chunks that they complete, each one line."""
        try:
            events = self._events.feed(data)
        except EventTooLargeError as exc:
            chunks = self._take_events(exc.events)
            self.fail(_too_large(exc.limit))
            return chunks
        return self._take_events(events)

    def read_whole(self, body: bytes) -> list[bytes]:
        """Take the whole body of an answer that is not streamed; return it as one line."""
        try:
            answer = _loads(body)
            wanted = (
                self._take_error(answer)
                if answer.get("error")
                else self._note_choices(answer, "message")
            )
        except InvalidAnswerError as exc:
            self.fail(invalid(str(exc)))
            return []
        self.over = True
        return [] if not wanted else [body.translate(_LINE_ENDS_TO_SPACES).strip()]

    def _take_events(self, events: list[Event]) -> list[bytes]:
        chunks: list[bytes] = []
        try:
            for event_type, payload in events:
                before, after = self._text_before, self._text_after
                if (
                    payload.startswith(before)
                    and payload.endswith(after)
                    and not event_type
                    and _is_text(payload[len(before) : -len(after)])
                ):
                    self.content_chunks += 1
                    chunks.append(payload)
                elif self._is_chunk(event_type, payload):
                    chunks.append(payload.replace(b"\n", b" ") if LF in payload else payload)
                if self.over:
                    break
        except InvalidAnswerError as exc:
            self.fail(invalid(str(exc)))
        return chunks

    def _is_chunk(self, event_type: bytes, payload: bytes) -> bool:
        """Note what an event says; whether it is a chunk that the client is to have."""
        try:
            chunk = orjson.loads(payload)
        except orjson.JSONDecodeError as exc:
            return self._take_other_payload(event_type, payload, exc)
        if chunk.__class__ is not dict:
            raise InvalidAnswerError(f"an event that is not a JSON object: {_excerpt(payload)}")
        if event_type and event_type != b"message":
            return self._take_named_event(event_type, chunk)
        if chunk.get("error"):
            return self._take_error(chunk)
        wanted = self._note_choices(chunk, "delta")
        if wanted and self.content_chunks >= self._learn_at:
            self._learn(payload, chunk)
        return wanted

    def _learn(self, payload: bytes, chunk: dict[str, Any]) -> None:
        """Remember what stands around a chunk's text, if another text is all that can come there.

        A payload with the same bytes around a JSON string is then this chunk with another text: the
        parser has shown it, by reading this chunk back with its text exchanged.
        """
        self._learn_at = self.content_chunks + RELEARN_AFTER
        self._text_before = _NEVER
        found = _TEXT.search(payload)
        if found is None or len(chunk["choices"]) != 1 or LF in payload:
            return
        delta = chunk["choices"][0].get("delta")
        if isinstance(chunk.get("usage"), dict) or self._finished or not isinstance(delta, dict):
            return
        before = payload[: found.end()]
        after = payload[payload.index(b'"', found.end()) :]
        delta["content"] = "x"
        with suppress(orjson.JSONDecodeError):  # the text has a quote in it: learn from another one
            if orjson.loads(b"%bx%b" % (before, after)) == chunk:
                self._text_before, self._text_after = before, after

    def _note_choices(self, answer: dict[str, object], part: str) -> bool:
        """Note finish reasons, usage and content; whether the client is to have this one."""
        usage = answer.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        choices = answer.get("choices")
        if not isinstance(choices, list):
            return self._take_error(answer)
        if not choices:
            return self._usage_asked or usage is None
        wanted = False
        for choice in choices:
            wanted |= self._note_choice(choice, part)
        return wanted

    def _note_choice(self, choice: object, part: str) -> bool:
        if not isinstance(choice, dict):
            raise InvalidAnswerError("a choice that is not an object")
        index = choice.get("index", 0)
        if index.__class__ is not int or index not in self._choices:
            self._open_choice(index)
        content = choice.get(part)
        if isinstance(content, dict) and _carries_content(content):
            if index in self._finished:
                return False  # the choice is over: what still comes is not part of it
            self.content_chunks += 1
        reason = choice.get("finish_reason")
        if reason is not None:
            if not isinstance(reason, str):
                raise InvalidAnswerError("a finish_reason that is not a string")
            self._finished.setdefault(index, reason)
            self._text_before = _NEVER
        return True

    def _open_choice(self, index: object) -> None:
        if not isinstance(index, int) or not 0 <= index < MAX_CHOICES:
            raise InvalidAnswerError("a choice whose index is not a small number")
        self._choices.add(index)

    def _take_other_payload(self, event_type: bytes, payload: bytes, exc: ValueError) -> bool:
        """`[DONE]`, an empty life sign, an error in plain words, or nonsense."""
        words = payload.strip()
        if words == b"[DONE]":
            self.over = True
        elif event_type == b"error":
            self.fail(fault("upstream_error_event", words.decode("utf-8", "replace")[:300]))
        elif words:
            raise InvalidAnswerError(f"an event that is not JSON ({exc}): {_excerpt(payload)}")
        return False

    def _take_named_event(self, event_type: bytes, chunk: dict[str, object]) -> bool:
        """`event: error` is an error; another name is read only if it holds a chunk."""
        if event_type == b"error" or chunk.get("error"):
            return self._take_error(chunk, is_error=True)
        return "choices" in chunk and self._note_choices(chunk, "delta")

    def _take_error(self, reply: dict[str, object], *, is_error: bool = False) -> bool:
        """Read an error out of what is not an answer."""
        error = error_of_object(reply) or (error_of_object({"error": reply}) if is_error else None)
        if error is None:
            raise InvalidAnswerError("an object without a list of `choices`")
        self.fail(error)
        return False


def invalid(what: str) -> UpstreamFault:
    """The upstream broke the protocol: it sent `what`."""
    return fault(
        "upstream_invalid_response",
        f"The upstream sent {what}. Check that the gateway endpoint speaks OpenAI's protocol.",
    )


def _too_large(limit: int) -> UpstreamFault:
    return fault("upstream_event_too_large", f"The upstream sent an event above {limit} bytes.")


def _loads(body: bytes) -> dict[str, object]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidAnswerError(f"a body that is not JSON ({exc}): {_excerpt(body)}") from exc
    if not isinstance(answer, dict):
        raise InvalidAnswerError(f"a body that is not a JSON object: {_excerpt(body)}")
    return answer


def _is_text(inside: bytes) -> bool:
    """Whether these bytes, in quotes, are a JSON string, and not an empty one."""
    try:
        return bool(inside) and orjson.loads(b'"%b"' % inside) is not None
    except orjson.JSONDecodeError:
        return False


def _carries_content(part: dict[str, object]) -> bool:
    return bool(
        part.get("content")
        or part.get("reasoning_content")
        or part.get("tool_calls")
        or part.get("reasoning")
        or part.get("refusal")
        or part.get("function_call")
    )


def _excerpt(payload: bytes) -> str:
    return repr(payload[:80].decode("utf-8", "replace"))
