"""What an answer's chunks say of each choice: whether there is content, and why it ended; pure.

A finish reason says how a choice ended, not that it has ended: many servers put one on every chunk.
So the last one counts, and content that comes after one shows that it was not the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MAX_CHOICES: Final = 1_024  # OpenAI allows n = 128; the bound keeps what is held small

_LABELS: Final = frozenset({"role", "type", "id"})
"""Fields that only say what kind of thing something is."""
_PARTS: Final = ("delta", "message", "text")
"""Where a choice has its content: the first of these fields that it has."""
_NO_REASON: Final = frozenset({"", "null", "none", "undefined"})
"""Strings that stand for null, however they are written."""


class Choices:
    """The choices of one answer.

    Attributes:
        are_contradicted: content came after a finish reason, so this upstream's reasons alone do
            not show that an answer has ended.
    """

    __slots__ = ("_closed", "_reasons", "_seen", "are_contradicted")

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._reasons: dict[int, str] = {}  # the newest reason of each choice
        self._closed: set[int] = set()  # closed by a chunk that held the reason and no content
        self.are_contradicted = False

    @property
    def reason(self) -> str | None:
        """The first choice's finish reason, once every choice seen has one."""
        if not self._reasons or len(self._reasons) < len(self._seen):
            return None
        return self._reasons[min(self._reasons)]

    @property
    def are_seen(self) -> bool:
        """Whether any choice has been seen."""
        return bool(self._seen)

    @property
    def have_reasons(self) -> bool:
        """Whether any choice has a finish reason."""
        return bool(self._reasons)

    @property
    def are_closed(self) -> bool:
        """Whether an answer that is cut here is complete all the same.

        It is if every choice was closed by a chunk of its own, which held the reason and no
        content, and no choice went on after a reason. A reason beside content proves nothing: the
        next chunk might have had both, too.
        """
        return bool(
            self._seen and len(self._closed) == len(self._seen) and not self.are_contradicted
        )

    def note(self, choice: dict[str, object], *, begun: bool) -> bool:
        """Take one choice of a chunk; return whether it carries content.

        Args:
            choice: as the upstream sent it.
            begun: whether content has come before it; else a reason beside the role is an opening,
                not an end.
        """
        index = choice.get("index")
        if not isinstance(index, int) or not 0 <= index < MAX_CHOICES:
            index = 0
        self._seen.add(index)
        parts = [choice[name] for name in _PARTS if choice.get(name) is not None]
        part = parts[0] if parts else None
        content = carries_content(part)
        if content and index in self._reasons:
            self.are_contradicted = True
        reason = reason_of(choice)
        if reason is not None:
            self._reasons[index] = reason
            opens = isinstance(part, dict) and part.get("role") and not begun
            if not content and not opens:
                self._closed.add(index)
        return content


def reason_of(choice: Mapping[str, object]) -> str | None:
    """Return a choice's finish reason; None where what stands there is none."""
    reason = choice.get("finish_reason")
    if isinstance(reason, str) and reason.strip().lower() not in _NO_REASON:
        return reason
    return None


def carries_content(part: object) -> bool:
    """Return whether a delta or a message says anything: any text in it, under any name.

    Text, reasoning, a refusal, a tool call's name or arguments, audio, things not thought of
    yet count; its role, empty strings and lists do not, nor do numbers, which only place things.
    """
    waiting = [part]
    while waiting:  # no recursion: JSON may be nested more deeply than Python calls
        value = waiting.pop()
        if isinstance(value, str):
            if value:
                return True
        elif isinstance(value, dict):
            waiting += [inner for name, inner in value.items() if name not in _LABELS]
        elif isinstance(value, list):
            waiting += value
    return False
