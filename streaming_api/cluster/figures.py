"""What the cluster counts about itself, and the state of the store."""

from __future__ import annotations

import math
import time
from typing import Final

import attrs

RECOVERY_SECONDS: Final = 3.0
"""Time in which every process notices that the store has lost something, and writes it again."""


@attrs.define
class Figures:
    """Counters, and the state of the store.

    Attributes:
        up: whether the store answers.
        reason: a sentence for people if the store does not answer.
        lost_at: monotonic time in seconds at which it was last noticed that it has lost something.
        joined: whether the heartbeat of this process has been in the store.
        stable_since: monotonic time in seconds since which it has answered as the same store.
        repairs: streams that were rewritten because the store had lost something.
        seals: answers that were ended on behalf of a process that is gone.
        holes: entries that a mirror found missing.
        round_trip: seconds of the last round trip.
        outdated: whether answers have been met that a newer version of this program has written.
    """

    up: bool = True
    reason: str | None = None
    joined: bool = False
    lost_at: float = -math.inf
    stable_since: float = attrs.field(factory=time.monotonic)
    repairs: int = 0
    seals: int = 0
    holes: int = 0
    round_trip: float = 0.0
    outdated: bool = False

    @property
    def recovering(self) -> bool:
        """Whether what is not in the store may be about to be written again."""
        return time.monotonic() - self.lost_at < RECOVERY_SECONDS

    def failed(self, reason: str) -> None:
        """Note that the store did not answer."""
        self.up = False
        self.reason = reason
        self.stable_since = time.monotonic()

    def answered(self) -> None:
        """Note that the store has answered."""
        self.up = True
        self.reason = None
