"""The alerts topic: what fires or is pending, from several sources at once. Does no I/O.

The same alert may be reported by Prometheus, by its Alertmanager and by that one's webhook:
labels give it the same fingerprint everywhere, so it is one alert here, with the sources that
report it now. Labels that Prometheus adds when it sends an alert (``external_labels``) do not
count for that. It is over when the last of them says so. Where Alertmanager reports it, it decides
whether the alert is silenced or inhibited, and its words are shown.

How an alert ends depends on its source:

* A **poll** (``prometheus``, ``alertmanager``, ``streaming-api``) always lists everything: what
  is no longer listed is resolved. Unless the list was cut short, or its server warns that it is
  partial: then what is missing may only have been left out, and a wrong "resolved" is worse than
  a late one.
* The **webhook** reports an alert when its group changes and again each ``repeat_interval`` (4
  hours unless configured), and never says when a firing one will end: Alertmanager blanks
  ``endsAt`` until it is over. "Resolved" comes reliably, because Alertmanager repeats what was not
  accepted; but not at all with ``send_resolved: false``. So an alert that has not been repeated for
  `WEBHOOK_KEPT` is taken as resolved, which leaves room for a ``repeat_interval`` of a whole day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

import attrs
import orjson

from streaming_api.engine.stream import Policy
from streaming_api.sources.values import Alert, AlertList, AlertSource, fingerprint_of, format_time
from streaming_api.topics.reported_alerts import MAX_ALERTS, Reported, ReportedAlerts
from streaming_api.topics.shown_alert import ShownAlert
from streaming_api.topics.topic import Json, Note, Topic, ignore
from streaming_api.wire.messages import ALERT

WEBHOOK_KEPT: Final = 25 * 3600.0
"""Seconds without repetition after which an alert of the webhook is taken as resolved."""


class _Changes:
    """What one poll or webhook changed: identities, each with the alert if it is over."""

    def __init__(self) -> None:
        self.touched: dict[str, Alert | None] = {}
        self.refused = 0


class Alerts(Topic):
    """What fires or is pending, by source and identity.

    The identity of an alert is the fingerprint of its labels without Prometheus' external ones,
    and viewers know it as the alert's fingerprint.

    Args:
        clock: returns the monotonic time in seconds.
    """

    name: ClassVar[str] = "alerts"
    message_type: ClassVar[str] = ALERT
    policy: ClassVar[Policy] = Policy.HISTORY

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._sources: dict[AlertSource, ReportedAlerts] = {}
        self._shown: dict[str, ShownAlert] = {}
        self._clock = clock
        self._external: Mapping[str, str] = {}
        self._left_out: dict[str, int] = {}  # by the webhook's group
        self.noted: Note = ignore

    def poll(self, source: AlertSource, listed: AlertList) -> int:
        """Replace what a source reports by what it lists now.

        Of labels that are listed twice, the first entry counts.

        Returns:
            The number of alerts that were refused because there is no room for them.
        """
        changes = _Changes()
        first: dict[str, Alert] = {}
        for alert in listed.alerts:
            first.setdefault(self._identity(alert), alert)
        if not listed.dropped and not listed.warnings:
            for identity, kept in tuple(self._of(source).kept.items()):
                if identity not in first:
                    self._resolve(source, _over(kept.alert), changes)
        for alert in first.values():
            self._take(source, alert, changes)
        return self._report(source, changes)

    def webhook(self, alerts: Iterable[Alert], group: str = "", missing: int = 0) -> int:
        """Take over what Alertmanager's webhook reports; all else stays as it is.

        Args:
            alerts: the alerts of one group.
            group: the group.
            missing: alerts of the group that did not come, or could not be read.

        Returns:
            The number of alerts that were refused because there is no room for them.
        """
        changes = _Changes()
        for alert in alerts:
            self._take("webhook", alert, changes)
        refused = self._report("webhook", changes)
        self._left_out.pop(group, None)
        if missing + refused:
            self._left_out[group] = missing + refused
            if len(self._left_out) > MAX_ALERTS:
                del self._left_out[next(iter(self._left_out))]
        return refused

    @property
    def left_out(self) -> int:
        """Number of alerts of the webhook's groups not shown, by each group's last report."""
        return sum(self._left_out.values())

    @left_out.setter
    def left_out(self, count: int) -> None:
        """Set it as another process has counted it."""
        self._left_out = {"": count} if count else {}

    def expire(self) -> None:
        """Resolve what the webhook has not repeated for `WEBHOOK_KEPT`."""
        changes = _Changes()
        before = self._clock() - WEBHOOK_KEPT
        for kept in tuple(self._of("webhook").kept.values()):
            if kept.seen < before:
                self._resolve("webhook", _over(kept.alert), changes)
        self._report("webhook", changes)

    def snapshot(self) -> bytes:
        """Return ``{event, alerts}``, and ``left_out`` if alerts of the webhook are left out."""
        alerts = b",".join(shown.payload() for shown in self._shown.values())
        more = b',"left_out":{"webhook":%d}' % self.left_out if self._left_out else b""
        return b'{"event":"snapshot","alerts":[%b]%b}' % (alerts, more)

    def fold(self, data: Json) -> None:
        """See `Topic`."""
        if data["event"] == "snapshot":
            self._restore(map(ShownAlert.read, data["alerts"]))
            return
        alert = ShownAlert.read(data["alert"])
        if data["event"] == "resolved":
            self._shown.pop(alert.alert.fingerprint, None)
        else:
            self._shown[alert.alert.fingerprint] = alert

    def _restore(self, alerts: Iterable[ShownAlert]) -> None:
        """Replace everything; each source counts as having said what all of them say together."""
        self._sources.clear()
        self._shown = {shown.alert.fingerprint: shown for shown in alerts}
        for identity, shown in self._shown.items():
            for source in shown.sources:
                alert = shown.as_of(source)
                size = len(orjson.dumps(attrs.asdict(alert)))
                self._of(source).put(identity, Reported(alert, size, self._clock()))

    def memory(self) -> dict[str, Any]:
        """Return what is known besides what viewers are shown, as JSON has it.

        ``ages`` are the seconds since the webhook repeated each alert, ``groups`` what each of its
        groups left out, ``external`` the external labels.
        """
        now = self._clock()
        kept = self._of("webhook").kept
        ages = {identity: round(now - each.seen) for identity, each in kept.items()}
        return {"ages": ages, "groups": self._left_out, "external": self._external}

    def recall(self, memory: Json) -> None:
        """Take over what `memory` has returned in another process."""
        now = self._clock()
        for identity, kept in self._of("webhook").kept.items():
            kept.seen = now - memory["ages"].get(identity, 0)
        self._left_out = dict(memory["groups"])
        self._external = dict(memory["external"])

    def of(self, source: AlertSource) -> list[Alert]:
        """Return the alerts that a source reports now."""
        return [kept.alert for kept in self._of(source).kept.values()]

    def counts(self) -> dict[str, int]:
        """Return how many fire and how many are pending, without silenced or inhibited ones."""
        states = [shown.alert.state for shown in self._shown.values() if not shown.alert.suppressed]
        return {"firing": states.count("firing"), "pending": states.count("pending")}

    def set_external_labels(self, labels: Mapping[str, str]) -> None:
        """Recognize alerts that Prometheus has sent with these labels as the ones that it has.

        What is known is sorted anew, and viewers are sent the whole list.
        """
        if labels == self._external:
            return
        self._external = dict(labels)
        before, self._shown = self._shown, {}
        sources = tuple(self._sources.values())
        for known in sources:
            for identity, kept in tuple(known.kept.items()):
                known.drop(identity)
                known.put(self._identity(kept.alert), kept)
        for identity in dict.fromkeys(identity for known in sources for identity in known.kept):
            if (shown := self._together(identity)) is not None:
                self._shown[identity] = shown
        if self._shown != before:
            self.publish(self.snapshot(), urgent=True)

    def _identity(self, alert: Alert) -> str:
        added = self._external.items() & alert.labels.items()
        if not added:
            return alert.fingerprint
        own = {name: text for name, text in alert.labels.items() if (name, text) not in added}
        return fingerprint_of(own)

    def _of(self, source: AlertSource) -> ReportedAlerts:
        known = self._sources.get(source)
        if known is None:
            known = self._sources[source] = ReportedAlerts()
        return known

    def _take(self, source: AlertSource, alert: Alert, changes: _Changes) -> None:
        if alert.state == "resolved":
            self._resolve(source, alert, changes)
            return
        known, identity = self._of(source), self._identity(alert)
        before = known.kept.get(identity)
        if before is not None and before.alert == alert:
            before.seen = self._clock()
            return
        size = len(orjson.dumps(attrs.asdict(alert)))
        if not known.has_room(identity, size):
            changes.refused += 1
            return
        known.put(identity, Reported(alert, size, self._clock()))
        changes.touched[identity] = None

    def _resolve(self, source: AlertSource, alert: Alert, changes: _Changes) -> None:
        """Note that a source says that an alert is over; ignore one that it never reported."""
        known, identity = self._of(source), self._identity(alert)
        if identity in known.kept:
            known.drop(identity)
            changes.touched[identity] = attrs.evolve(alert, fingerprint=identity)

    def _report(self, source: AlertSource, changes: _Changes) -> int:
        if changes.refused:
            self._of(source).log_refusal(source, changes.refused, self._clock())
        messages: list[bytes] = []
        urgent = False
        for identity, over in changes.touched.items():
            before = self._shown.get(identity)
            now = self._together(identity)
            if now == before:
                continue
            if now is not None:
                self._shown[identity] = now
                state, payload = now.alert.state, now.payload()
            else:
                assert before is not None
                assert over is not None
                del self._shown[identity]
                state, payload = over.state, ShownAlert(over, before.sources).payload()
            messages.append(b'{"event":"%b","alert":%b}' % (state.encode(), payload))
            if before is None or before.alert.state != state:
                urgent = True
                self._note(now.alert if now is not None else over)
        self.publish(*messages, urgent=urgent)
        return changes.refused

    def _note(self, alert: Alert | None) -> None:
        if alert is not None and alert.state != "pending" and not alert.suppressed:
            labels = alert.labels
            self.noted(alert.state, labels.get("alertname", ""), labels.get("severity"))

    def _together(self, identity: str) -> ShownAlert | None:
        """Combine what all sources say of an alert; return None if none reports it any more."""
        found = {
            source: kept.alert
            for source, known in self._sources.items()
            if (kept := known.kept.get(identity)) is not None
        }
        return ShownAlert.combined(identity, found) if found else None


def _over(alert: Alert) -> Alert:
    """Return the alert as one that ends now."""
    return attrs.evolve(alert, state="resolved", ends_at=format_time(datetime.now(UTC)))
