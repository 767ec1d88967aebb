"""malloc: gives free memory back to the system. For glibc; elsewhere nothing happens.

glibc keeps what was freed below anything that is still in use: after many large answers nearly all
of it (docs/decisions/0022-memory-and-work-are-budgets.md). ``malloc_trim`` gives back each free
page.
"""

from __future__ import annotations

import ctypes
import time
from typing import Final

_SECONDS: Final = 5.0
"""Seconds between two trims: one takes some 20 ms for 300 MB of small pieces."""
_SLACK: Final = 4 * 2**20
"""Growth, in bytes, of the memory held for no client that is worth a trim."""


class Trimmer:
    """Trims when the memory that the process holds for no client has grown."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._least: int | None = None
        self._when = time.monotonic()

    def look(self, resident: int, held: int) -> bool:
        """Trim if it is time and worth it; return whether it was done.

        Args:
            resident: resident bytes of the process.
            held: how many of them are held for clients.
        """
        slack = resident - held
        if self._least is None:
            self._least = slack
        now = time.monotonic()
        if self._trim is None or now - self._when < _SECONDS or slack < self._least + _SLACK:
            return False
        self._when = now
        self._trim(0)
        self._least = None  # the least there is now, whatever could not be given back
        return True
