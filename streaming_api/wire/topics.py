"""The one table of topics. A new topic is a row here and a module in `streaming_api.topics`."""

from __future__ import annotations

from typing import Final

import attrs

from streaming_api.wire.messages import ALERT, METRICS, STATUS


@attrs.frozen
class TopicRow:
    """One topic, as commands, routes, settings and the contract name it.

    Attributes:
        message_type: of its messages; the first row of a type is what a command means by it.
        setting: of the configuration; switches it on.
    """

    name: str
    message_type: str
    setting: str


TOPICS: Final = (
    TopicRow("metrics", METRICS, "streaming_metrics_enabled"),
    TopicRow("alerts", ALERT, "streaming_alerts_enabled"),
    TopicRow("status", STATUS, "streaming_status_enabled"),
    TopicRow("history", METRICS, "streaming_metrics_enabled"),
)


def names_of(message_type: str) -> tuple[str, ...]:
    """Return the topics that speak in this message type, the one that it means alone first."""
    return tuple(row.name for row in TOPICS if row.message_type == message_type)
