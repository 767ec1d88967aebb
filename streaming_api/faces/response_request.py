"""A request of the Responses API as one for chat completions. Pure.

What chat completions cannot express (hosted tools, files, conversations kept elsewhere) is refused
with the name of the field; nothing is left out silently except what would have no effect there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs
import orjson

from streaming_api.faces.fields import (
    boolean,
    invalid,
    missing,
    optional_object,
    optional_text,
    texts,
    unsupported,
    whole_number,
)
from streaming_api.faces.response_input import input_items, messages_of
from streaming_api.faces.response_tools import chat_tools, tool_list

Fields = Mapping[str, object]

_UNSUPPORTED: Final = (
    "access_programs", "background_options", "context_management", "conversation", "image",
    "moderation", "prompt",
)  # fmt: skip
_OURS: Final = frozenset(
    {
        "background", "client_metadata", "generate", "include", "input", "instructions",
        "max_output_tokens", "max_tool_calls", "model", "on_disconnect", "parallel_tool_calls",
        "previous_response_id", "reasoning", "request_id", "store", "stream", "stream_id",
        "stream_options", "text", "tool_choice", "tools", "top_logprobs", "truncation", "type",
        *_UNSUPPORTED,
    }
)  # fmt: skip
"""Fields that are translated here; every other field goes to the upstream unchanged."""
_NO_EFFECT: Final = frozenset({"reasoning.encrypted_content", "message.input_image.image_url"})
_LOGPROBS: Final = "message.output_text.logprobs"


@attrs.frozen
class Asked:
    """What a request of the Responses API asks for.

    Attributes:
        items: the input items of the whole conversation, each with an id.
        chat: the fields of the request for chat completions.
        fields: those of the response object that repeat the request.
        background: whether the answer continues without a viewer.
        store: whether the response can be retrieved after its end.
    """

    items: tuple[Fields, ...]
    chat: dict[str, object]
    fields: dict[str, object]
    stream: bool
    background: bool
    store: bool


def asked_for(
    body: Fields,
    request_id: str,
    *,
    earlier: tuple[Fields, ...] = (),
    find_item: Callable[[str], Fields],
) -> Asked:
    """Return what a request asks for.

    Args:
        body: the request.
        request_id: the id of the answer to come, which is part of the ids of its input items.
        earlier: the items of the conversation so far (``previous_response_id``).
        find_item: returns the item that an ``item_reference`` means.

    Raises:
        BadRequest: a field is wrong; ``param`` names it.
    """
    for name in _UNSUPPORTED:
        if body.get(name) is not None:
            raise unsupported(name)
    generates = boolean(body, "generate", default=True)
    if optional_text(body, "truncation") not in {None, "disabled"}:
        raise unsupported("truncation")
    given = body.get("input")
    if given is None:  # a conversation may go on, or be prepared, without a new word
        if not earlier and generates:
            raise missing("input")
        given = []
    items = (*earlier, *input_items(given, request_id, find_item))
    if not items and generates:
        raise invalid("input", "a text, or a list of input items")
    instructions = optional_text(body, "instructions")
    background = boolean(body, "background", default=False)
    store = boolean(body, "store", default=True)
    if background and not store:
        raise invalid("store", "true for a response in the background")
    messages = messages_of(items)
    if instructions:
        messages.insert(0, {"role": "system", "content": instructions})
    chat = {name: value for name, value in body.items() if name not in _OURS}
    chat |= _model(body) | chat_tools(body) | _output(body) | _logprobs(body)
    chat["messages"] = messages
    return Asked(
        items=items,
        chat=chat,
        fields=_repeated(body) | {"background": background, "store": store},
        stream=boolean(body, "stream", default=False),
        background=background,
        store=store,
    )


def response_fields(asked: Asked, request_id: str, created_at: int) -> dict[str, object]:
    """Return a response object as it is before it has any output."""
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": "in_progress",
        "incomplete_details": None,
        "error": None,
        "usage": None,
        "output": [],
        **asked.fields,
    }


def _model(body: Fields) -> dict[str, object]:
    model = optional_text(body, "model")
    return {} if model is None else {"model": model}


# Output


def _output(body: Fields) -> dict[str, object]:
    """Return what shapes the answer: its format, its length and the reasoning effort."""
    chat: dict[str, object] = {}
    text = optional_object(body, "text")
    if (form := optional_object(text, "format", "text.format")) and form.get("type") != "text":
        chat["response_format"] = _format(form)
    if (verbosity := optional_text(text, "verbosity", "text.verbosity")) is not None:
        chat["verbosity"] = verbosity
    reasoning = optional_object(body, "reasoning")
    if (effort := optional_text(reasoning, "effort", "reasoning.effort")) is not None:
        chat["reasoning_effort"] = effort
    optional_text(reasoning, "summary", "reasoning.summary")
    for name, usual in _USUAL.items():
        asked = optional_text(reasoning, name, f"reasoning.{name}")
        if asked is not None and asked not in usual:
            raise unsupported(f"reasoning.{name}", asked)
    most = whole_number(body, "max_output_tokens", least=1)
    return chat if most is None else chat | {"max_completion_tokens": most}


_USUAL: Final = {"mode": {"standard"}, "context": {"auto", "current_turn"}}
"""What ``reasoning`` may ask for that chat completions do anyway."""


def _format(form: Fields) -> dict[str, object]:
    if form.get("type") == "json_object":
        return {"type": "json_object"}
    if form.get("type") != "json_schema":
        raise unsupported("text.format.type", form.get("type"))
    if not isinstance(form.get("schema"), Mapping):
        raise missing("text.format.schema")
    for name in ("name", "description"):
        optional_text(form, name, f"text.format.{name}")
    boolean(form, "strict", default=False, path="text.format.strict")
    named = {
        name: form[name]
        for name in ("name", "description", "schema", "strict")
        if form.get(name) is not None
    }
    return {"type": "json_schema", "json_schema": {"name": "response", **named}}


def _logprobs(body: Fields) -> dict[str, object]:
    included = texts(body, "include")
    for index, name in enumerate(included):
        if name not in _NO_EFFECT and name != _LOGPROBS:
            raise unsupported(f"include[{index}]", name)
    top = whole_number(body, "top_logprobs", most=20)
    if not top and _LOGPROBS not in included:
        return {}
    return {"logprobs": True} | ({"top_logprobs": top} if top else {})


# What the response repeats


def _repeated(body: Fields) -> dict[str, object]:
    """Return the fields of the response object that repeat the request, with their defaults."""
    reasoning = optional_object(body, "reasoning")
    return {
        "model": body.get("model") or "default",
        "instructions": body.get("instructions"),
        "previous_response_id": body.get("previous_response_id"),
        "tools": [
            {name: tool.get(name) for name in ("type", "name", "description", "parameters",
                                               "strict")}
            for tool in tool_list(body) if isinstance(tool, Mapping)
        ],
        "tool_choice": body.get("tool_choice") or "auto",
        "parallel_tool_calls": boolean(body, "parallel_tool_calls", default=True),
        "text": _text_field(optional_object(body, "text")),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": whole_number(body, "max_tool_calls", least=1),
        "temperature": _number(body, "temperature", 1.0),
        "top_p": _number(body, "top_p", 1.0),
        "presence_penalty": _number(body, "presence_penalty", 0.0),
        "frequency_penalty": _number(body, "frequency_penalty", 0.0),
        "top_logprobs": body.get("top_logprobs") or 0,
        "truncation": "disabled",
        "service_tier": optional_text(body, "service_tier") or "default",
        "metadata": optional_object(body, "metadata"),
        "safety_identifier": optional_text(body, "safety_identifier"),
        "prompt_cache_key": optional_text(body, "prompt_cache_key"),
        "user": optional_text(body, "user"),
    }  # fmt: skip


def _text_field(text: Fields) -> dict[str, object]:
    """Return ``text`` as a response repeats it; a schema is named, not repeated.

    The specification has ``null`` in its place (Open Responses 2026-04-24).
    """
    form = optional_object(text, "format", "text.format") or {"type": "text"}
    text_format: dict[str, object] = {"type": form.get("type")}
    if text_format["type"] == "json_schema":
        text_format |= {
            "name": form.get("name") or "response",
            "description": form.get("description"),
            "schema": None,
            "strict": bool(form.get("strict")),
        }
    verbosity = text.get("verbosity")
    return {"format": text_format} | ({} if verbosity is None else {"verbosity": verbosity})


def _number(body: Fields, name: str, default: float) -> float | orjson.Fragment:
    """Return a number, which is a fragment if Python would write it differently."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float | orjson.Fragment) or isinstance(value, bool):
        raise invalid(name, "a number")
    return value
