"""malloc: gives free memory back to the system. For glibc; elsewhere nothing happens.

glibc keeps what was freed below anything that is still in use: after many large answers nearly all
of it (docs/decisions/0022-memory-and-work-are-budgets.md). ``malloc_trim`` gives back each free
page.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from typing import Final

_SECONDS: Final = 5.0
"""Seconds between two trims: one takes some 20 ms for 300 MB of small pieces."""
_LONGEST: Final = 320.0
"""The same where trims have been in vain: what is not held for clients is in use, or lost."""
_SLACK: Final = 4 * 2**20
"""Growth, in bytes, of the memory held for no client that is worth a trim."""


class Trimmer:
    """Trims when the memory that the process holds for no client is more than it has ever been.

    What was in use during one trim may be free soon after, and nothing says so. So after a trim
    that left more than the best one did, the next is tried, after a while that doubles.
    """

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._least: float = math.inf  # held for no client after the best trim
        self._left: float | None = None  # the same after the last one
        self._wait = _SECONDS
        self._when = time.monotonic()

    def look(self, resident: int, held: int) -> bool:
        """Trim if it is time and worth it; return whether it was done.

        Args:
            resident: resident bytes of the process.
            held: how many of them are held for clients.
        """
        slack = resident - held
        if self._left is None:
            self._left = slack
            self._least = min(self._least, slack)
        if slack >= self._left + _SLACK:
            self._wait = _SECONDS
        now = time.monotonic()
        if self._trim is None or now - self._when < self._wait or slack < self._least + _SLACK:
            return False
        self._when = now
        self._wait = min(2 * self._wait, _LONGEST)
        gc.collect()
        self._trim(0)
        self._left = None
        return True
