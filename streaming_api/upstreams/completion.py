"""A whole `chat.completion` said in chunks, for a client that asked for a stream; pure."""

from __future__ import annotations

from collections.abc import Mapping

import orjson


def is_whole(answer: Mapping[str, object]) -> bool:
    """Return whether this is no chunk, nor called one: some choice has a message and no delta."""
    choices = answer.get("choices")
    return (
        (answer.get("object") or "chat.completion") == "chat.completion"
        and isinstance(choices, list)
        and any(
            isinstance(choice, dict) and choice.get("message") and choice.get("delta") is None
            for choice in choices
        )
    )


def without_messages(answer: Mapping[str, object]) -> dict[str, object]:
    """Return a whole answer without what it says: for clients who have been sent it in chunks."""
    choices = answer.get("choices")
    assert isinstance(choices, list)
    left = [{**choice, "message": {}} for choice in choices if isinstance(choice, dict)]
    return {**answer, "choices": left}


def as_chunks(answer: Mapping[str, object], *, usage_asked: bool) -> list[bytes]:
    """Return the chunks that say the same, as OpenAI's clients read them.

    One chunk with every choice's `message` as its `delta`, other fields as they are; and, where the
    client asked for usage, one with that alone.

    Args:
        answer: its `choices` is a list.
        usage_asked: whether the client asked for usage.

    Raises:
        orjson.JSONEncodeError: it is nested more deeply than can be written.
    """
    head = {name: value for name, value in answer.items() if name not in {"choices", "usage"}}
    head["object"] = "chat.completion.chunk"
    choices = answer.get("choices")
    assert isinstance(choices, list)
    chunks = [{**head, "choices": [_delta(c) for c in choices if isinstance(c, dict)]}]
    if usage_asked and answer.get("usage") is not None:
        chunks.append({**head, "choices": [], "usage": answer["usage"]})
    return [orjson.dumps(chunk) for chunk in chunks]


def _delta(choice: dict[str, object]) -> dict[str, object]:
    message = choice.get("message")
    if choice.get("delta") is not None or not isinstance(message, dict):
        return {"delta": {}, **choice}
    delta = dict(message)
    calls = delta.get("tool_calls")
    if isinstance(calls, list):  # clients put the pieces of a call together by its index
        delta["tool_calls"] = [
            {"index": number, **call} if isinstance(call, dict) else call
            for number, call in enumerate(calls)
        ]
    return {name: value for name, value in choice.items() if name != "message"} | {"delta": delta}
