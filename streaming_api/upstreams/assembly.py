"""The chunks of a stream put together as one whole `chat.completion`; pure.

Some servers stream whatever they are asked. How the pieces of a field add up is OpenAI's way: texts
are joined, objects and lists are merged member by member (a list's by `index`, where its members
have one), and of anything else the newest counts. A text among the parts of a content is a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from streaming_api.upstreams.choices import MAX_CHOICES, reason_of

_NAMES: Final = frozenset({"role", "type", "id", "name", "object", "format"})
"""Fields whose text comes whole each time that it comes."""
_EMPTY: Final[tuple[object, ...]] = ("", [], {})
_DEEPEST: Final = 16
"""Levels of a field that are merged; below them the newest counts."""


class _Text:
    """A text that grows: its pieces are joined once."""

    def __init__(self) -> None:
        self.pieces: list[str] = []


class Assembly:
    """One whole answer, as far as its chunks have come.

    Attributes:
        size: bytes of the chunks' texts that it holds.
    """

    def __init__(self) -> None:
        self.size = 0
        self._head: dict[str, object] = {}
        self._choices: dict[int, dict[str, object]] = {}

    def __bool__(self) -> bool:
        return bool(self._choices)

    def add(self, chunk: Mapping[str, object]) -> None:
        """Take the next chunk."""
        for name, value in chunk.items():
            if name != "choices" and (value is not None or name not in self._head):
                self._head[name] = value
        for choice in _objects(chunk.get("choices")):
            index = choice.get("index")
            if not isinstance(index, int) or not 0 <= index < MAX_CHOICES:
                index = 0
            self._add_choice(self._choices.setdefault(index, {}), choice)

    def _add_choice(self, whole: dict[str, object], choice: Mapping[str, object]) -> None:
        for name, value in choice.items():
            if name == "message" and _is_repeated(choice, whole):
                continue
            if name in {"delta", "message"}:
                said = {"content": value} if isinstance(value, str) else value
                if isinstance(said, dict):
                    self._merge(whole, {"message": said}, 0)
            elif name == "finish_reason":
                whole[name] = reason_of(choice) or whole.get(name)
            elif name != "index":
                self._merge(whole, {name: value}, 0)

    def _merge(self, whole: dict[str, object], piece: Mapping[str, object], depth: int) -> None:
        for name, value in piece.items():
            known = whole.get(name)
            if value is None or (known is not None and value in _EMPTY):
                whole.setdefault(name, None)
            elif isinstance(value, str) and name not in _NAMES:
                self.size += len(value)
                if name == "content" and isinstance(known, list):
                    known = _text_part(known)
                elif not isinstance(known, _Text):
                    known = whole[name] = _Text()
                known.pieces.append(value)
            elif isinstance(value, dict) and depth < _DEEPEST:
                if not isinstance(known, dict):
                    known = whole[name] = {}
                self._merge(known, value, depth + 1)
            elif isinstance(value, list) and depth < _DEEPEST:
                parts: list[object] = known if isinstance(known, list) else []
                if name == "content" and isinstance(known, _Text):
                    parts.append(_part(known))
                whole[name] = parts
                self._extend(parts, value, depth + 1)
            else:
                whole[name] = value

    def _extend(self, whole: list[object], piece: list[object], depth: int) -> None:
        for item in piece:
            if not isinstance(item, dict):
                whole.append(item)
                continue
            index = item.get("index")
            known = None
            if isinstance(index, int):
                known = next(
                    (old for old in _objects(whole[::-1]) if old.get("index") == index), None
                )
            if known is None or _is_another(known, item):
                known = {}
                whole.append(known)
            self._merge(known, item, depth)

    def answer(self) -> bytes:
        """Return the whole answer, as JSON.

        Raises:
            orjson.JSONEncodeError: it is nested more deeply than can be written.
        """
        choices = [
            {"index": index, "message": {}, "finish_reason": None, **_plain_object(choice)}
            for index, choice in sorted(self._choices.items())
        ]
        return orjson.dumps({**self._head, "object": "chat.completion", "choices": choices})


def _part(text: _Text) -> dict[str, object]:
    return {"type": "text", "text": text}


def _text_part(parts: list[object]) -> _Text:
    """Return the text of the last part, which is a new one unless that is of text (Mistral)."""
    last = parts[-1] if parts else None
    text = last.get("text") if isinstance(last, dict) and last.get("type") == "text" else None
    if not isinstance(text, _Text):
        text = _Text()
        parts.append(_part(text))
    return text


def _is_repeated(choice: Mapping[str, object], whole: Mapping[str, object]) -> bool:
    """Whether a choice's message is what its deltas have said by now (Perplexity)."""
    delta = choice.get("delta")
    return delta is not None and bool(delta or whole.get("message"))


def _is_another(known: Mapping[str, object], item: Mapping[str, object]) -> bool:
    """Whether an item is another one under the same index: some servers number no calls."""
    ids = known.get("id"), item.get("id")
    return all(ids) and ids[0] != ids[1]


def _objects(values: object) -> Iterator[dict[str, object]]:
    return (
        (value for value in values if isinstance(value, dict))
        if isinstance(values, list)
        else iter(())
    )


def _plain_object(fields: dict[str, object]) -> dict[str, object]:
    return {name: _plain(name, value) for name, value in fields.items()}


def _plain(name: str, value: object) -> object:
    if isinstance(value, _Text):
        return "".join(value.pieces)
    if isinstance(value, dict):
        return _plain_object(value)
    if isinstance(value, list):
        members = [_plain("", item) for item in value]
        if name == "tool_calls":  # only the pieces of a call are numbered
            for member in _objects(members):
                member.pop("index", None)
        return members
    return value
