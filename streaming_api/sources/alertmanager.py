"""An Alertmanager: the webhook that it sends and its API; knows nothing of routes or topics."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import aiohttp
import attrs
import orjson

from streaming_api.sources.fetch import MAX_JSON_BYTES, TIMEOUT, Reply, fetch, parse_json
from streaming_api.sources.prometheus import MAX_ALERTS
from streaming_api.sources.values import (
    Alert,
    AlertList,
    SourceError,
    Suppression,
    make_alert,
    parse_time,
    texts,
    web_address,
)
from streaming_api.text import one_line

MAX_PROBLEMS = 20
"""Problems of one webhook that are listed one by one."""

MOST_VALUES = 1_000_000
"""Commas, colons and brackets allowed in one webhook: its memory grows with them."""

MAX_GROUP = 500
"""Characters of a group's key that identify it."""

MAX_TRUNCATED = 2**31

_WHAT = "Alertmanager's API version 2"
_ALL = "active=true&silenced=true&inhibited=true&unprocessed=true"


class WebhookError(ValueError):
    """A webhook that cannot be used.

    Attributes:
        problems: Everything that is wrong, each with its path (``alerts[2].startsAt: ...``).

    Args:
        problems: What is wrong.
        more: How many problems there are beside these.
    """

    def __init__(self, problems: list[str], more: int = 0) -> None:
        left_out = len(problems) - MAX_PROBLEMS + more
        tail = [f"and {left_out} more"] if left_out > 0 else []
        self.problems = tuple(problems[:MAX_PROBLEMS] + tail)
        super().__init__("; ".join(self.problems))


@attrs.frozen
class Webhook:
    """The alerts that one webhook reports.

    Attributes:
        alerts: those that can be read.
        group: the group that they belong to, as text that identifies it.
        truncated: alerts of the group that Alertmanager itself left out (its `max_alerts`).
        problems: what is wrong with those that cannot be read, each with its path.
        unread: the number of alerts that cannot be read.
    """

    alerts: tuple[Alert, ...]
    group: str = ""
    truncated: int = 0
    problems: tuple[str, ...] = ()
    unread: int = 0


class Alertmanager:
    """Asks one Alertmanager for its alerts.

    Args:
        base_url: With the path prefix, if it has one: ``http://host:9093``.
        session: From `open_session`; the caller owns it.
        timeout: Seconds that one call may take.
    """

    def __init__(
        self, base_url: str, session: aiohttp.ClientSession, *, timeout: float = TIMEOUT
    ) -> None:
        self._url = f"{base_url.rstrip('/')}/api/v2/alerts?{_ALL}"
        self._base_url = base_url
        self._session = session
        self._timeout = timeout

    async def alerts(self) -> AlertList:
        """Return the firing alerts; those that are silenced or inhibited are marked as such.

        Raises:
            SourceError: There is no answer, or it is not Alertmanager's.
        """
        reply = await fetch(
            self._session, self._url, max_bytes=MAX_JSON_BYTES, seconds=self._timeout
        )
        answer = parse_json(reply, _WHAT)
        if not isinstance(answer, list):
            raise _misshapen(reply, "it is not a list")
        problems: list[str] = []
        alerts = [
            _alert(item, f"[{index}]", problems, "alertmanager", self._base_url)
            for index, item in enumerate(answer[:MAX_ALERTS])
        ]
        if problems:
            raise _misshapen(reply, problems[0])
        return AlertList(tuple(filter(None, alerts)), max(0, len(answer) - MAX_ALERTS))


