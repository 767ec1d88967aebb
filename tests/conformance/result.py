"""What one suite has to say at its end."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


@attrs.frozen(kw_only=True)
class Result:
    """One suite's result.

    Attributes:
        suite: its name, which is also its place in docs/conformance.md.
        lines: Markdown for that place.
        failures: what is not as it must be, a sentence each.
        missing: why it could not run at all; empty if it did.
        seconds: how long it took.
    """

    suite: str
    lines: Sequence[str] = ()
    failures: Sequence[str] = ()
    missing: str = ""
    seconds: float = 0.0


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
