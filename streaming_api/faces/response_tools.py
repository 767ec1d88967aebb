"""Tools of a request of the Responses API, and which of them may be called. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from streaming_api.faces.fields import (
    Fields,
    boolean,
    invalid,
    optional_object,
    optional_text,
    unsupported,
)


def chat_tools(body: Fields) -> dict[str, object]:
    """Return what a request says of tools, in the form of chat completions.

    Raises:
        BadRequest: a tool or the choice is wrong, or cannot be expressed; ``param`` names it.
    """
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tool_list(body))]
    choice = body.get("tool_choice")
    if not tools:
        if choice not in (None, "none", "auto"):
            raise invalid("tool_choice", "left out where there are no tools")
        return {}
    parallel = body.get("parallel_tool_calls")
    chat: dict[str, object] = {} if parallel is None else {"parallel_tool_calls": parallel}
    return chat | {"tools": tools} | _choice(tools, choice)


def _choice(tools: list[dict[str, object]], choice: object) -> dict[str, object]:
    if choice is None:
        return {}
    if isinstance(choice, str):
        if choice not in {"none", "auto", "required"}:
            raise invalid("tool_choice", "none, auto, required, or an object")
        return {"tool_choice": choice}
    if not isinstance(choice, Mapping):
        raise invalid("tool_choice", "a string or an object")
    if choice.get("type") == "function":
        name = choice.get("name")
        if name not in map(_name, tools):
            raise invalid("tool_choice.name", "the name of one of the tools")
        return {"tool_choice": {"type": "function", "function": {"name": name}}}
    if choice.get("type") == "allowed_tools":
        return _allowed(tools, choice)
    raise unsupported("tool_choice.type", choice.get("type"))


def tool_list(body: Fields) -> list[object]:
    """Return the tools of a request; an empty list if it has none.

    Raises:
        BadRequest: they are not a list.
    """
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise invalid("tools", "a list of tools")
    return tools


def _name(tool: Fields) -> object:
    function = tool["function"]
    assert isinstance(function, Mapping)
    return function["name"]


def _tool(tool: object, where: str) -> dict[str, object]:
    if not isinstance(tool, Mapping):
        raise invalid(where, "an object")
    if tool.get("type") != "function":
        raise unsupported(f"{where}.type", tool.get("type"))
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise invalid(f"{where}.name", "the name of a function")
    optional_text(tool, "description", f"{where}.description")
    optional_object(tool, "parameters", f"{where}.parameters")
    boolean(tool, "strict", default=False, path=f"{where}.strict")
    function = {
        name: tool[name]
        for name in ("name", "description", "parameters", "strict")
        if tool.get(name) is not None
    }
    return {"type": "function", "function": function}


def _allowed(tools: list[dict[str, object]], choice: Fields) -> dict[str, object]:
    """Return only the tools that are allowed: every upstream understands that."""
    listed = choice.get("tools")
    if not isinstance(listed, list) or not listed:
        raise invalid("tool_choice.tools", "a list of tools")
    names = [tool.get("name") for tool in listed if isinstance(tool, Mapping)]
    kept = [tool for tool in tools if _name(tool) in names]
    if not kept:
        raise invalid("tool_choice.tools", "names of the tools")
    mode = optional_text(choice, "mode", "tool_choice.mode") or "auto"
    if mode not in {"none", "auto", "required"}:
        raise invalid("tool_choice.mode", "auto or required")
    return {"tools": kept, "tool_choice": mode}
