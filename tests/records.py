"""Answers that have ended, as figures, logs and traces get them."""

from __future__ import annotations

import time

import attrs

from streaming_api.answer_record import AnswerRecord
from streaming_api.trace_context import TraceContext

_TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def ended(**changes: object) -> AnswerRecord:
    """An answer of ten tokens, with changes."""
    record = AnswerRecord(
        request_id="r-1", key="page", face="openai", asked="m", answered="m", outcome="stop",
        reason="", status=200, ended=time.time(), queued=0.1, first=0.5, seconds=2.3,
        longest_gap=0.4, resumed=(), chunks=10, repaired=0,
        input_tokens=7, output_tokens=10, reported=True, trace=_TRACE, call=_TRACE.child(),
    )  # fmt: skip
    return attrs.evolve(record, **changes)  # type: ignore[arg-type]
