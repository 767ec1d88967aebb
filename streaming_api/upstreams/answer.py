"""Reads a chat answer out of response bytes: which chunks, which end; pure, no sockets.

One rule: what carries content is shown, what carries none never ends an answer, only an end is an
end, and only an error object or bytes that cannot be read are faults.

- *Shown*: a chunk with choices goes on as the bytes that came, whatever else is or is not in it;
  one whole answer, as chunks that say the same.
- *None*: an event without choices, or of plain words, is noted where it has usage, and skipped. A
  stream of nothing else is no answer.
- *An end*: ``[DONE]``; the end of a body that says where it ends; the end of the connection where
  the body does not, unless finish reasons have proved empty before; and, for an answer that is
  cut, a finish reason in a chunk of its own for every choice (`Choices.are_closed`).
- *Faults*: an error object, also in a choice (after the content that it has itself), an event of
  that name, an event that begins an object and is not JSON, for it may have been content; under a
  name of its own only where it speaks of ``choices``.

A chunk is checked here and passed on as it came: parsed once, encoded never. Most are not even
parsed: within one answer, chunks of text differ in the text alone (`_learn`).
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

import attrs
import orjson
from mypy_extensions import mypyc_attr

from streaming_api.text import excerpt
from streaming_api.upstreams import completion, repair
from streaming_api.upstreams.choices import Choices
from streaming_api.upstreams.reply_errors import (
    UpstreamFault,
    error_of_object,
    fault,
    is_bare_error,
)
from streaming_api.upstreams.sse_parser import Event, EventParser, EventTooLargeError

LF: Final = 10

RELEARN_AFTER: Final = 8  # chunks of text between two attempts to learn what they have in common
_DONE: Final = b"[DONE]"
_NEVER: Final = b"\n"  # no line starts with it
_OBJECT: Final = re.compile(rb'\{[ \t\r\n]*"')
_TEXT: Final = re.compile(rb'"content": ?"')
_PLAIN: Final = frozenset({b"", b"message"})
"""Names of events that mean nothing (HTML standard, section 9.2.6)."""

_LINE_ENDS_TO_SPACES: Final = bytes.maketrans(b"\r\n", b"  ")


class InvalidAnswerError(Exception):
    """The upstream sent something that cannot be read; the text says what."""


@attrs.frozen
class ExchangeResult:
    """How an answer ended.

    Attributes:
        finish_reason: the upstream's own; None when it gave none, or not for every choice.
        usage: the upstream's own figures, the newest it sent.
        error: None for an answer that is complete, and for one that the upstream ended in good
            order but without a finish reason.
        content_chunks: chunks that carried content, for an estimate of usage.
        done: the upstream itself said that this was all.
    """

    finish_reason: str | None
    usage: dict[str, object] | None
    error: UpstreamFault | None
    content_chunks: int
    done: bool = False


@mypyc_attr(allow_interpreted_subclasses=True)
class AnswerReader:
    """One answer, from first byte to its end.

    Attributes:
        over: nothing that comes after this belongs to the answer.
        done: the upstream itself said that this was all: ``[DONE]``, or one whole JSON object.
        error: why it ended, when that was a fault. A fault that comes when the answer was complete
            is none, unless it is the upstream's own word.
        usage: the newest `usage` object that the upstream reported.
        content_chunks: chunks (or whole messages) that carried content.
        repaired: chunks in which something was replaced (`repair.loads`).
    """

    __slots__ = (
        "_as_chunks",
        "_choices",
        "_events",
        "_learn_at",
        "_other",
        "_text_after",
        "_text_before",
        "_usage_asked",
        "content_chunks",
        "done",
        "error",
        "over",
        "repaired",
        "usage",
    )

    def __init__(self, max_event_bytes: int, *, usage_asked: bool, as_chunks: bool = False) -> None:
        """Expect an answer.

        Args:
            max_event_bytes: bound on one event.
            usage_asked: whether the client is to get a chunk that holds nothing but usage.
            as_chunks: whether a whole answer is to come out as chunks.
        """
        self._events = EventParser(max_event_bytes)
        self._usage_asked = usage_asked
        self._as_chunks = as_chunks
        self._choices = Choices()
        self._other = ""  # the beginning of the first event that was no chunk
        self._text_before = _NEVER
        self._text_after = b""
        self._learn_at = 2  # the first token does not wait for it
        self.content_chunks = 0
        self.done = False
        self.error: UpstreamFault | None = None
        self.over = False
        self.repaired = 0
        self.usage: dict[str, object] | None = None

    @property
    def finish_reason(self) -> str | None:
        """The first choice's reason, once every choice seen has one; None after a fault."""
        return None if self.error is not None else self._choices.reason

    @property
    def result(self) -> ExchangeResult:
        """How the answer ended."""
        return ExchangeResult(
            self.finish_reason, self.usage, self.error, self.content_chunks, self.done
        )

    def fail(self, error: UpstreamFault) -> None:
        """End the answer with `error`, unless it was complete already or has ended."""
        if not self.over and not self._choices.are_closed:
            self.error = error
        self.over = True

    def read(self, data: bytes) -> list[bytes]:
        """Take bytes of an event stream; return the chunks that they complete, each one line."""
        try:
            events = self._events.feed(data)
        except EventTooLargeError as exc:
            chunks = self._take_events(exc.events)
            self.fail(too_large(exc.limit))
            return chunks
        return self._take_events(events)

    def read_end(self, *, delimited: bool) -> list[bytes]:
        """Take the end of an event stream that HTTP calls complete; return what it completes.

        Args:
            delimited: whether the body said itself where it ends; else a connection was closed,
                which is an end or a cut, as far as the upstream's finish reasons can be believed.
        """
        chunks = []
        for event in self._events.finish():
            with suppress(orjson.JSONDecodeError):  # half an event is no event
                if event[1].strip() != _DONE:
                    repair.loads(event[1])
                chunks = self._take_events([event])
        if self.over:
            return chunks
        if self._other and not self._choices.are_seen:
            self.fail(invalid(f"no chunk of an answer, but {self._other}"))
        elif self._choices.are_contradicted and not delimited:
            self._choices = Choices()  # what was no end before is none now
        self.over = True
        return chunks

    def read_whole(self, body: bytes) -> list[bytes]:
        """Take the whole body of an answer that is not streamed; return it as one line.

        Where a stream was asked for, return chunks that say the same.
        """
        try:
            answer, said = _loads(body)
            if said is not body:
                self.repaired += 1
            choices = answer.get("choices")
            is_answer = isinstance(choices, list) and (choices or not self._as_chunks)
            erring = _erring(answer)
            if erring is not None or not is_answer:
                self._take_error(erring or answer)
                return []
            if self._as_chunks:
                chunks = completion.as_chunks(answer, usage_asked=self._usage_asked)
            else:
                chunks = [said.translate(_LINE_ENDS_TO_SPACES).strip()]
        except InvalidAnswerError as exc:
            self.fail(invalid(str(exc)))
            return []
        except orjson.JSONEncodeError:
            self.fail(invalid("a whole answer that cannot be said in chunks"))
            return []
        self._note_choices(answer)
        self.over = self.done = True
        return chunks

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
                else:
                    chunks += self._chunks_of(event_type, payload)
                if self.over:
                    break
        except InvalidAnswerError as exc:
            self.fail(invalid(str(exc)))
        return chunks

    def _chunks_of(self, event_type: bytes, payload: bytes) -> list[bytes]:
        """Note what an event says; return the chunks of it that the client is to get."""
        if payload == _DONE:  # as nearly every stream ends: not worth an error of the parser
            self.over = self.done = True
            return []
        try:
            event, said = repair.loads(payload)
        except orjson.JSONDecodeError as exc:
            self._take_other_payload(event_type, payload, exc)
            return []
        if said is not payload:
            self.repaired += 1
        if event_type == b"error":
            self._take_error_event(event, payload)
        elif event == "[DONE]":
            self.over = self.done = True
        elif isinstance(event, dict):
            erring = _erring(event)
            if erring is None:
                return self._take_object(event, said)
            before = self.content_chunks
            chunks = self._take_object(event, said)
            self._take_error(erring)
            return chunks if self.content_chunks > before else []
        elif error := error_of_object(event):  # in a list (Google)
            self._refuse(error)
        else:
            self._other = self._other or excerpt(payload)
        return []

    def _take_object(self, chunk: dict[str, Any], said: bytes) -> list[bytes]:
        """Pass on a chunk as it is; a whole answer as chunks, without text that was sent."""
        had_content = self.content_chunks > 0
        if not self._note_choices(chunk):
            if not chunk.get("usage"):
                self._other = self._other or excerpt(said)
            return []
        if self.content_chunks >= self._learn_at:
            self._learn(said, chunk)
        if completion.is_whole(chunk) and (not had_content or len(chunk["choices"]) == 1):
            with suppress(orjson.JSONEncodeError):
                if had_content:
                    chunk = completion.without_messages(chunk)
                return completion.as_chunks(chunk, usage_asked=self._usage_asked)
        return [said.replace(b"\n", b" ") if LF in said else said]

    def _learn(self, payload: bytes, chunk: dict[str, Any]) -> None:
        """Remember what stands around a chunk's text, if another text is all that can come there.

        A payload with the same bytes around a JSON string is then this chunk with another text: the
        parser has shown it, by reading this chunk back with its text exchanged.
        """
        self._learn_at = self.content_chunks + RELEARN_AFTER
        self._text_before = _NEVER
        if self._choices.have_reasons or isinstance(chunk.get("usage"), dict) or LF in payload:
            return
        found = _TEXT.search(payload)
        choices = chunk["choices"]
        if found is None or not isinstance(choices, list) or len(choices) != 1:
            return
        delta = choices[0].get("delta")
        if not isinstance(delta, dict) or isinstance(choices[0].get("usage"), dict):
            return
        before = payload[: found.end()]
        after = payload[payload.index(b'"', found.end()) :]
        delta["content"] = "x"
        with suppress(orjson.JSONDecodeError):  # the text has a quote in it: learn from another one
            if orjson.loads(b"%bx%b" % (before, after)) == chunk:
                self._text_before, self._text_after = before, after

    def _note_choices(self, answer: dict[str, Any]) -> bool:
        """Note finish reasons, usage and content; return whether the client is to get this one."""
        has_usage = self._note_usage(answer)
        choices = answer.get("choices")
        if isinstance(choices, list):
            said = [choice for choice in choices if isinstance(choice, dict)]
            for choice in said:
                self._note_usage(choice)  # some servers put it there
                if self._choices.note(choice, begun=self.content_chunks > 0):
                    self.content_chunks += 1
            if self._choices.have_reasons:
                self._text_before = _NEVER  # what comes now has to be looked at
            if said:
                return True
            if not choices and answer.get("usage") is None:
                return True  # an upstream's own remark, as Azure's first chunk
        return self._usage_asked and has_usage

    def _note_usage(self, fields: dict[str, Any]) -> bool:
        usage = fields.get("usage")
        if not usage or not isinstance(usage, dict):
            return False
        self.usage = usage
        return True

    def _take_other_payload(self, event_type: bytes, payload: bytes, exc: ValueError) -> None:
        """Take ``[DONE]``, a keep-alive, an error in plain words, or half an object."""
        words = payload.strip()
        if words == _DONE:
            self.over = self.done = True
        elif event_type == b"error":
            self._take_error_event(words.decode("utf-8", "replace"), payload)
        elif _OBJECT.match(words) and (event_type in _PLAIN or b'"choices"' in words):
            raise InvalidAnswerError(f"an event that is not JSON ({exc}): {excerpt(payload)}")
        elif words and event_type in _PLAIN:
            self._other = self._other or excerpt(payload)

    def _take_error_event(self, error: object, payload: bytes) -> None:
        """Take an ``event: error``, whatever it holds."""
        reported = error_of_object(error) or error_of_object({"error": error})
        if reported is None or isinstance(error, str):
            words = error if isinstance(error, str) else payload.decode("utf-8", "replace")
            reported = fault(
                "upstream_error_event", words.strip()[:300] or "The upstream said so, and no more."
            )
        self._refuse(reported)

    def _take_error(self, reply: dict[str, object]) -> None:
        """Read an error out of a reply that is not an answer."""
        error = error_of_object(reply)
        if error is None:
            raise InvalidAnswerError("an object without a list of `choices`")
        self._refuse(error)

    def _refuse(self, error: UpstreamFault) -> None:
        """End with what the upstream itself calls an error, whatever it has said before."""
        self.error = error
        self.over = True


