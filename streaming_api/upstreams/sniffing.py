"""What a reply's body is, by its first bytes: an event stream or JSON; pure.

Servers send event streams as text/plain, as application/json or without a type, and one JSON object
as an event stream. The first byte that says something decides; it holds back nothing else.
"""

from __future__ import annotations

import enum
from typing import Final

from streaming_api.upstreams.sse_parser import BYTE_ORDER_MARK

EVENT_STREAM: Final = "text/event-stream"

_BLANK: Final = b" \t\r\n"
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


class Body(enum.Enum):
    """The kind of a body."""

    UNKNOWN = "unknown"  # nothing that decides it has come yet
    EVENTS = "events"
    JSON = "json"
    OTHER = "other"


def body_of(beginning: bytes, content_type: str) -> tuple[Body, bytes]:
    """Return the kind of a body, and the bytes to go on with, without the blanks before it.

    Args:
        beginning: everything that has come so far; what was returned before, and one read more.
        content_type: the media type alone, "" if there is none. It decides only where the bytes
            are neither: an event stream may begin with a line that means nothing.
    """
    said = beginning.lstrip(_BLANK).removeprefix(BYTE_ORDER_MARK).lstrip(_BLANK)
    if not said or BYTE_ORDER_MARK.startswith(said):
        return Body.UNKNOWN, said
    if said.startswith((b"{", b"[")):
        return Body.JSON, said
    if said.startswith(_FIELDS) or content_type == EVENT_STREAM:
        return Body.EVENTS, said
    if any(field.startswith(said) for field in _FIELDS):
        return Body.UNKNOWN, said
    if content_type == "application/json" or content_type.endswith("+json"):
        return Body.JSON, said
    return Body.OTHER, said
