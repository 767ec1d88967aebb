"""Responses: an answer as the events of OpenAI's Responses API (Open Responses). Pure.

Every item of the output is complete before the next begins: ``output_item.added``, its deltas, its
``done`` events, ``output_item.done``; only calls whose pieces come mixed with others stay open
beside them. ``sequence_number`` is the event's position in the answer, counted from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from streaming_api.faces.call_pieces import CallPieces
from streaming_api.faces.response_items import Call, Item, Message, Reasoning
from streaming_api.faces.translator import CallDelta, Delta, End, Translator, mapping

_SAID: Final = (
    b'{"type":"response.output_text.delta","sequence_number":%d,%b,"delta":"%b","logprobs":[]}'
)


class ResponseTranslator(Translator):
    """One answer as a response.

    Args:
        fields: those of the response object that do not change: `response_fields`.
        request_id: the answer's id, which is part of the ids of its items.

    Attributes:
        status: ``in_progress``, and at the end ``completed``, ``incomplete``, ``failed`` or
            ``cancelled``.
        size: characters of text that are held for the whole response.
    """

    def __init__(self, fields: Mapping[str, object], request_id: str) -> None:
        self._fields = dict(fields)
        self._request_id = request_id
        self._items: list[Item] = []
        self._current: Reasoning | Message | None = None
        self._pieces = CallPieces()
        self._calls: dict[int, Call] = {}  # still open
        self._events: list[bytes] = []
        self._sequence = 0
        self.status = "in_progress"
        self.size = 0

    def opening(self) -> list[bytes]:
        """Return ``response.created`` and ``response.in_progress``."""
        self._whole("response.created")
        self._whole("response.in_progress")
        return self._taken()

    def read(self, delta: Delta) -> list[bytes]:
        """Return the events for a chunk."""
        if delta.model:
            self._fields["model"] = delta.model
        if delta.reasoning or delta.text or delta.refusal:
            self._begin_calls()
        if delta.reasoning:
            self._reason(delta.reasoning)
        if delta.text or delta.logprobs:
            self._say(delta)
        if delta.refusal:
            self._refuse(delta.refusal)
        for call in self._pieces.take(delta.calls):
            self._call(call)
        return self._taken()

    def say(self, text: str, said: bytes) -> list[bytes]:
        """Return the event for a chunk of text alone: on the hot path, most chunks are."""
        item = self._current
        part = item.saying if isinstance(item, Message) else None
        if part is None:
            self._say(Delta(text=text))
            return self._taken()
        part.texts.append(text)
        self.size += len(text)
        number = self._sequence
        self._sequence = number + 1
        return [_SAID % (number, part.position, said)]

    def end(self, end: End) -> list[bytes]:
        """Return the events that end the response."""
        self._begin_calls()
        self._close_current(whole=end.whole)
        for call in tuple(self._calls.values()):
            self._close_call(call, whole=end.whole)
        self.status = _STATUS[end.kind]
        self._fields |= {
            "status": self.status,
            "usage": _usage(end.usage),
            "error": _error(end) if self.status == "failed" or _was_cut(end) else None,
            "incomplete_details": _incomplete(end),
        }
        if self.status == "completed":
            created = self._fields["created_at"]
            assert isinstance(created, int)
            self._fields["completed_at"] = created + int(end.seconds)
        self._whole(_LAST_EVENT[self.status])
        return self._taken()

    def response(self) -> dict[str, object]:
        """Return the response object as it is now."""
        return {**self._fields, "output": [item.item() for item in self._items]}

    # What a chunk adds

    def _reason(self, text: str) -> None:
        item = self._current
        if not isinstance(item, Reasoning):
            item = Reasoning(f"rs_{self._request_id}_{len(self._items)}", len(self._items))
            self._open(item)
        self._add(item.add(text), len(text))

    def _say(self, delta: Delta) -> None:
        self._add(self._message().say(delta.text, delta.logprobs), len(delta.text))

    def _refuse(self, text: str) -> None:
        self._add(self._message().refuse(text), len(text))

    def _message(self) -> Message:
        item = self._current
        if not isinstance(item, Message):
            item = Message(f"msg_{self._request_id}_{len(self._items)}", len(self._items))
            self._open(item)
        return item

    def _begin_calls(self) -> None:
        for call in self._pieces.rest():
            self._call(call)

    def _call(self, delta: CallDelta) -> None:
        call = self._calls.get(delta.index)
        if call is None:
            if not (delta.call_id or delta.name):
                return  # the end of arguments that were already complete: white space
            self._close_complete()
            number = len(self._items)
            call_id = delta.call_id or f"call_{self._request_id}_{number}"
            call = Call(f"fc_{self._request_id}_{number}", number, call_id, delta.name)
            self._calls[delta.index] = call
            self._items.append(call)
            self._add(call.opened(), len(delta.name))
        if delta.arguments:
            self._add(call.add(delta.arguments), len(delta.arguments))

    # Items

    def _open(self, item: Reasoning | Message) -> None:
        self._close_complete()
        self._current = item
        self._items.append(item)
        self._add(item.opened(), 0)

    def _close_complete(self) -> None:
        """Close what the next item shows to be complete; calls go on until their arguments are."""
        self._close_current(whole=True)
        for call in tuple(self._calls.values()):
            if call.complete:
                self._close_call(call, whole=True)

    def _close_current(self, *, whole: bool) -> None:
        if self._current is not None:
            self._add(self._current.closed(whole=whole), 0)
            self._current = None

    def _close_call(self, call: Call, *, whole: bool) -> None:
        self._add(call.closed(whole=whole), 0)
        self._calls = {index: other for index, other in self._calls.items() if other is not call}

    # Events

    def _add(self, events: list[tuple[str, bytes]], size: int) -> None:
        for name, fields in events:
            numbered = (name.encode(), self._sequence, fields[1:])
            self._events.append(b'{"type":"%b","sequence_number":%d,%b' % numbered)
            self._sequence += 1
        self.size += size

    def _whole(self, name: str) -> None:
        self._add([(name, orjson.dumps({"response": self.response()}))], 0)

    def _taken(self) -> list[bytes]:
        taken, self._events = self._events, []
        return taken


_STATUS: Final = {
    "stop": "completed",
    "tool_calls": "completed",
    "length": "incomplete",
    "content_filter": "incomplete",
    "incomplete": "incomplete",
    "cancelled": "cancelled",
    "abandoned": "cancelled",
    "error": "failed",
}
"""The status for what a finish reason means."""
_LAST_EVENT: Final = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",  # the standard has no event of that name
    "failed": "response.failed",
}
_REASONS: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _incomplete(end: End) -> dict[str, object] | None:
    if _STATUS[end.kind] not in {"incomplete", "cancelled"}:
        return None
    code = mapping(end.error).get("code")
    reason = _REASONS.get(end.kind, end.finish_reason)
    return {"reason": code if isinstance(code, str) else reason}


def _was_cut(end: End) -> bool:
    """Whether it is incomplete by a fault; clients look at a response's error before its status."""
    return end.finish_reason == "incomplete" and end.error is not None


def _error(end: End) -> dict[str, object]:
    error = mapping(end.error)
    code = error.get("code")
    message = error.get("message")
    return {
        "code": code if isinstance(code, str) else "server_error",
        "message": message if isinstance(message, str) else "The answer failed.",
    }


def _usage(usage: Mapping[str, object] | None) -> dict[str, object] | None:
    """Return the tokens that an upstream reported, in the form of the Responses API."""
    if usage is None:
        return None
    prompt = _count(usage, "prompt_tokens")
    completion = _count(usage, "completion_tokens")
    cached = mapping(usage.get("prompt_tokens_details"))
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            name: _count(cached, name) for name in ("cached_tokens", "cache_write_tokens")
        },
        "output_tokens": completion,
        "output_tokens_details": {
            "reasoning_tokens": _count(
                mapping(usage.get("completion_tokens_details")), "reasoning_tokens"
            ),
        },
        "total_tokens": _count(usage, "total_tokens") or prompt + completion,
    }


def _count(fields: Mapping[str, object], name: str) -> int:
    count = fields.get(name)
    return count if isinstance(count, int) else 0
