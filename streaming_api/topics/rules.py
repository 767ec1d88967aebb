"""Our own alerts: upstream down, connections near a limit, slow deliveries. Pure.

A rule fires as soon as its condition holds, and resolves once it has not held for `HOLD`
evaluations in a row: what hovers around a threshold is one alert, not many.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import attrs

from streaming_api.sources.values import Alert, AlertList, make_alert

HOLD: Final = 5
"""Evaluations in a row without the condition, one per poll interval, before a rule resolves."""
NEAR_LIMIT: Final = 0.9
SLOW_SECONDS: Final = 0.1
UPSTREAMS: Final = ("gateway", "embedded_model")


@attrs.frozen
class Readings:
    """What a process knows about itself, for its own alerts.

    Attributes:
        connections: ``(open, limit)`` by transport.
        delivery_p99_seconds: over the last minute, by transport; None without traffic.
        worker: the name of the process, if it is one of several.
    """

    connections: Mapping[str, tuple[int, int]] = attrs.field(factory=dict)
    delivery_p99_seconds: Mapping[str, float | None] = attrs.field(factory=dict)
    worker: str = ""


@attrs.frozen
class _Condition:
    """A condition that holds now, as its alert will show it."""

    labels: Mapping[str, str]
    summary: str
    description: str


@attrs.define
class _Firing:
    alert: Alert
    missed: int = 0


class Rules:
    """The state of our own rules."""

    def __init__(self) -> None:
        self._firing: dict[tuple[str, ...], _Firing] = {}

    def evaluate(self, readings: Iterable[Readings], states: Mapping[str, str]) -> AlertList:
        """Return the alerts that fire now.

        An alert keeps its first words: figures that change each second are metrics.

        Args:
            readings: what each process knows about itself.
            states: by component, as the status topic has them.
        """
        conditions = itertools.chain(_down(states), *map(_conditions, readings))
        holding = {_key(condition.labels): condition for condition in conditions}
        for key, condition in holding.items():
            firing = self._firing.get(key)
            if firing is None:
                self._firing[key] = _Firing(_alert(condition))
            else:
                firing.missed = 0
        for key, firing in tuple(self._firing.items()):
            if key not in holding:
                firing.missed += 1
                if firing.missed >= HOLD:
                    del self._firing[key]
        return AlertList(tuple(firing.alert for firing in self._firing.values()))

    def recall(self, alerts: Iterable[Alert]) -> None:
        """Go on with alerts that fire already, as another process has left them."""
        self._firing = {_key(alert.labels): _Firing(alert) for alert in alerts}


def _key(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(labels.values()))


def _down(states: Mapping[str, str]) -> Iterator[_Condition]:
    for component in UPSTREAMS:
        if states.get(component) == "down":
            yield _Condition(
                {"alertname": "UpstreamDown", "severity": "critical", "component": component},
                "No answers can be had: the upstream is down.",
                f"The status of {component} says why.",
            )


def _conditions(readings: Readings) -> Iterator[_Condition]:
    whose = {"worker": readings.worker} if readings.worker else {}
    for kind, (used, limit) in readings.connections.items():
        if used > NEAR_LIMIT * limit:
            yield _Condition(
                {"alertname": "ConnectionsNearLimit", "severity": "warning", "transport": kind}
                | whose,
                f"More than {NEAR_LIMIT:.0%} of the {limit} {kind} connections are taken.",
                "Further clients will soon be refused: raise the limit, or start another server.",
            )
    for kind, p99 in readings.delivery_p99_seconds.items():
        if p99 is not None and p99 > SLOW_SECONDS:
            yield _Condition(
                {"alertname": "DeliveryLatencyHigh", "severity": "warning", "transport": kind}
                | whose,
                f"One in a hundred {kind} messages takes longer than {SLOW_SECONDS * 1000:.0f} ms.",
                "Look at this machine's load, and at clients that read slowly"
                " (/streaming/connections).",
            )


def _alert(condition: _Condition) -> Alert:
    return make_alert(
        labels=condition.labels,
        annotations={"summary": condition.summary, "description": condition.description},
        state="firing",
        starts_at=datetime.now(UTC),
        source="streaming-api",
    )
