"""Collector: this process' figures as Prometheus' metrics, made when somebody scrapes.

Prefix ``streaming_``, base units, every label value known in advance and shown from 0; nothing per
connection, user or request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import REGISTRY
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from streaming_api.answers.idempotency import RESULTS
from streaming_api.connections.endings import KINDS, REFUSALS, CloseReason
from streaming_api.ops.answer_metrics import answer_metrics
from streaming_api.telemetry.deliveries import BOUNDS

if TYPE_CHECKING:
    from streaming_api.cluster.cluster import Cluster
    from streaming_api.ops.context import Context

_COMPONENTS: Final = ("prometheus", "exposition", "alertmanager")


class Collector:
    """Reads one application's figures."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def describe(self) -> list[Metric]:
        """Describe nothing: two applications of one process (tests) may be registered at once."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return every metric of this process."""
        yield from self._connections()
        yield from self._deliveries()
        yield from self._answers()
        yield from answer_metrics(self._context)
        yield from self._health()

    def _connections(self) -> Iterator[Metric]:
        manager = self._context.manager
        telemetry = self._context.telemetry
        gauge = GaugeMetricFamily(
            "streaming_connections", "Connections open now.", labels=["transport"]
        )
        limit = GaugeMetricFamily(
            "streaming_connections_limit", "Connections that may be open.", labels=["transport"]
        )
        accepted = CounterMetricFamily(
            "streaming_connections_accepted", "Connections let in.", labels=["transport"]
        )
        for kind in KINDS:
            gauge.add_metric([kind], manager.open[kind])
            limit.add_metric([kind], manager.limits[kind])
            accepted.add_metric([kind], telemetry.accepted[kind])
        refused = CounterMetricFamily(
            "streaming_connections_refused", "Connections not let in.", labels=["reason"]
        )
        for reason in REFUSALS:
            refused.add_metric([reason], telemetry.refusals[reason])
        ended = CounterMetricFamily(
            "streaming_connections_ended", "Connections that ended.", labels=["transport", "reason"]
        )
        for kind in KINDS:
            for ending in CloseReason:
                ended.add_metric([kind, ending], telemetry.endings[kind, ending])
        aborts = CounterMetricFamily(
            "streaming_viewer_aborts", "Viewers dropped for being stuck.", labels=["reason"]
        )
        for reason in (CloseReason.STALLED, CloseReason.TOO_SLOW, CloseReason.PING_TIMEOUT):
            aborts.add_metric([reason], sum(telemetry.endings[kind, reason] for kind in KINDS))
        yield from (gauge, limit, accepted, refused, ended, aborts)

    def _deliveries(self) -> Iterator[Metric]:
        context = self._context
        telemetry = context.telemetry
        latency = HistogramMetricFamily(
            "streaming_delivery_latency_seconds",
            "From append to the moment the kernel has taken the bytes.",
            labels=["transport"],
        )
        delivered = CounterMetricFamily(
            "streaming_deliveries", "Messages handed to viewers' kernels.", labels=["transport"]
        )
        for kind, histogram in telemetry.latency.items():
            total = 0
            buckets = []
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), histogram.counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            latency.add_metric([kind], buckets, histogram.sum)
            delivered.add_metric([kind], telemetry.deliveries[kind])
        messages = CounterMetricFamily(
            "streaming_messages", "Messages appended to streams.", labels=["topic"]
        )
        for topic, count in context.messages().items():
            messages.add_metric([topic], count)
        yield from (latency, delivered, messages)
        present = tuple(context.manager.present())
        yield GaugeMetricFamily(
            "streaming_lagging_viewers",
            "Connections over their high-water mark, catching up from the log.",
            value=sum(connection.paused for connection in present),
        )
        yield GaugeMetricFamily(
            "streaming_unsent_bytes",
            "Bytes written that the kernel has not taken.",
            value=sum(connection.unsent for connection in present),
        )

    def _answers(self) -> Iterator[Metric]:
        context = self._context
        now = GaugeMetricFamily(
            "streaming_answers", "Answers that have not ended.", labels=["state"]
        )
        queued = context.answers.queued
        now.add_metric(["queued"], queued)
        now.add_metric(["running"], len(context.answers.running) - queued)
        ended = CounterMetricFamily(
            "streaming_answers_ended", "Answers that have ended.", labels=["outcome"]
        )
        for outcome, count in context.telemetry.outcomes.items():
            ended.add_metric([outcome], count)
        keyed = CounterMetricFamily(
            "streaming_idempotent_requests",
            "Requests with an Idempotency-Key, by what became of them.",
            labels=["outcome"],
        )
        for result in RESULTS:
            keyed.add_metric([result], context.telemetry.keyed_requests[result])
        keys = GaugeMetricFamily(
            "streaming_idempotency_keys", "Idempotency-Keys that are remembered.",
            value=len(context.bindings),
        )  # fmt: skip
        yield from (now, ended, keyed, keys)
        yield CounterMetricFamily(
            "streaming_stream_options_refused",
            "Questions asked again because the upstream refused stream_options.",
            value=context.upstream.usage.refusals,
        )
        yield GaugeMetricFamily(
            "streaming_memory_budget_bytes",
            "What may be held for clients.",
            value=context.manager.budget.limit,
        )
        held = GaugeMetricFamily(
            "streaming_memory_held_bytes", "Memory held for clients.", labels=["kind"]
        )
        for kind, size in context.manager.budget.held().items():
            held.add_metric([kind], size)
        yield held
        relayed = CounterMetricFamily(
            "streaming_relayed_requests",
            "Requests passed on to the gateway as they are, by its status.",
            labels=["status"],
        )
        for status, count in context.telemetry.relayed.items():
            relayed.add_metric([status], count)
        yield relayed
        yield CounterMetricFamily(
            "streaming_chunks", "Chunks relayed from the upstream.", value=context.relayed()
        )
        yield CounterMetricFamily(
            "streaming_chunks_repaired",
            "Chunks and replies of the upstream in which something that UTF-8 JSON cannot say was "
            "replaced, of answers that have ended.",
            value=context.telemetry.repaired,
        )

    def _health(self) -> Iterator[Metric]:
        context = self._context
        # with several processes each says what it finds itself
        states = context.topics.states() | context.topics.own.states()
        yield GaugeMetricFamily(
            "streaming_upstream_up",
            "Whether answers can be had: 1 or 0.",
            value=states.get(context.upstream.name) == "up",
        )
        sources = GaugeMetricFamily(
            "streaming_source_up", "Whether a source answers: 1 or 0.", labels=["source"]
        )
        for name in _COMPONENTS:
            if name in states:  # a source that is not configured is neither up nor down
                sources.add_metric([name], states[name] == "up")
        yield sources
        yield GaugeMetricFamily(
            "streaming_event_loop_lag_seconds",
            "How late the event loop woke up, decaying maximum.",
            value=context.telemetry.loop_lag,
        )
        if context.certificate is not None:
            yield GaugeMetricFamily(
                "streaming_tls_certificate_expiry_timestamp_seconds",
                "When the certificate in service expires, in seconds since the epoch.",
                value=context.certificate.not_after.timestamp(),
            )
        failures = CounterMetricFamily(
            "streaming_background_failures", "Background work that failed and was restarted."
        )
        failures.add_metric([], context.telemetry.background_failures.total())
        yield failures
        if context.cluster is not None:
            yield from _cluster(context.cluster)