def invalid(what: str) -> UpstreamFault:
    """Return the fault of an upstream that broke the protocol: it sent `what`."""
    return fault(
        "upstream_invalid_response",
        f"The upstream sent {what}. Check that the gateway endpoint speaks OpenAI's protocol.",
    )


def too_large(limit: int) -> UpstreamFault:
    """Return the fault of an event, or a whole answer, that is above the bound."""
    return fault("upstream_event_too_large", f"The upstream sent an event above {limit} bytes.")


def _loads(body: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        answer, said = repair.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidAnswerError(f"a body that is not JSON ({exc}): {excerpt(body)}") from exc
    if not isinstance(answer, dict):
        raise InvalidAnswerError(f"a body that is not a JSON object: {excerpt(body)}")
    return answer, said


def _erring(reply: dict[str, Any]) -> dict[str, Any] | None:
    """Return the object that is an error: the reply, or one of its choices (OpenRouter)."""
    if _is_error(reply):
        return reply
    choices = reply.get("choices")
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and choice.get("error") and _is_error(choice):
                return choice
    return None


def _is_error(reply: dict[str, Any]) -> bool:
    """Return whether an object is an error, not an answer with an empty field for one."""
    error = reply.get("error")
    if isinstance(error, dict):
        return any(error.values())
    if reply.keys() == {"detail"}:
        return bool(reply["detail"])
    return bool(error) or (not reply.get("choices") and is_bare_error(reply))


def _is_text(inside: bytes) -> bool:
    """Return whether these bytes, in quotes, are a JSON string, and not an empty one."""
    try:
        return bool(inside) and orjson.loads(b'"%b"' % inside) is not None
    except orjson.JSONDecodeError:
        return False
