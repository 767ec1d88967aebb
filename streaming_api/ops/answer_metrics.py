"""Answers as Prometheus' metrics, named as OpenTelemetry's conventions for generative AI name them.

Dots become underscores and units are part of the names: ``gen_ai.server.time_to_first_token`` in
seconds is ``gen_ai_server_time_to_first_token_seconds``. Exemplars carry the newest answer's trace.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from streaming_api import __version__
from streaming_api.build import build

if TYPE_CHECKING:
    from streaming_api.ops.context import Context
    from streaming_api.telemetry.answer_figures import Distribution

_CHAT: Final = "chat"
_LABELS: Final = ["gen_ai_operation_name", "gen_ai_response_model"]


def answer_metrics(context: Context) -> Iterator[Metric]:
    """Return histograms, the upstream's statuses, usage by key, and which build this is."""
    figures = context.telemetry.answers
    yield _histogram(
        "gen_ai_server_time_to_first_token_seconds",
        "From the question to the first chunk, the wait for an upstream connection included.",
        _LABELS,
        {(_CHAT, model): values for model, values in figures.first_token.items()},
    )
    yield _histogram(
        "gen_ai_server_time_per_output_token_seconds",
        "From one token to the next, the average of an answer.",
        _LABELS,
        {(_CHAT, model): values for model, values in figures.per_token.items()},
    )
    yield _histogram(
        "gen_ai_server_request_duration_seconds",
        "From the question to the end of the answer.",
        [*_LABELS, "outcome"],
        {(_CHAT, *labels): values for labels, values in figures.duration.items()},
    )
    yield _histogram(
        "gen_ai_client_token_usage",
        "Tokens of an answer, reported by the upstream or estimated.",
        [*_LABELS, "gen_ai_token_type"],
        {(_CHAT, *labels): values for labels, values in figures.tokens.items()},
    )
    yield _histogram(
        "streaming_queue_wait_seconds",
        "What answers waited for an upstream connection.",
        [],
        {(): figures.queue},
    )
    statuses = CounterMetricFamily(
        "streaming_upstream_responses",
        "Answers by the HTTP status of the upstream; none where it sent none.",
        labels=["status"],
    )
    for status, count in figures.statuses.items():
        statuses.add_metric([status], count)
    yield statuses
    yield from _keys(context)
    info = GaugeMetricFamily(
        "streaming_build_info",
        "Which version of what is running: 1.",
        labels=["version", "python", "build"],
    )
    info.add_metric([__version__, platform.python_version(), build()], 1)
    yield info


def _keys(context: Context) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "streaming_key_answers", "Answers that have ended, by key.", labels=["key", "result"]
    )
    tokens = CounterMetricFamily(
        "streaming_key_tokens", "Tokens used, by key.", labels=["key", "type"]
    )
    usage = context.telemetry.answers.by_key
    for name in context.access.key_names() or [""]:
        used = usage[name]
        answers.add_metric([name, "failed"], used.failed)
        answers.add_metric([name, "ended"], used.answers - used.failed)
        tokens.add_metric([name, "input"], used.input_tokens)
        tokens.add_metric([name, "output"], used.output_tokens)
    yield from (answers, tokens)


def _histogram(
    name: str, help_text: str, labels: list[str], values: dict[tuple[str, ...], Distribution]
) -> Metric:
    family = HistogramMetricFamily(name, help_text, labels=labels)
    for label_values, distribution in values.items():
        total = 0
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        bounds = (*distribution.bounds, math.inf)
        for bound, count, seen in zip(
            bounds, distribution.counts, distribution.exemplars, strict=True
        ):
            total += count
            label = str(bound) if bound < math.inf else "+Inf"
            if seen is None:
                buckets.append((label, float(total)))
            else:
                trace_id, value, when = seen
                exemplar = Exemplar({"trace_id": trace_id}, value, when)
                buckets.append((label, float(total), exemplar))
        family.add_metric(list(label_values), buckets, distribution.sum)
    return family
