"""What ``useChat`` sends, as a request for chat completions. Pure.

The body holds ``id`` (of the chat), ``messages`` (UI messages with parts), and what the page adds,
which goes to the upstream unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from streaming_api.faces.fields import invalid, missing, optional_text, unsupported

Fields = Mapping[str, object]

_OURS: Final = frozenset({"id", "messages", "trigger", "messageId", "stream", "tools"})
_IGNORED: Final = frozenset(
    {"custom", "reasoning", "reasoning-file", "source-document", "source-url", "step-start"}
)
"""Parts of a message that are not sent to a model again."""


def chat_id(fields: Fields) -> str:
    """Return the id of the chat.

    Raises:
        BadRequest: the request has no id.
    """
    found = fields.get("id")
    if found is None:
        raise missing("id")
    if not isinstance(found, str) or not 0 < len(found) <= 256:
        raise invalid("id", "a string of 1 to 256 characters")
    return found


def message_id(fields: Fields) -> str | None:
    """Return the id of the assistant's message that the answer continues, or None.

    A page that has run the calls of a message sends that message last, and adds the answer to it.
    """
    messages = fields.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return None
    found = last.get("id")
    return found if isinstance(found, str) else None


def chat_fields(fields: Fields) -> dict[str, object]:
    """Return the fields of the request for chat completions.

    Raises:
        BadRequest: a field is wrong; ``param`` names it.
    """
    given = fields.get("messages")
    if given is None:
        raise missing("messages")
    if not isinstance(given, list) or not given:
        raise invalid("messages", "a list of UI messages")
    messages: list[dict[str, object]] = []
    for index, message in enumerate(given):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise invalid(where, "an object")
        messages += _messages(message, where)
    chat = {name: value for name, value in fields.items() if name not in _OURS}
    if isinstance(fields.get("tools"), list):  # OpenAI's form; those of the AI SDK stay in the page
        chat["tools"] = fields["tools"]
    return {**chat, "messages": messages, "stream": True}


def _messages(message: Fields, where: str) -> list[dict[str, object]]:
    role = optional_text(message, "role", f"{where}.role")
    if role not in {"system", "user", "assistant"}:
        raise invalid(f"{where}.role", "system, user or assistant")
    parts = message.get("parts")
    if parts is None and isinstance(message.get("content"), str):
        parts = [{"type": "text", "text": message["content"]}]
    if not isinstance(parts, list):
        raise invalid(f"{where}.parts", "a list of parts")
    checked: list[Fields] = []
    for index, part in enumerate(parts):
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise invalid(f"{where}.parts[{index}]", "an object with a type")
        checked.append({**part, "where": f"{where}.parts[{index}]"})
    if role == "assistant":
        return _assistant(checked)
    content = [_part(part) for part in checked if not _left_out(part)]
    if all(part["type"] == "text" for part in content):
        return [{"role": role, "content": "".join(str(part["text"]) for part in content)}]
    return [{"role": role, "content": content}]


def _left_out(part: Fields) -> bool:
    kind = str(part["type"])
    return kind in _IGNORED or kind.startswith("data-")


def _part(part: Fields) -> dict[str, object]:
    if part["type"] == "text":
        if not isinstance(part.get("text"), str):
            raise missing(f"{part['where']}.text")
        return {"type": "text", "text": part["text"]}
    if part["type"] == "file" and str(part.get("mediaType", "")).startswith("image/"):
        if not isinstance(part.get("url"), str):
            raise missing(f"{part['where']}.url")
        return {"type": "image_url", "image_url": {"url": part["url"]}}
    if part["type"] == "file":
        raise unsupported(f"{part['where']}.mediaType", part.get("mediaType"))
    raise unsupported(f"{part['where']}.type", part["type"])


# The assistant's messages: each step is one, with the results of its calls behind it


def _assistant(parts: list[Fields]) -> list[dict[str, object]]:
    messages: list[dict[str, object]] = []
    step: list[Fields] = []
    for part in (*parts, {"type": "step-start"}):
        if part["type"] == "step-start":
            messages += _step(step)
            step = []
        elif not _left_out(part):
            step.append(part)
    return messages


def _step(parts: list[Fields]) -> list[dict[str, object]]:
    text = ""
    calls: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for part in parts:
        name = _tool_name(part)
        if name is None:
            text += str(_part(part).get("text", ""))
        elif str(part.get("state")) in _STATES:
            calls.append(_tool_call(part, name))
            results.append(_tool_result(part))
    if not text and not calls:
        return []
    message: dict[str, object] = {"role": "assistant", "content": text or None}
    return [message | ({"tool_calls": calls} if calls else {}), *results]


_STATES: Final = frozenset({"output-available", "output-error", "output-denied"})
"""States of a call with a result; a call sent without one is not shown to the model."""


def _tool_name(part: Fields) -> str | None:
    kind = str(part["type"])
    if kind == "dynamic-tool":
        return str(part.get("toolName", ""))
    return kind.removeprefix("tool-") if kind.startswith("tool-") else None


def _tool_call(part: Fields, name: str) -> dict[str, object]:
    given = part.get("input")
    function = {"name": name, "arguments": orjson.dumps({} if given is None else given).decode()}
    return {"id": _call_id(part), "type": "function", "function": function}


def _tool_result(part: Fields) -> dict[str, object]:
    output = part.get("output")
    if part["state"] != "output-available":
        output = part.get("errorText") or "The call was denied."
    content = output if isinstance(output, str) else orjson.dumps(output).decode()
    return {"role": "tool", "tool_call_id": _call_id(part), "content": content}


def _call_id(part: Fields) -> str:
    found = part.get("toolCallId")
    if not isinstance(found, str):
        raise missing(f"{part['where']}.toolCallId")
    return found
