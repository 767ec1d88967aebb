"""Input items of the Responses API, and the chat messages that they stand for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from streaming_api.faces.fields import invalid, missing, optional_text, unsupported

Fields = Mapping[str, object]

_ROLES: Final = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
"""Roles in chat completions: few upstreams other than OpenAI know ``developer``."""


def input_items(given: object, request_id: str, find_item: Callable[[str], Fields]) -> list[Fields]:
    """Return the items of ``input``, each with an id and a type, checked.

    Args:
        given: a string, or a list of items.
        request_id: the answer's id, which is part of the ids of items that have none.
        find_item: returns the item that an ``item_reference`` means.

    Raises:
        BadRequest: an item is wrong; ``param`` names it.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise invalid("input", "a text, or a list of input items")
    items = []
    for index, item in enumerate(given):
        where = f"input[{index}]"
        if not isinstance(item, Mapping):
            raise invalid(where, "an object")
        kind = item.get("type") or ("message" if "role" in item else "item_reference")
        if kind == "item_reference":
            found = item.get("id")
            if not isinstance(found, str):
                raise missing(f"{where}.id")
            items.append(find_item(found))
        else:
            checked = _CHECKS.get(kind) if isinstance(kind, str) else None
            if checked is None:
                raise unsupported(f"{where}.type", kind)
            given_id = optional_text(item, "id", f"{where}.id")
            item_id = given_id or f"{_PREFIXES[kind]}_{request_id}_in{index}"
            items.append({**checked(item, where), "type": kind, "id": item_id})
    return items


# Each kind of item, checked and with all its fields


def _message(item: Fields, where: str) -> dict[str, object]:
    role = optional_text(item, "role", f"{where}.role")
    if role not in _ROLES:
        raise invalid(f"{where}.role", "user, assistant, system or developer")
    content = item.get("content")
    if isinstance(content, str):
        text = (
            {"type": "output_text", "text": content, "annotations": []}
            if role == "assistant"
            else {"type": "input_text", "text": content}
        )
        content = [text]
    if not isinstance(content, list):
        raise invalid(f"{where}.content", "a text, or a list of parts")
    for index, part in enumerate(content):
        _check_part(part, f"{where}.content[{index}]")
        if role == "assistant" and part["type"] not in _TEXTS:
            raise unsupported(f"{where}.content[{index}].type", part["type"])
    return {"role": role, "content": content, "status": "completed"}


def _check_part(part: object, where: str) -> None:
    if not isinstance(part, Mapping):
        raise invalid(where, "an object")
    kind = optional_text(part, "type", f"{where}.type")
    if kind == "input_image":
        optional_text(part, "detail", f"{where}.detail")
        if part.get("file_id") is not None:
            raise unsupported(f"{where}.file_id")
        if not isinstance(part.get("image_url"), str):
            raise missing(f"{where}.image_url")
    elif kind == "input_audio":
        if not isinstance(part.get("input_audio"), Mapping):
            raise missing(f"{where}.input_audio")
    elif kind in _TEXTS:
        name = "refusal" if kind == "refusal" else "text"
        if not isinstance(part.get(name), str):
            raise missing(f"{where}.{name}")
    else:
        raise unsupported(f"{where}.type", kind)


def _function_call(item: Fields, where: str) -> dict[str, object]:
    fields = {name: _required(item, name, where) for name in ("call_id", "name", "arguments")}
    return {**fields, "status": "completed"}


def _function_call_output(item: Fields, where: str) -> dict[str, object]:
    output = item.get("output")
    if isinstance(output, list):
        for index, part in enumerate(output):
            if not isinstance(part, Mapping) or part.get("type") != "input_text":
                kind = part.get("type") if isinstance(part, Mapping) else None
                raise unsupported(f"{where}.output[{index}].type", kind)
            _check_part(part, f"{where}.output[{index}]")
    elif not isinstance(output, str):
        raise invalid(f"{where}.output", "a text, or a list of parts")
    return {
        "call_id": _required(item, "call_id", where), "output": output, "status": "completed",
    }  # fmt: skip


def _reasoning(item: Fields, where: str) -> dict[str, object]:
    summary = item.get("summary", [])
    if not isinstance(summary, list):
        raise invalid(f"{where}.summary", "a list of parts")
    return {"summary": summary}


def _required(item: Fields, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise missing(f"{where}.{name}")
    return value


_TEXTS: Final = frozenset({"input_text", "output_text", "text", "refusal"})
_CHECKS: Final[dict[str, Callable[[Fields, str], dict[str, object]]]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
}
_PREFIXES: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}


# Chat messages


@attrs.define
class _Turn:
    """What the assistant says and calls in one turn: one chat message."""

    texts: list[str] = attrs.Factory(list)
    refusals: list[str] = attrs.Factory(list)
    calls: list[dict[str, object]] = attrs.Factory(list)

    def message(self) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": "".join(self.texts) or None}
        if self.refusals:
            message["refusal"] = "".join(self.refusals)
        if self.calls:
            message["tool_calls"] = self.calls
        elif message["content"] is None:
            message["content"] = ""
        return message


def messages_of(items: Iterable[Fields]) -> list[dict[str, object]]:
    """Return the chat messages that items stand for.

    An assistant's message and the calls after it become one. Its reasoning is left out: chat
    completions have no place for it, and models are not shown their earlier reasoning.
    """
    messages: list[dict[str, object]] = []
    turn: _Turn | None = None
    for item in items:
        kind = item["type"]
        if kind == "function_call" or (kind == "message" and item["role"] == "assistant"):
            if turn is None or (kind == "message" and turn.calls):
                messages += [] if turn is None else [turn.message()]
                turn = _Turn()
            _take(turn, item)
        elif kind != "reasoning":
            messages += [] if turn is None else [turn.message()]
            turn = None
            messages.append(_other(item))
    return messages if turn is None else [*messages, turn.message()]


def _take(turn: _Turn, item: Fields) -> None:
    if item["type"] == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        turn.calls.append({"id": item["call_id"], "type": "function", "function": function})
        return
    for part in _parts(item["content"]):
        if part["type"] == "refusal":
            turn.refusals.append(str(part["refusal"]))
        else:
            turn.texts.append(str(part["text"]))


def _other(item: Fields) -> dict[str, object]:
    if item["type"] == "function_call_output":
        output = item["output"]
        text = output if isinstance(output, str) else "".join(
            str(part["text"]) for part in _parts(output)
        )  # fmt: skip
        return {"role": "tool", "tool_call_id": item["call_id"], "content": text}
    parts = [_chat_part(part) for part in _parts(item["content"])]
    only_text = all(part["type"] == "text" for part in parts)
    content = "".join(str(part["text"]) for part in parts) if only_text else parts
    return {"role": _ROLES[str(item["role"])], "content": content}


def _chat_part(part: Fields) -> dict[str, object]:
    if part["type"] == "input_image":
        image = {"url": part["image_url"]}
        detail = part.get("detail")
        return {
            "type": "image_url",
            "image_url": image if detail in {None, "auto"} else {**image, "detail": detail},
        }
    if part["type"] == "input_audio":
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    return {"type": "text", "text": part.get("text", part.get("refusal"))}


def _parts(content: object) -> list[Fields]:
    assert isinstance(content, list)
    return content
