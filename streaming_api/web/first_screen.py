"""What the document of the page holds so that its first screen is drawn at once, in few bytes."""

from __future__ import annotations

import re
from typing import Final, cast

import orjson

Column = list[float | None]

_CHARTED: Final = (
    "tokens_", "answers_", "first_token_", "connections_", "limit_", "delivery_",
)  # fmt: skip
_MEASURED: Final = re.compile(r"^tokens_|_seconds$")
"""Series of which a chart shows three digits; the others are counts, which are shown whole."""
_COMMENT: Final = re.compile(rb"^[ \t]*(?://.*|/\*[\s\S]*?\*/[ \t]*)$", re.MULTILINE)


def compact(snapshot: bytes) -> bytes:
    """Return a snapshot with no more of the history than the charts draw.

    Args:
        snapshot: the JSON ``{status, messages}`` of `snapshot_of`.

    Returns:
        The same, but for the history's data: `series` are those of the six charts, what is measured
        has three digits, and each of `times` but the first says how long after the last it was.
    """
    document = orjson.loads(snapshot)
    for message in document["messages"]:
        if message["stream_id"] == "history":
            data = message["data"]
            times = cast("list[int]", data["times"])
            data["times"] = [now - before for before, now in zip([0, *times], times, strict=False)]
            data["series"] = {
                name: _rounded(name, column)
                for name, column in data["series"].items()
                if name.startswith(_CHARTED)
            }
    return orjson.dumps(document)


def _rounded(name: str, column: Column) -> Column:
    if _MEASURED.search(name):
        return [None if value is None else float(f"{value:.3g}") for value in column]
    return [None if value is None else _whole(value) for value in column]


def _whole(value: float) -> float:
    """Return a count as JSON has it in the fewest bytes; the mean of counts has one decimal."""
    return int(value) if value == int(value) else round(value, 1)


def without_comments(source: bytes) -> bytes:
    """Return a module or a style sheet with empty lines for its comments: lines keep their numbers.

    Only comments that stand in lines of their own: what is in a line of code may be in a string.
    """
    return _COMMENT.sub(lambda found: b"\n" * found[0].count(b"\n"), source)
