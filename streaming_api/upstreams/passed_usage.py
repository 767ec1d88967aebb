"""The tokens that a response says it has used, read from its bytes as they pass; pure.

Every API names them alike, in JSON or in events: ``input_tokens`` or ``prompt_tokens``, and
``output_tokens`` or ``completion_tokens``, at the beginning or at the end.
"""

from __future__ import annotations

import re
from typing import Final

KEPT: Final = 16 * 2**10
"""Bytes that are looked at, at the beginning and at the end."""
_INPUT: Final = re.compile(rb'(?<!\\)"(?:input|prompt)_tokens"\s*:\s*(\d{1,15})')
_OUTPUT: Final = re.compile(rb'(?<!\\)"(?:output|completion)_tokens"\s*:\s*(\d{1,15})')


class PassedUsage:
    """Reads the usage of one response."""

    def __init__(self) -> None:
        self._first = b""
        self._last = b""

    def feed(self, data: bytes) -> None:
        """Take bytes that pass."""
        room = KEPT - len(self._first)
        if room > 0:
            self._first += data[:room]
            data = data[room:]
        if data:
            self._last = (self._last + data[-KEPT:])[-KEPT:]

    @property
    def tokens(self) -> tuple[int, int]:
        """The tokens of input and of output; of several figures, the largest counts."""
        text = self._first + self._last
        return _most(_INPUT, text), _most(_OUTPUT, text)


def _most(pattern: re.Pattern[bytes], text: bytes) -> int:
    return max(map(int, pattern.findall(text)), default=0)
