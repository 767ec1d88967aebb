"""Desk: where the changes of the topics are made. Does no I/O.

Alone, a process shows what it makes: the topics of the desk are those that viewers watch. With
several processes one of them makes the topics, and all show what the store has put in order: the
desk then has topics of its own, which pass their changes on. They are a copy of what is shown,
ahead of it by what is on its way: whenever that is in doubt, the desk begins anew.
"""

from __future__ import annotations

import attrs
import orjson

from streaming_api.topics.alerts import Alerts
from streaming_api.topics.history import History
from streaming_api.topics.metrics import Metrics
from streaming_api.topics.status import Status
from streaming_api.topics.topic import Topic


@attrs.define(eq=False)
class Desk:
    """The state of every topic."""

    metrics: Metrics = attrs.field(factory=Metrics)
    alerts: Alerts = attrs.field(factory=Alerts)
    status: Status = attrs.field(factory=Status)
    history: History = attrs.field(factory=History)

    def __attrs_post_init__(self) -> None:
        self.alerts.noted = self.status.noted = self.history.mark

    def topics(self) -> tuple[Topic, ...]:
        """Return the topics."""
        return self.metrics, self.alerts, self.status, self.history

    def begin(self, shown: Desk) -> None:
        """Go on from what is shown."""
        for made, topic in zip(self.topics(), shown.topics(), strict=True):
            made.fold(orjson.loads(topic.dump()))
