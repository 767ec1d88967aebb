"""Trace context: which trace an answer belongs to (W3C Trace Context, ``traceparent``). Pure."""

from __future__ import annotations

import os
import re
from typing import Final

import attrs

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_MOST_STATE: Final = 512
"""Characters of a ``tracestate`` that are passed on (section 3.3.1.5)."""


@attrs.frozen
class TraceContext:
    """A place in a trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits, which the spans below name as their parent.
        sampled: whether the caller records it.
        state: the vendors' own fields (``tracestate``).
        parent_id: the span that this one is in; "" for a root.
    """

    trace_id: str
    span_id: str
    sampled: bool = True
    state: str = ""
    parent_id: str = ""

    @classmethod
    def parse(cls, traceparent: str, state: str = "") -> TraceContext | None:
        """Parse a caller's trace context; return None for anything else: a new trace begins."""
        found = _TRACEPARENT.fullmatch(traceparent.strip())
        if found is None or not int(found[1], 16) or not int(found[2], 16):
            return None
        kept = state if len(state) <= _MOST_STATE and state.isprintable() else ""
        return cls(found[1], found[2], bool(int(found[3], 16) & 1), kept)

    @classmethod
    def begin(cls) -> TraceContext:
        """Return the root of a new trace."""
        random = os.urandom(24).hex()
        return cls(random[:32], random[32:])

    def child(self) -> TraceContext:
        """Return a place inside this one."""
        span_id = os.urandom(8).hex()
        return TraceContext(self.trace_id, span_id, self.sampled, self.state, self.span_id)

    def headers(self) -> dict[str, str]:
        """Return the headers that pass this place on."""
        headers = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"}
        return headers | {"tracestate": self.state} if self.state else headers
