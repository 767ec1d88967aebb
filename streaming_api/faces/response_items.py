"""The items of a response's output, and the events that announce them. Pure.

Each method returns events as pairs of a name and its fields as JSON; `ResponseTranslator` numbers
them.
"""

from __future__ import annotations

from typing import Protocol

import orjson

from streaming_api.faces.translator import is_json

Events = list[tuple[str, bytes]]


class Item(Protocol):
    """An item of the output."""

    def item(self) -> dict[str, object]:
        """Return the item as it is now."""

    def opened(self) -> Events:
        """Return the events with which it begins."""

    def closed(self, *, whole: bool) -> Events:
        """Return the events with which it ends."""


class Reasoning:
    """The model's reasoning, as a summary with one part."""

    def __init__(self, item_id: str, index: int) -> None:
        self._id = item_id
        self._index = index
        self._texts: list[str] = []
        self._position = b'"item_id":%b,"output_index":%d,"summary_index":0' % (
            orjson.dumps(item_id), index,
        )  # fmt: skip

    def item(self) -> dict[str, object]:
        """Return the item as it is now."""
        summary = [_summary("".join(self._texts))] if self._texts else []
        return {"type": "reasoning", "id": self._id, "summary": summary}

    def opened(self) -> Events:
        """Return the events with which it begins."""
        part = b'{%b,"part":%b}' % (self._position, orjson.dumps(_summary("")))
        return [
            _item_event("response.output_item.added", self._index, self.item()),
            ("response.reasoning_summary_part.added", part),
        ]

    def add(self, text: str) -> Events:
        """Return the event for a piece of the reasoning."""
        self._texts.append(text)
        fields = b'{%b,"delta":%b}' % (self._position, orjson.dumps(text))
        return [("response.reasoning_summary_text.delta", fields)]

    def closed(self, *, whole: bool) -> Events:  # noqa: ARG002 (an item without a status)
        """Return the events with which it ends."""
        text = "".join(self._texts)
        self._texts = [text]
        done = b'{%b,"text":%b}' % (self._position, orjson.dumps(text))
        part = b'{%b,"part":%b}' % (self._position, orjson.dumps(_summary(text)))
        return [
            ("response.reasoning_summary_text.done", done),
            ("response.reasoning_summary_part.done", part),
            _item_event("response.output_item.done", self._index, self.item()),
        ]


class Message:
    """What the model says: parts of text and refusals."""

    def __init__(self, item_id: str, index: int) -> None:
        self._id = item_id
        self._index = index
        self._status = "in_progress"
        self._parts: list[Part] = []
        self._item_position = b'"item_id":%b,"output_index":%d' % (orjson.dumps(item_id), index)

    def item(self) -> dict[str, object]:
        """Return the item as it is now."""
        return {
            "type": "message",
            "id": self._id,
            "status": self._status,
            "role": "assistant",
            "content": [part.part() for part in self._parts],
        }

    def opened(self) -> Events:
        """Return the event with which it begins; the events of its parts follow."""
        return [_item_event("response.output_item.added", self._index, self.item())]

    def say(self, text: str, logprobs: tuple[object, ...]) -> Events:
        """Return the events for a piece of text."""
        events, part = self._part("output_text")
        part.texts.append(text)
        part.logprobs += logprobs
        text_json = orjson.dumps(logprobs) if logprobs else b"[]"
        fields = b'{%b,"delta":%b,"logprobs":%b}' % (part.position, orjson.dumps(text), text_json)
        return [*events, ("response.output_text.delta", fields)]

    @property
    def saying(self) -> Part | None:
        """The part that the next piece of text belongs to, if it has begun."""
        part = self._parts[-1] if self._parts else None
        return part if part is not None and part.kind == "output_text" else None

    def refuse(self, text: str) -> Events:
        """Return the events for a piece of a refusal."""
        events, part = self._part("refusal")
        part.texts.append(text)
        fields = b'{%b,"delta":%b}' % (part.position, orjson.dumps(text))
        return [*events, ("response.refusal.delta", fields)]

    def closed(self, *, whole: bool) -> Events:
        """Return the events with which it ends."""
        events = self._parts[-1].closed() if self._parts else []
        self._status = "completed" if whole else "incomplete"
        return [*events, _item_event("response.output_item.done", self._index, self.item())]

    def _part(self, kind: str) -> tuple[Events, Part]:
        """Return the current part if it is of this kind, else a new one, and the events to send."""
        if self._parts and self._parts[-1].kind == kind:
            return [], self._parts[-1]
        events = self._parts[-1].closed() if self._parts else []
        part = Part(kind, b'%b,"content_index":%d' % (self._item_position, len(self._parts)))
        self._parts.append(part)
        fields = b'{%b,"part":%b}' % (part.position, orjson.dumps(part.part()))
        return [*events, ("response.content_part.added", fields)], part