def _cluster(cluster: Cluster) -> Iterator[Metric]:
    figures = cluster.figures
    for name, text, value in (
        ("up", "Whether the store that the processes share answers: 1 or 0.", figures.up),
        ("leads", "Whether this process polls the sources for all: 1 or 0.", cluster.topics.leads),
        ("recorded_lag_messages", "Messages shown here and not yet in the store.", cluster.lag),
        ("round_trip_seconds", "The last round trip to the store.", figures.round_trip),
        ("mirrors", "Answers of other processes that are shown here.", len(cluster.mirrors)),
    ):
        yield GaugeMetricFamily(f"streaming_cluster_{name}", text, value=value)
    for name, text, count in (
        ("repairs", "Answers written again because the store had lost something.", figures.repairs),
        ("seals", "Answers ended in the stead of a process that is gone.", figures.seals),
        ("holes", "Times that something was missing in the store.", figures.holes),
        ("round_trips", "Round trips of this process to the store.", cluster.trips),
    ):
        counter = CounterMetricFamily(f"streaming_cluster_{name}", text)
        counter.add_metric([], count)
        yield counter


def publish(context: Context) -> Callable[[], None]:
    """Show an application's figures in Prometheus' registry; return a function that ends that."""
    collector = Collector(context)
    REGISTRY.register(collector)

    def unpublish() -> None:
        REGISTRY.unregister(collector)

    return unpublish
