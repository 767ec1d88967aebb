"""Reads ``Retry-After`` (RFC 9110, section 10.2.3), which is seconds or a date; pure.

OpenAI and Azure send the same in milliseconds, too: ``retry-after-ms``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

MAX_SECONDS: Final = 999_999
_NUMBER: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{0,9})?")
_MS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?")


def retry_after(headers: Mapping[str, str]) -> int | None:
    """Return seconds to wait; None if the header is missing, nonsense, or above eleven days.

    A date is compared with the upstream's own ``Date`` where there is one, so that neither clock
    has to be right.

    Args:
        headers: by their names in lower case.
    """
    text = headers.get("retry-after", "").strip()
    if _NUMBER.fullmatch(text):
        return math.ceil(float(text))
    due = _date(text)
    if due is None:
        milliseconds = headers.get("retry-after-ms", "").strip()
        return math.ceil(float(milliseconds) / 1000) if _MS.fullmatch(milliseconds) else None
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    seconds = max(0, math.ceil((due - now).total_seconds()))
    return seconds if seconds <= MAX_SECONDS else None


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
