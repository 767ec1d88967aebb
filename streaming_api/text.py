"""Hostile text, made fit to be shown: one line, printable, bounded."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape control characters, so that the text stays on one line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def one_line(text: str, limit: int | None = 300) -> str:
    """Replace what cannot be printed by spaces, and cut to ``limit`` characters."""
    looked_at = text if limit is None else text[: 4 * limit]
    line = " ".join("".join(c if c.isprintable() else " " for c in looked_at).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def ascii_line(text: str, limit: int = 200) -> str:
    """Escape all but printable ASCII, for the log; cut to ``limit`` characters before that."""
    return text[:limit].encode("unicode_escape").decode()


def excerpt(payload: bytes) -> str:
    """Quote the first 80 bytes, as Python would write them."""
    return repr(payload[:80].decode("utf-8", "replace"))
