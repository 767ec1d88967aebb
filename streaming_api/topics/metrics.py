"""The metrics topic: the newest value of every series, by source. Does no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import ClassVar, Final

import orjson

from streaming_api.engine.stream import Policy
from streaming_api.sources.prometheus import QueryResult
from streaming_api.sources.values import Sample
from streaming_api.topics.topic import Json, Topic
from streaming_api.wire.messages import METRICS

MAX_SERIES: Final = 5_000
"""Number of series kept per source; a whole snapshot goes to everyone who joins."""

Values = Mapping[str, float | None]
"""Values by series; None, NaN and the infinities become ``null``, for which JSON has no number."""


class Metrics(Topic):
    """The newest values, by source and series."""

    name: ClassVar[str] = "metrics"
    message_type: ClassVar[str] = METRICS
    policy: ClassVar[Policy] = Policy.LATEST

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, dict[str, float | None]] = {}

    def update(self, source: str, values: Values) -> int:
        """Replace all values of a source; viewers are sent those that changed or are gone.

        Returns:
            The number of series that were left out because they exceed `MAX_SERIES`.
        """
        before = self._values.get(source, {})
        after = {series: _number(value) for series, value in islice(values.items(), MAX_SERIES)}
        changed = {
            series: value
            for series, value in after.items()
            if value != before.get(series) or series not in before
        }
        removed = [series for series in before if series not in after]
        if changed or removed:
            self._values[source] = after
            data = {
                "event": "changed",
                "values": {source: changed} if changed else {},
                "removed": {source: removed} if removed else {},
                **_infinite({source: changed}),
            }
            self.publish(orjson.dumps(data))
        return len(values) - len(after)

    def single(self, source: str) -> list[tuple[str, float | None]]:
        """Return the series of a source without labels: of queries, those with a single value."""
        return [
            (name, value)
            for name, value in self._values.get(source, {}).items()
            if not name.endswith("}")
        ]

    def snapshot(self) -> bytes:
        """Return ``{event, values}``."""
        event = {"event": "snapshot", "values": self._values, **_infinite(self._values)}
        return orjson.dumps(event)

    def fold(self, data: Json) -> None:
        """See `Topic`."""
        if data["event"] == "snapshot":
            self._values = {}
        for source, values in data["values"].items():
            self._values.setdefault(source, {}).update(values)
        for source, series in data.get("infinite", {}).items():
            self._values[source].update({name: float(text) for name, text in series.items()})
        for source, gone in data.get("removed", {}).items():
            for name in gone:
                self._values[source].pop(name, None)


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _infinite(values: Mapping[str, Values]) -> dict[str, dict[str, dict[str, str]]]:
    """Return which ``null`` is an infinity, as Prometheus writes it; nothing if none is."""
    found: dict[str, dict[str, str]] = {}
    for source, series in values.items():
        for name, value in series.items():
            if value is not None and math.isinf(value):
                found.setdefault(source, {})[name] = "+Inf" if value > 0 else "-Inf"
    return {"infinite": found} if found else {}


# How series are named


def query_values(name: str, result: QueryResult) -> dict[str, float | None]:
    """Return the values of one query: under its name, with labels if there are several.

    If only the metric's name tells them apart, it stands among the labels.
    """
    samples = result.samples
    if len(samples) == 1:
        return {name: samples[0].value}
    names = {sample.name for sample in samples}
    return {
        series(name, _with_name(sample) if len(names) > 1 else sample.labels): sample.value
        for sample in samples
    }


def _with_name(sample: Sample) -> Mapping[str, str]:
    return {"__name__": sample.name, **sample.labels}


def sample_values(samples: Iterable[Sample]) -> dict[str, float | None]:
    """Return the values of an exposition's samples, each under its metric as written there."""
    return {series(sample.name, sample.labels): sample.value for sample in samples}


def series(name: str, labels: Mapping[str, str]) -> str:
    """Return ``name{label="value",...}``, escaped as in Prometheus' text format."""
    if not labels:
        return name
    written = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())
    return f"{name}{{{written}}}"


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value
