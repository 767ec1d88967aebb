"""Polling: asks each source again and again, and passes the replies to the topics. Knows no viewer.

A source that is down, slow or talks nonsense keeps its last values on the topics, is shown as down
with the reason, and is asked again with back-off. None of this affects another source.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs

from streaming_api.background import LONGEST_PAUSE, Backoff
from streaming_api.sources.alertmanager import Alertmanager
from streaming_api.sources.exposition import MAX_LINE, Exposition
from streaming_api.sources.fetch import TIMEOUT
from streaming_api.sources.prometheus import Prometheus
from streaming_api.sources.values import SourceError
from streaming_api.topics.alerts import Alerts
from streaming_api.topics.metrics import MAX_SERIES, Metrics, Values, query_values, sample_values
from streaming_api.topics.reported_alerts import MAX_ALERTS

_LABELS_SECONDS: Final = 60.0
"""Seconds between two looks at a Prometheus' external labels."""
_SLICE: Final = 500
"""Number of series that are named in one slice, which takes about a millisecond."""

Ask = Callable[[], Awaitable[str | None]]
"""Asks a source once and passes on the reply. Returns what is wrong although it replied.

Raises SourceError if it did not reply."""

DEFAULT_QUERIES: Final[Mapping[str, str]] = {
    "up": "up",
    "alerts_firing": 'count(ALERTS{alertstate="firing"}) or vector(0)',
    "generated_tokens_per_second": (
        "sum(rate(vllm:generation_tokens_total[1m]))"
        " or sum(rate(llamacpp:tokens_predicted_total[1m]))"
    ),
    "prompt_tokens_per_second": (
        "sum(rate(vllm:prompt_tokens_total[1m])) or sum(rate(llamacpp:prompt_tokens_total[1m]))"
    ),
    "requests_running": "sum(vllm:num_requests_running) or sum(llamacpp:requests_processing)",
    "requests_waiting": "sum(vllm:num_requests_waiting) or sum(llamacpp:requests_deferred)",
    "kv_cache_usage_ratio": "max(vllm:kv_cache_usage_perc) or max(vllm:gpu_cache_usage_perc)",
    "time_to_first_token_p95_seconds": (
        "histogram_quantile(0.95, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket[5m])))"
    ),
}
"""The default queries to a Prometheus: vLLM's and llama.cpp's figures, and ``up``.

A query that finds nothing gives no series."""


def patience(interval: float) -> float:
    """Return the seconds after which a source with this poll interval counts as down."""
    return min(TIMEOUT, max(2.0, 5 * interval))


async def keep_asking(
    ask: Ask, interval: float, report: Callable[[str, str | None], None], *, phase: float = 0.0
) -> None:
    """Ask every ``interval`` seconds; after a failure less and less often, until it replies.

    A source that takes longer than the interval is then left alone for as long as it took.

    Args:
        ask: asks the source.
        interval: seconds from the beginning of one attempt to the next.
        report: called with ``up`` or ``down``, and the reason, after each attempt.
        phase: seconds beyond a multiple of the interval (of the monotonic clock) at which to ask,
            from the second attempt on.
    """
    backoff = Backoff(interval, max(interval, LONGEST_PAUSE))
    while True:
        begun = time.monotonic()
        try:
            amiss = await ask()
        except SourceError as fault:
            report("down", fault.reason)
            await asyncio.sleep(backoff.pause())
        else:
            report("up", amiss)
            backoff.reset()
            now = time.monotonic()
            took = now - begun
            on_the_beat = phase + interval * round((begun + interval - phase) / interval)
            await asyncio.sleep(on_the_beat - now if took < interval else took)


