"""UI messages: an answer as the AI SDK's UI message stream (npm ``ai``, version 5 and later). Pure.

``useChat`` reads it: a message is a step with parts of text, reasoning and tool calls, each with a
start and an end. A refusal is sent as text, as there is no other form for it.
"""

from __future__ import annotations

from typing import Final

import orjson

from streaming_api.faces.call_pieces import CallPieces
from streaming_api.faces.translator import CallDelta, Delta, End, Translator, is_json, mapping
from streaming_api.wire import json_text


class UiMessageTranslator(Translator):
    """One answer as a UI message stream.

    Args:
        message_id: the id of the message that the page shows.

    Attributes:
        size: characters of text that are held.
    """

    def __init__(self, message_id: str) -> None:
        self._message_id = message_id
        self._parts = 0
        self._open: tuple[str, str] | None = None  # kind and id of the part in progress
        self._said = b""  # its events, up to the text
        self._pieces = CallPieces()
        self._calls: dict[int, _ToolCall] = {}
        self._events: list[bytes] = []
        self.size = 0

    def opening(self) -> list[bytes]:
        """Return the events that come before any chunk."""
        self._say({"type": "start", "messageId": self._message_id})
        self._say({"type": "start-step"})
        return self._taken()

    def read(self, delta: Delta) -> list[bytes]:
        """Return the events for a chunk."""
        if delta.reasoning or delta.text or delta.refusal:
            self._begin_calls()
        if delta.reasoning:
            self._add("reasoning", delta.reasoning)
        if delta.text:
            self._add("text", delta.text)
        if delta.refusal:
            self._add("text", delta.refusal)
        for call in self._pieces.take(delta.calls):
            self._call(call)
        return self._taken()

    def say(self, text: str, said: bytes) -> list[bytes]:
        """Return the event for a chunk of text alone: on the hot path, most chunks are."""
        if self._open is None or self._open[0] != "text":
            self._add("text", text)
            return self._taken()
        return [b'%b%b"}' % (self._said, said)]

    def end(self, end: End) -> list[bytes]:
        """Return the events that end the message."""
        self._begin_calls()
        self._close_part()
        self._close_calls(whole=end.whole)
        if end.finish_reason in {"cancelled", "abandoned"}:
            self._say({"type": "abort"})
            return self._taken()
        if end.finish_reason in {"error", "incomplete"}:
            message = mapping(end.error).get("message")
            self._say({"type": "error", "errorText": message or "The answer was cut short."})
            return self._taken()
        self._say({"type": "finish-step"})
        reason = _REASONS.get(end.kind, "other")
        self._say({"type": "finish", "finishReason": reason})
        return self._taken()

    def _add(self, kind: str, text: str) -> None:
        if self._open is None or self._open[0] != kind:
            self._close_complete()
            self._open = (kind, f"{kind}-{self._parts}")
            self._parts += 1
            self._say({"type": f"{kind}-start", "id": self._open[1]})
            said = {"type": f"{kind}-delta", "id": self._open[1], "delta": ""}
            self._said = orjson.dumps(said)[: -len('"}')]
        self._say({"type": f"{kind}-delta", "id": self._open[1], "delta": text})

    def _close_part(self) -> None:
        if self._open is not None:
            kind, part_id = self._open
            self._open = None
            self._say({"type": f"{kind}-end", "id": part_id})

    def _begin_calls(self) -> None:
        for call in self._pieces.rest():
            self._call(call)

    def _call(self, delta: CallDelta) -> None:
        call = self._calls.get(delta.index)
        if call is None:
            if not (delta.call_id or delta.name):
                return  # the end of arguments that were already complete: white space
            self._close_complete()
            call_id = delta.call_id or f"call-{self._message_id}-{self._parts}"
            self._parts += 1
            call = self._calls[delta.index] = _ToolCall(call_id, delta.name)
            self._say({"type": "tool-input-start", **call.named()})
        if delta.arguments:
            call.pieces.append(delta.arguments)
            self.size += len(delta.arguments)
            self._say(
                {
                    "type": "tool-input-delta",
                    "toolCallId": call.call_id,
                    "inputTextDelta": delta.arguments,
                }
            )

    def _close_complete(self) -> None:
        """Close what the next part shows to be complete; calls go on until their input is."""
        self._close_part()
        for index in [index for index, call in self._calls.items() if call.complete]:
            self._close_call(index, whole=True)

    def _close_calls(self, *, whole: bool) -> None:
        for index in tuple(self._calls):
            self._close_call(index, whole=whole)

    def _close_call(self, index: int, *, whole: bool) -> None:
        """Report that a call's input is complete; a call that was cut off must not be run."""
        call = self._calls.pop(index)
        if not whole:
            return
        text = "".join(call.pieces)
        if not text.strip() or call.complete:
            call_input = orjson.loads(text) if text.strip() else {}
            self._say({"type": "tool-input-available", **call.named(), "input": call_input})
        else:
            fault = "The model gave arguments that are no JSON."
            self._say(
                {"type": "tool-input-error", **call.named(), "input": text, "errorText": fault}
            )

    def _say(self, event: dict[str, object]) -> None:
        self._events.append(json_text.compact(event))

    def _taken(self) -> list[bytes]:
        taken, self._events = self._events, []
        return taken


class _ToolCall:
    """A call whose input is not complete yet."""

    def __init__(self, call_id: str, name: str) -> None:
        self.call_id = call_id
        self.name = name
        self.pieces: list[str] = []

    @property
    def complete(self) -> bool:
        return is_json("".join(self.pieces))

    def named(self) -> dict[str, object]:
        return {"toolCallId": self.call_id, "toolName": self.name}


_REASONS: Final = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool-calls",
    "content_filter": "content-filter",
}
