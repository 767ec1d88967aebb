"""malloc: gives memory that is free back to the system. Of glibc; elsewhere nothing happens.

glibc keeps what was freed below anything that is still used: after many large answers nearly all
of it (docs/decisions/0022-memory-and-work-are-budgets.md). ``malloc_trim`` gives back each free
page.
"""

from __future__ import annotations

import ctypes
import time
from typing import Final

_SECONDS: Final = 5.0
"""Between two trims: one takes some 20 ms for 300 MB of small pieces."""
_SLACK: Final = 4 * 2**20
"""Bytes that may come to be held for nobody before a trim."""


class Trimmer:
    """Trims when the process holds more than it did that is held for nobody."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._least: int | None = None
        self._when = time.monotonic()

    def look(self, resident: int, held: int) -> bool:
        """Trim if it is time and worth it; whether it was.

        Args:
            resident: bytes of the process.
            held: what of them is held for clients.
        """
        slack = resident - held
        if self._least is None:
            self._least = slack
        now = time.monotonic()
        if self._trim is None or now - self._when < _SECONDS or slack < self._least + _SLACK:
            return False
        self._when = now
        self._trim(0)
        self._least = None  # as much as there is now, whatever could not be given back
        return True
