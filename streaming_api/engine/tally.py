"""Tally: a number of bytes, and how many there may be; the hot path adds to it. Pure."""

from __future__ import annotations

from typing import Final

UNLIMITED: Final = 2**62


class Tally:
    """Bytes that are held for one purpose, or for one client.

    Attributes:
        bytes: held now.
        limit: how many may be held.
    """

    __slots__ = ("bytes", "limit")

    def __init__(self, limit: int = UNLIMITED) -> None:
        self.bytes = 0
        self.limit = limit
