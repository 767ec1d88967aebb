"""Figures of answers that have ended: histograms by model, and who used what. Nothing per token."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

import attrs

from streaming_api.answer_record import AnswerRecord, Used

FIRST_TOKEN_BOUNDS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    30.0, 60.0,
)  # fmt: skip
PER_TOKEN_BOUNDS: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
)  # fmt: skip
DURATION_BOUNDS: Final = tuple(0.01 * 2**power for power in range(14))
TOKEN_BOUNDS: Final = tuple(float(4**power) for power in range(14))
OTHER: Final = "other"
"""The label of every model that is not on the upstream's list."""
MOST_MODELS: Final = 50
_FAILURES: Final = ("error", "incomplete")
"""Outcomes that are counted from 0 on: of what begins at 1, Prometheus sees no increase."""
STATUSES: Final = (
    "2xx", "3xx", "400", "401", "403", "404", "408", "413", "422", "429", "4xx", "500", "502",
    "503", "504", "5xx", "none",
)  # fmt: skip
_DAY: Final = 86_400
_TRACE_ID: Final = 32
"""Hexadecimal digits of a trace's id."""


class Distribution:
    """Values counted by bound, with the trace of the newest in each bucket.

    In blocks of memory that are made once (see `streaming_api.telemetry.recent`).
    """

    __slots__ = ("_ended", "_traces", "_values", "bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        buckets = len(bounds) + 1
        self.bounds = bounds
        self.counts = array("q", [0]) * buckets
        self.sum = 0.0
        self._traces = bytearray(_TRACE_ID * buckets)
        self._values = array("d", [0.0]) * buckets
        self._ended = array("d", [0.0]) * buckets

    def observe(self, value: float, record: AnswerRecord) -> None:
        """Count a value that belongs to an answer."""
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.sum += value
        self._traces[_TRACE_ID * index : _TRACE_ID * (index + 1)] = record.trace.trace_id.encode()
        self._values[index], self._ended[index] = value, record.ended

    @property
    def exemplars(self) -> list[tuple[str, float, float] | None]:
        """Trace, value and Unix time of the newest in each bucket; None where there is none."""
        return [
            (self._traces[_TRACE_ID * index : _TRACE_ID * (index + 1)].decode(), value, ended)
            if count
            else None
            for index, (count, value, ended) in enumerate(
                zip(self.counts, self._values, self._ended, strict=True)
            )
        ]


def _first() -> Distribution:
    return Distribution(FIRST_TOKEN_BOUNDS)


@attrs.define
class KeyUsage:
    """What one key has used since the start, and today (UTC)."""

    answers: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    day: int = 0
    today: Counter[str] = attrs.field(factory=Counter)

    def add(self, record: Used) -> None:
        """Count an answer, or a request that was passed on."""
        if (day := int(record.ended) // _DAY) != self.day:
            self.day, self.today = day, Counter()
        self.answers += 1
        self.failed += record.failed
        self.input_tokens += record.input_tokens or 0
        self.output_tokens += record.output_tokens
        self.today.update(
            answers=1, failed=int(record.failed), output_tokens=record.output_tokens,
            input_tokens=record.input_tokens or 0,
        )  # fmt: skip

    def as_json(self) -> dict[str, object]:
        """Return the figures as ``/streaming/usage`` shows them."""
        is_today = self.day == int(time.time()) // _DAY
        names = ("answers", "failed", "input_tokens", "output_tokens")
        today = {name: self.today[name] if is_today else 0 for name in names}
        return {**{name: getattr(self, name) for name in names}, "today": today}


class AnswerFigures:
    """Histograms by model, statuses of the upstream, usage by key.

    Attributes:
        by_key: usage by the name of the key; ``""`` without keys.
    """

    def __init__(self) -> None:
        self.first_token: defaultdict[str, Distribution] = defaultdict(_first)
        self.per_token: defaultdict[str, Distribution] = defaultdict(
            lambda: Distribution(PER_TOKEN_BOUNDS)
        )
        self.duration: defaultdict[tuple[str, str], Distribution] = defaultdict(
            lambda: Distribution(DURATION_BOUNDS)
        )
        self.tokens: defaultdict[tuple[str, str], Distribution] = defaultdict(
            lambda: Distribution(TOKEN_BOUNDS)
        )
        self.queue = _first()
        self.statuses: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))
        self.by_key: defaultdict[str, KeyUsage] = defaultdict(KeyUsage)
        self._models: set[str] = set()
        self._begin_failures(OTHER)

    def know_models(self, names: Iterable[str]) -> None:
        """Use the upstream's models as labels, at most `MOST_MODELS` ever."""
        for name in names:
            if name not in self._models and len(self._models) < MOST_MODELS:
                self._models.add(name)
                self._begin_failures(name)

    def _begin_failures(self, model: str) -> None:
        for outcome in _FAILURES:
            self.duration[model, outcome] = Distribution(DURATION_BOUNDS)

    def model(self, name: str) -> str:
        """Return the label of a model."""
        return name if name in self._models else OTHER

    def add(self, record: AnswerRecord, outcome: str) -> None:
        """Count an answer that has ended."""
        model = self.model(record.answered)
        if model == OTHER:
            model = self.model(record.asked)
        self.queue.observe(record.queued, record)
        if record.first is not None:
            self.first_token[model].observe(record.first, record)
        if (per_token := record.per_token) is not None:
            self.per_token[model].observe(per_token, record)
        self.duration[model, outcome].observe(record.seconds, record)
        if record.input_tokens is not None:
            self.tokens[model, "input"].observe(record.input_tokens, record)
        if record.output_tokens:
            self.tokens[model, "output"].observe(record.output_tokens, record)
        self.statuses[_status(record.status)] += 1
        self.by_key[record.key].add(record)


def _status(status: int | None) -> str:
    if status is None:
        return "none"
    return str(status) if str(status) in STATUSES else f"{min(max(status // 100, 2), 5)}xx"