def parse_webhook(body: bytes) -> Webhook:
    """Return what a webhook of version 4 reports; unknown fields are ignored.

    Alertmanager never sends again what was refused: an alert that cannot be read loses nothing but
    itself. The caller limits the size of the body.

    Raises:
        WebhookError: It is no webhook, or nothing of it can be read; lists all that is wrong.
    """
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > MOST_VALUES:
        raise WebhookError([f"the body holds more than {MOST_VALUES} commas, colons and brackets"])
    try:
        payload: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise WebhookError([f"the body is not JSON: {one_line(str(error), 100)}"]) from None
    if not isinstance(payload, dict):
        raise WebhookError(["the body is not a JSON object"])
    problems: list[str] = []
    if payload.get("version") != "4":
        found = one_line(repr(payload.get("version")), 40)
        problems.append(f'version: is {found}, should be "4"')
    items = payload.get("alerts")
    if not isinstance(items, list):
        problems.append("alerts: should be a list")
        items = []
    address = payload.get("externalURL")
    manager_url = address if isinstance(address, str) else None
    is_one = not problems
    alerts: list[Alert] = []
    more = 0
    for index, item in enumerate(items):
        wrong: list[str] = []
        alert = _alert(item, f"alerts[{index}]", wrong, "webhook", manager_url)
        if alert is not None:
            alerts.append(alert)
        room = MAX_PROBLEMS - len(problems)
        problems += wrong[:room]
        more += max(0, len(wrong) - room)
    if problems and not (is_one and alerts):
        raise WebhookError(problems, more)
    group, truncated = payload.get("groupKey"), payload.get("truncatedAlerts")
    if not isinstance(truncated, int) or not 0 < truncated < MAX_TRUNCATED:
        truncated = 0
    return Webhook(
        tuple(alerts),
        one_line(group, MAX_GROUP) if isinstance(group, str) else "",
        truncated,
        tuple(problems),
        len(items) - len(alerts),
    )


class _Fields:
    """Reads the fields of one JSON object and notes what is wrong with them."""

    def __init__(self, item: dict[str, object], path: str, problems: list[str]) -> None:
        self._item = item
        self._path = path
        self._problems = problems

    def wrong(self, name: str, should: str) -> None:
        """Note that a field is missing or is not what it should be."""
        found = "is missing" if name not in self._item else "is wrong"
        self._problems.append(f"{self._path}.{name}: {found}, should be {should}")

    def texts(self, name: str) -> dict[str, str]:
        """Return labels or annotations."""
        try:
            return texts(self._item.get(name))
        except ValueError:
            self.wrong(name, "an object of texts")
            return {}

    def text(self, name: str) -> str | None:
        """Return an optional text."""
        value = self._item.get(name)
        if value is not None and not isinstance(value, str):
            self.wrong(name, "a text")
            return None
        return value

    def time(self, name: str) -> datetime | None:
        """Return a time; None for Go's zero time."""
        value = self._item.get(name)
        try:
            if isinstance(value, str):
                return parse_time(value)
        except ValueError:
            pass
        self.wrong(name, "an RFC 3339 time such as 2026-01-31T12:00:00.000Z")
        return None


def _alert(
    item: object,
    path: str,
    problems: list[str],
    source: Literal["alertmanager", "webhook"],
    manager_url: str | None,
) -> Alert | None:
    """Return one alert, or None after noting what is wrong with it."""
    if not isinstance(item, dict):
        problems.append(f"{path}: should be an object")
        return None
    before = len(problems)
    fields = _Fields(item, path, problems)
    labels = fields.texts("labels")
    annotations = {} if item.get("annotations") is None else fields.texts("annotations")
    generator_url = fields.text("generatorURL")
    fingerprint = fields.text("fingerprint")
    starts_at = fields.time("startsAt")
    resolved = _is_resolved(item, fields, source)
    ends_at = fields.time("endsAt") if resolved else None
    if len(problems) == before and starts_at is None:
        fields.wrong("startsAt", "when it began, and not the zero time")
    if len(problems) > before or starts_at is None:
        return None
    alert = make_alert(
        labels=labels,
        annotations=annotations,
        state="resolved" if resolved else "firing",
        starts_at=starts_at,
        ends_at=ends_at,
        generator_url=generator_url,
        source=source,
        fingerprint=fingerprint,
    )
    suppressed = _suppression(item.get("status"))
    return attrs.evolve(alert, suppressed=suppressed, manager_url=web_address(manager_url))


def _suppression(status: object) -> Suppression | None:
    """Return why nobody is notified: a silence, which somebody set, counts before an inhibition."""
    match status:
        case {"state": "suppressed", "silencedBy": [_, *_]}:
            return "silenced"
        case {"state": "suppressed"}:
            return "inhibited"
        case _:
            return None


def _is_resolved(item: dict[str, object], fields: _Fields, source: str) -> bool:
    """Return whether the alert is over; the API lists only live ones, under other status words."""
    match item.get("status"), source:
        case ("firing" | "resolved") as status, "webhook":
            return status == "resolved"
        case {"state": "active" | "unprocessed" | "suppressed"}, "alertmanager":
            return False
        case _:
            fields.wrong("status", 'what Alertmanager calls "firing", "resolved" or a state')
            return False


def _misshapen(reply: Reply, why: str) -> SourceError:
    reason = f"{reply.url} served JSON that is not {_WHAT} ({why}): check what is there."
    return SourceError(reason, "format")
