"""Tracing: two spans an answer, sent over OTLP by OpenTelemetry's SDK. Content is never sent.

Only where OTEL_EXPORTER_OTLP_ENDPOINT is set; otherwise the SDK (``streaming-api[otel]``) is not
imported. The spans are made when an answer has ended, from what is known then: nothing per token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from streaming_api import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    from streaming_api.answer_record import AnswerRecord
    from streaming_api.trace_context import TraceContext

logger = logging.getLogger(__name__)

_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
HELP: Final = "pip install 'streaming-api[otel]'"
_LAST_SECONDS: Final = 3.0
"""Seconds that the collector gets to take the last spans."""
_NANO: Final = 1_000_000_000
_EVENT_GAP: Final = 1.0
"""Seconds of silence between two chunks above which the silence is an event."""
_STALLS: Final = frozenset({"upstream_timeout"})


def tracing(service: str) -> Tracing | None:
    """Return what makes spans; None if nobody asks for them, or (logged) the SDK is missing."""
    if not any(os.environ.get(name) for name in _VARIABLES):
        return None
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter") is None:
        logger.warning("%s is set, but there are no traces: %s", _VARIABLES[0], HELP)
        return None
    return Tracing(service)


class Tracing:
    """Makes spans of answers that have ended, and sends them in a thread of the SDK.

    Args:
        service: the ``service.name``, unless OTEL_SERVICE_NAME names another.
    """

    def __init__(self, service: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        named = os.environ.get("OTEL_SERVICE_NAME") or service
        resource = Resource.create({"service.name": named, "service.version": __version__})
        self._ids = _ids()
        self._provider: TracerProvider = TracerProvider(
            resource=resource, id_generator=self._ids.generator, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("streaming_api", __version__)

    def ended(self, record: AnswerRecord) -> None:
        """Make the spans of an answer."""
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415

        end = record.ended
        begun = end - record.seconds
        name = f"chat {record.answered}".rstrip()
        attributes = record.attributes()
        for given, kind, start in (
            (record.trace, SpanKind.SERVER, begun),
            (record.call, SpanKind.CLIENT, begun + record.queued),
        ):
            if kind is SpanKind.CLIENT and record.queued >= record.seconds:
                return  # the upstream was never asked
            self._ids.next = given
            span = self._tracer.start_span(
                name,
                context=_parent(given),
                kind=kind,
                attributes=attributes,  # type: ignore[arg-type]  # plain values all
                start_time=_nanoseconds(start),
            )
            if record.first is not None:
                span.add_event("first_token", timestamp=_nanoseconds(begun + record.first))
            if kind is SpanKind.SERVER:
                for after in record.resumed:
                    span.add_event("resume", timestamp=_nanoseconds(begun + after))
            if record.longest_gap >= _EVENT_GAP:
                gap = {"seconds": round(record.longest_gap, 6)}
                span.add_event("longest_gap", gap, timestamp=_nanoseconds(end))
            if record.reason in _STALLS:
                span.add_event("stall", timestamp=_nanoseconds(end))
            if record.failed:
                span.set_status(Status(StatusCode.ERROR, record.reason or record.outcome))
            span.end(_nanoseconds(end))

    async def close(self) -> None:
        """Send what is left, without waiting for a collector that does not answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await asyncio.to_thread(self._provider.shutdown)


class _Ids:
    """Ids that were sent to the upstream before the span existed.

    Attributes:
        next: where in its trace the span that is made next.
        generator: gives out the ids when the SDK asks for them.
    """

    next: TraceContext
    generator: IdGenerator


def _ids() -> _Ids:
    from opentelemetry.sdk.trace.id_generator import IdGenerator  # noqa: PLC0415

    ids = _Ids()

    class Given(IdGenerator):
        def generate_span_id(self) -> int:
            return int(ids.next.span_id, 16)

        def generate_trace_id(self) -> int:
            return int(ids.next.trace_id, 16)

    ids.generator = Given()
    return ids


def _parent(given: TraceContext) -> Context:
    """Return the SDK's context of the span that this one is in."""
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.context import Context  # noqa: PLC0415

    nothing = Context()
    if not given.parent_id:
        return nothing
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if given.sampled else 0)
    parent = trace.SpanContext(
        int(given.trace_id, 16), int(given.parent_id, 16), is_remote=True, trace_flags=flags
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), nothing)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANO)