class PrometheusPoll:
    """A Prometheus server: its queries, its alerts, or both.

    If a query fails, its previous values stay.

    Args:
        source: the server.
        queries: PromQL by name; empty to ask none.
        metrics: the topic that values go to.
        alerts: the topic that alerts go to; None not to ask for them.
    """

    def __init__(
        self,
        source: Prometheus,
        queries: Mapping[str, str],
        metrics: Metrics,
        alerts: Alerts | None,
    ) -> None:
        self._source = source
        self._queries = queries
        self._metrics = metrics
        self._alerts = alerts
        self._values: dict[str, Values] = {}
        self._labels_due = -math.inf  # monotonic seconds

    async def ask(self) -> str | None:
        """Ask for both at once. It is down if it replied to nothing at all."""
        parts = await asyncio.gather(
            self._ask_queries(), self._ask_alerts(), self._ask_external_labels()
        )
        faults = [fault for part in parts for fault in part.faults]
        if faults and not any(part.answered for part in parts):
            raise faults[0][1]
        notes = [f"{what}: {fault.reason}" for what, fault in faults]
        notes += [note for part in parts for note in part.left_out]
        return " ".join(notes) or None

    async def _ask_queries(self) -> _Part:
        part = _Part()
        if not self._queries:
            return part
        for name, result in (await self._source.query(self._queries)).items():
            if isinstance(result, SourceError):
                part.answered |= result.code == "query"  # the server has replied
                part.faults.append((name, result))
                continue
            part.answered = True
            part.left_out += [f"{name}: {warning}" for warning in result.warnings]
            self._values[name] = query_values(name, result)
            if result.dropped:
                part.left_out.append(
                    f"{name}: {result.dropped} series are left out: aggregate them."
                )
        if part.answered:
            values = {key: value for some in self._values.values() for key, value in some.items()}
            part.left_out += _series_left_out(self._metrics.update("prometheus", values))
        return part

    async def _ask_alerts(self) -> _Part:
        part = _Part()
        if self._alerts is None:
            return part
        try:
            listed = await self._source.alerts()
        except SourceError as fault:
            part.faults.append(("alerts", fault))
            return part
        part.answered = True
        part.left_out += [f"alerts: {warning}" for warning in listed.warnings]
        part.left_out += _alerts_left_out(self._alerts.poll("prometheus", listed) + listed.dropped)
        return part

    async def _ask_external_labels(self) -> _Part:
        """Ask how Alertmanager's labels differ from its own; if that stays unknown, so be it."""
        now = time.monotonic()
        if self._alerts is not None and now >= self._labels_due:
            self._labels_due = now + _LABELS_SECONDS
            with contextlib.suppress(SourceError):
                self._alerts.set_external_labels(await self._source.external_labels())
        return _Part()


@attrs.define
class _Part:
    """The result of one part of a poll.

    Attributes:
        faults: what was asked for, and why there was no answer.
        left_out: sentences about what part of the answer is not shown.
        answered: whether the server replied to it at all.
    """

    faults: list[tuple[str, SourceError]] = attrs.field(factory=list)
    left_out: list[str] = attrs.field(factory=list)
    answered: bool = False


class ExpositionPoll:
    """Polls an exposition endpoint."""

    def __init__(self, source: Exposition, metrics: Metrics) -> None:
        self._source = source
        self._metrics = metrics

    async def ask(self) -> str | None:
        """Scrape it; thousands of series are named in slices, between which other tasks run."""
        skipped: list[int] = []
        samples = await self._source.fetch(skipped)
        kept = samples[:MAX_SERIES]
        values: dict[str, float | None] = {}
        for start in range(0, len(kept), _SLICE):
            values |= sample_values(kept[start : start + _SLICE])
            await asyncio.sleep(0)
        self._metrics.update("exposition", values)
        notes = _series_left_out(len(samples) - len(kept))
        if skipped:
            notes.append(
                f"{len(skipped)} lines are left out, the first of them line {skipped[0]}:"
                f" they have more than {MAX_LINE} characters."
            )
        return " ".join(notes) or None


class AlertmanagerPoll:
    """Polls an Alertmanager."""

    def __init__(self, source: Alertmanager, alerts: Alerts) -> None:
        self._source = source
        self._alerts = alerts

    async def ask(self) -> str | None:
        """Ask for its alerts."""
        listed = await self._source.alerts()
        refused = self._alerts.poll("alertmanager", listed)
        return " ".join(_alerts_left_out(refused + listed.dropped)) or None


def _alerts_left_out(count: int) -> list[str]:
    notes = f"{count} alerts are left out: at most {MAX_ALERTS} of one source are kept."
    return [notes] if count else []


def _series_left_out(count: int) -> list[str]:
    notes = f"{count} series are left out: at most {MAX_SERIES} of one source are kept."
    return [notes] if count else []
