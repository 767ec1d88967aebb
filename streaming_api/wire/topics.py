"""The one table of topics. A new one is a row here, a module in `topics`, a field in its `Desk`."""

from __future__ import annotations

from typing import Final

import attrs

from streaming_api.wire.messages import ALERT, METRICS, STATUS


@attrs.frozen
class TopicRow:
    """One topic, as commands, routes, settings and the contract name it.

    Attributes:
        message_type: that of its messages; a command that names a type means its first row.
        setting: the setting that enables it.
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
    """Return the topics of this message type, first the one that the type alone stands for."""
    return tuple(row.name for row in TOPICS if row.message_type == message_type)
