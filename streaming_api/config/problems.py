"""What can be wrong with a configuration, as values; knows no file, setting or printing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import attrs

from streaming_api.text import printable

LONGEST_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


@attrs.frozen(kw_only=True)
class Problem:
    """One thing to correct.

    Attributes:
        path: The setting as the user wrote it: the YAML path (``websocket.enabled``), followed by
            the place inside it where it is a list or a mapping (``security.api_keys[0].sha256``);
            the field's flat name when the object was built in code; empty when it is about a
            whole file.
        message: What was found and what would be right, in one line.
        source: The file as it was named, ``environment NAME``, ``command line``, or empty when the
            object was built in code.
        line: Line in that file, from 1; None where there is none.
        fields: The flat names of the settings that it is about.
    """

    path: str
    message: str
    source: str = ""
    line: int | None = None
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return ``FILE:LINE: PATH: MESSAGE``, without the parts that are missing."""
        where = f"{self.source}:{self.line}" if self.line is not None else self.source
        return printable(": ".join(part for part in (where, self.path, self.message) if part))


class ConfigError(ValueError):
    """A configuration that cannot be used; nothing has been started.

    Attributes:
        problems: Everything that is wrong, in the order of the sources.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep `problems`, of which there is at least one."""
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        """Give one line for each problem."""
        return "\n".join(str(problem) for problem in self.problems)


def describe(value: object) -> str:
    """Name what was found, in YAML's own words and in one line: ``"false" (text)``."""
    match value:
        case None:
            found = "nothing (null)"
        case bool():
            found = "true" if value else "false"
        case str():
            found = f'"{shorten(value)}" (text)'
        case int() | float():
            found = shorten(_number(value))
        case list() | tuple() | set() | frozenset():
            found = "a list"
        case dict():
            found = "a mapping"
        case _:
            found = shorten(repr(value))
    return found


def shorten(text: str) -> str:
    """Return `text` on one line, control characters escaped, cut to `LONGEST_SHOWN` characters."""
    shown = printable(text[: LONGEST_SHOWN + 1])
    return shown if len(shown) <= LONGEST_SHOWN else shown[:LONGEST_SHOWN] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean X?)`` for the known word nearest to `word`, or an empty text."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1)
    near = near or difflib.get_close_matches(word.upper(), list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _number(value: float) -> str:
    try:
        return str(value)
    except ValueError:  # int with more digits than Python is willing to print
        return "a number of thousands of digits"
