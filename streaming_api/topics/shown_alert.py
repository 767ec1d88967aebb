"""An alert as viewers know it: what several sources report, combined. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import orjson

from streaming_api.sources.values import Alert, AlertSource
from streaming_api.topics.topic import Json

_PRECEDENCE: Final[tuple[AlertSource, ...]] = (
    "alertmanager", "webhook", "prometheus", "streaming-api",
)  # fmt: skip
"""The order in which sources are preferred for the words of an alert that several report."""


@attrs.frozen
class ShownAlert:
    """An alert as the viewers know it: all sources combined."""

    alert: Alert
    sources: tuple[AlertSource, ...]

    def payload(self) -> bytes:
        """Return its JSON: ``source`` gives the words, ``sources`` are all that report it."""
        return orjson.dumps({**attrs.asdict(self.alert), "sources": self.sources})

    @classmethod
    def read(cls, data: Json) -> ShownAlert:
        """Return the alert that this JSON is; fields of a later version are ignored."""
        names = [field.name for field in attrs.fields(Alert)]
        return cls(Alert(**{name: data[name] for name in names}), tuple(data["sources"]))

    def as_of(self, source: AlertSource) -> Alert:
        """Return it as one source reports it, as far as what all of them say shows that."""
        suppressed = self.alert.suppressed if source == "alertmanager" else None
        return attrs.evolve(self.alert, source=source, suppressed=suppressed)

    @classmethod
    def combined(cls, fingerprint: str, reports: Mapping[AlertSource, Alert]) -> ShownAlert:
        """Return what the sources that report an alert say of it together."""
        found = {source: reports[source] for source in _PRECEDENCE if source in reports}
        alerts = tuple(found.values())
        fires = any(alert.state == "firing" for alert in alerts)
        whole = attrs.evolve(
            alerts[0],
            fingerprint=fingerprint,
            state="firing" if fires else "pending",
            generator_url=next(filter(None, (a.generator_url for a in alerts)), None),
            manager_url=_manager_url(found),
        )
        return cls(whole, tuple(found))


def _manager_url(found: Mapping[AlertSource, Alert]) -> str | None:
    """Return Alertmanager's own address, meant for people; ours may be for us only."""
    for source in ("webhook", "alertmanager"):
        if source in found and found[source].manager_url:
            return found[source].manager_url
    return None
