"""Translator: upstream chunks in, the events of another wire out. Pure.

A translator is a function of the chunks from the first one on: fed the same chunks, it returns the
same events, byte for byte. So its events have numbers, and a client that comes back is shown what
it would have received.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import orjson
from mypy_extensions import mypyc_attr

END: Final = "chat.completion.end"
"""``object`` of an answer's last message, which says how it ended."""
_KINDS: Final = frozenset(
    {
        "stop", "tool_calls", "length", "content_filter",
        "cancelled", "abandoned", "incomplete", "error",
    }
)  # fmt: skip
_MEANINGS: Final = {
    word: kind
    for kind, words in {
        "stop": "end_turn stop_sequence eos eos_token end done finish finished complete completed",
        "tool_calls": "function_call tool_call tool_use",
        "length": "max_tokens max_output_tokens model_length model_context_window_exceeded",
        "content_filter": "safety sensitive recitation blocklist prohibited_content spii refusal",
    }.items()
    for word in words.split()
}
"""Finish reasons of others, in OpenAI's words."""
_NOTHING: Final[Mapping[str, object]] = {}


@mypyc_attr(allow_interpreted_subclasses=True)
class Translator:
    """One answer in the words of one wire: a base, so that compiled calls go straight to it.

    Attributes:
        size: characters of text that are held for the events at the end.
    """

    size: int

    def opening(self) -> list[bytes]:
        """Return the events that come before any chunk."""
        raise NotImplementedError

    def read(self, delta: Delta) -> list[bytes]:
        """Return the events for a chunk, each as JSON on one line."""
        raise NotImplementedError

    def say(self, text: str, said: bytes) -> list[bytes]:
        """Return the same as `read` for a chunk that differs from the one before in its text alone.

        Args:
            text: its text, which is not empty.
            said: the same as JSON, without the quotes.
        """
        raise NotImplementedError

    def end(self, end: End) -> list[bytes]:
        """Return the events that end the answer."""
        raise NotImplementedError


@attrs.frozen
class End:
    """How an answer ended.

    Attributes:
        finish_reason: the model's own, or ``cancelled``, ``abandoned``, ``incomplete``, ``error``.
        usage: tokens as the upstream reported them; None if it did not.
        error: OpenAI's error object, if something went wrong.
        seconds: from the request to the end.
    """

    finish_reason: str
    usage: Mapping[str, object] | None = None
    error: Mapping[str, object] | None = None
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether the model has said all that it wanted to say."""
        return self.kind in {"stop", "tool_calls"}

    @property
    def kind(self) -> str:
        """What the finish reason means, in one of OpenAI's words or of ours.

        A word that nobody knows may stand for a failure (SGLang's ``abort``, DeepSeek's
        ``insufficient_system_resource``): it is ``incomplete``.
        """
        reason = self.finish_reason.lower()
        return reason if reason in _KINDS else _MEANINGS.get(reason, "incomplete")


def end_of(fields: Mapping[str, object]) -> End:
    """Return how an answer ended, from its last message."""
    reason = fields.get("finish_reason")
    reported = fields.get("usage_source") == "reported"
    error = fields.get("error")
    total = mapping(fields.get("timing")).get("total_ms")
    return End(
        finish_reason=reason if isinstance(reason, str) else "incomplete",
        usage=mapping(fields.get("usage")) if reported else None,
        error=error if isinstance(error, Mapping) else None,
        seconds=total / 1000 if isinstance(total, int | float) else 0.0,
    )


@attrs.frozen
class CallDelta:
    """A piece of a function call: its position among the calls, and what is new."""

    index: int
    call_id: str
    name: str
    arguments: str


@attrs.define
class Delta:
    """What a chunk adds to the first choice, and which model says so; made often: not frozen."""

    reasoning: str = ""
    text: str = ""
    refusal: str = ""
    calls: tuple[CallDelta, ...] = ()
    logprobs: tuple[object, ...] = ()
    model: str = ""


def delta_of(chunk: Mapping[str, object]) -> Delta:
    """Return what a chunk (or a whole completion) adds to the first choice."""
    model = _text(chunk.get("model"))
    for choice in _list(chunk.get("choices")):
        fields = mapping(choice)
        index = fields.get("index")
        if (
            not index or not isinstance(index, int) or index < 0
        ):  # servers omit it, or send nonsense
            delta = fields.get("delta")
            said = mapping(fields.get("message") if delta is None else delta)
            calls, logprobs = said.get("tool_calls"), fields.get("logprobs")
            if not calls and (function := said.get("function_call")):
                calls = [{"index": 0, "function": function}]  # as it was before there were tools
            text, thought = said.get("content"), ""
            if not isinstance(text, str):
                text, thought = _parts(text)
            return Delta(
                reasoning=_text(said.get("reasoning_content"))
                or _text(said.get("reasoning"))
                or thought,
                text=text if said else _text(fields.get("text")),
                refusal=_text(said.get("refusal")),
                calls=_calls(calls) if calls else (),
                logprobs=tuple(_list(mapping(logprobs).get("content"))) if logprobs else (),
                model=model,
            )
    return Delta(model=model)


def _parts(content: object) -> tuple[str, str]:
    """Return the text and the thoughts in a list of parts (Mistral)."""
    parts = [mapping(part) for part in _list(content)]
    thoughts = [mapping(thought) for part in parts for thought in _list(part.get("thinking"))]
    return _joined(parts), _joined(thoughts)


def _joined(parts: list[Mapping[str, object]]) -> str:
    return "".join(_text(part.get("text")) for part in parts)


def _calls(given: object) -> tuple[CallDelta, ...]:
    return tuple(_call(mapping(call), position) for position, call in enumerate(_list(given)))


def _call(fields: Mapping[str, object], position: int) -> CallDelta:
    index = fields.get("index")
    function = mapping(fields.get("function"))
    return CallDelta(
        index=index if isinstance(index, int) else position,
        call_id=_text(fields.get("id")),
        name=_text(function.get("name")),
        arguments=_arguments(function.get("arguments")),
    )


def _arguments(given: object) -> str:
    """Return arguments as text; some servers send the object that the text would stand for."""
    return orjson.dumps(given).decode() if isinstance(given, dict | list) else _text(given)


def is_json(text: str) -> bool:
    """Whether a text is a complete JSON value, so that nothing can be missing after it."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def mapping(value: object) -> Mapping[str, object]:
    """Return the value if it is an object of JSON, otherwise an empty one."""
    return value if isinstance(value, dict) else _NOTHING


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