class Part:
    """One part of a message.

    Attributes:
        kind: ``output_text`` or ``refusal``.
        position: the fields that say, in its events, which part it is.
        texts: the pieces of its text so far.
        logprobs: those that came with them.
    """

    def __init__(self, kind: str, position: bytes) -> None:
        self.kind = kind
        self.position = position
        self.texts: list[str] = []
        self.logprobs: list[object] = []

    def part(self) -> dict[str, object]:
        """Return the part as it is now."""
        text = "".join(self.texts)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {
            "type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs,
        }  # fmt: skip

    def closed(self) -> Events:
        """Return the events with which it ends."""
        text = "".join(self.texts)
        self.texts = [text]
        text_json = orjson.dumps(text)
        if self.kind == "refusal":
            done = ("response.refusal.done", b'{%b,"refusal":%b}' % (self.position, text_json))
        else:
            logprobs = orjson.dumps(self.logprobs)
            fields = b'{%b,"text":%b,"logprobs":%b}' % (self.position, text_json, logprobs)
            done = ("response.output_text.done", fields)
        part = b'{%b,"part":%b}' % (self.position, orjson.dumps(self.part()))
        return [done, ("response.content_part.done", part)]


class Call:
    """A function that the model calls."""

    def __init__(self, item_id: str, index: int, call_id: str, name: str) -> None:
        self._id = item_id
        self._index = index
        self.call_id = call_id
        self._name = name
        self._status = "in_progress"
        self._arguments: list[str] = []
        self._position = b'"item_id":%b,"output_index":%d' % (orjson.dumps(item_id), index)

    @property
    def complete(self) -> bool:
        """Whether the arguments are complete: only white space could follow."""
        return is_json("".join(self._arguments))

    def item(self) -> dict[str, object]:
        """Return the item as it is now."""
        return {
            "type": "function_call",
            "id": self._id,
            "call_id": self.call_id,
            "name": self._name,
            "arguments": "".join(self._arguments),
            "status": self._status,
        }

    def opened(self) -> Events:
        """Return the event with which it begins."""
        return [_item_event("response.output_item.added", self._index, self.item())]

    def add(self, arguments: str) -> Events:
        """Return the event for a piece of its arguments."""
        self._arguments.append(arguments)
        fields = b'{%b,"delta":%b}' % (self._position, orjson.dumps(arguments))
        return [("response.function_call_arguments.delta", fields)]

    def closed(self, *, whole: bool) -> Events:
        """Return the events with which it ends.

        A call that was cut off has no such events: a client runs the function when they come. It
        stands in the output of the response's last event, as ``incomplete``.
        """
        arguments = "".join(self._arguments)
        self._arguments = [arguments]
        self._status = "completed" if whole else "incomplete"
        if not whole:
            return []
        fields = b'{%b,"arguments":%b,"name":%b}' % (
            self._position, orjson.dumps(arguments), orjson.dumps(self._name),
        )  # fmt: skip
        return [
            ("response.function_call_arguments.done", fields),
            _item_event("response.output_item.done", self._index, self.item()),
        ]


def _item_event(name: str, index: int, item: dict[str, object]) -> tuple[str, bytes]:
    return name, b'{"output_index":%d,"item":%b}' % (index, orjson.dumps(item))


def _summary(text: str) -> dict[str, object]:
    return {"type": "summary_text", "text": text}
