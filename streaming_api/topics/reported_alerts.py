"""The alerts that one source reports: by identity, bounded in number and bytes."""

from __future__ import annotations

import logging
from typing import Final

import attrs

from streaming_api.sources.values import Alert, AlertSource

logger = logging.getLogger(__name__)

MAX_ALERTS: Final = 1_000
"""Number of alerts kept per source, so that no source can crowd out another."""
_MAX_BYTES: Final = 4 * 2**20
"""Bytes of JSON kept per source: a label costs its sender little."""
_LOG_PAUSE: Final = 60.0


@attrs.define
class Reported:
    """An alert as last reported, the bytes of its JSON, and when (monotonic seconds)."""

    alert: Alert
    size: int
    seen: float


class ReportedAlerts:
    """The alerts of one source, by identity (`Alerts`)."""

    def __init__(self) -> None:
        self.kept: dict[str, Reported] = {}
        self.bytes = 0
        self._logged = -_LOG_PAUSE

    def has_room(self, identity: str, size: int) -> bool:
        """Return whether an alert of this many bytes may come, in place of what it was before."""
        before = self.kept.get(identity)
        freed = 0 if before is None else before.size
        count = len(self.kept) + (before is None)
        return count <= MAX_ALERTS and self.bytes - freed + size <= _MAX_BYTES

    def put(self, identity: str, kept: Reported) -> None:
        """Keep an alert, in place of what it was before."""
        self.drop(identity)
        self.kept[identity] = kept
        self.bytes += kept.size

    def drop(self, identity: str) -> None:
        """Keep an alert no longer."""
        before = self.kept.pop(identity, None)
        if before is not None:
            self.bytes -= before.size

    def log_refusal(self, source: AlertSource, refused: int, now: float) -> None:
        """Say that alerts are refused, at most once in `_LOG_PAUSE` seconds."""
        if now - self._logged >= _LOG_PAUSE:
            self._logged = now
            logger.warning(
                "%d alerts of %s are refused: %d are kept, in %d bytes; the limits are %d and %d",
                refused, source, len(self.kept), self.bytes, MAX_ALERTS, _MAX_BYTES,
            )  # fmt: skip
