"""The values that sources yield, and the one way they fail; pure, knows nothing of HTTP."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

import attrs

from streaming_api.text import one_line

MAX_TEXT = 1024
"""Characters of a label or annotation that are kept; a longer text ends in an ellipsis."""

FaultCode = Literal[
    "refused",  # nothing listens there
    "dns",  # the name does not resolve
    "tls",  # no trusted encrypted connection
    "timeout",  # no complete answer in time
    "disconnected",  # the connection broke, or the body ended early
    "unreachable",  # any other failure to connect
    "redirect",  # a 3xx, which is never followed
    "status",  # a 4xx or 5xx
    "too_large",  # more bytes than are read
    "format",  # an answer, but not one in the format that was asked for
    "query",  # this one PromQL query is at fault, not the source
    "system",  # this machine does not give the figure
]

AlertState = Literal["firing", "pending", "resolved"]
AlertSource = Literal["prometheus", "alertmanager", "webhook", "streaming-api"]
Suppression = Literal["silenced", "inhibited"]


class SourceError(Exception):
    """A source did not give its values.

    Attributes:
        reason: One line for a human: what happened, and what to check. May quote the peer.
        code: What kind of failure it is, for programs.
    """

    def __init__(self, reason: str, code: FaultCode) -> None:
        self.reason = reason
        self.code: FaultCode = code
        super().__init__(reason, code)

    def __str__(self) -> str:
        return self.reason


@attrs.frozen
class Sample:
    """One value of one time series.

    Attributes:
        name: The metric's name; empty where PromQL drops it (``sum(...)``).
        labels: The labels without `__name__`; hostile text, at most `MAX_TEXT` characters each.
        value: The value; None where there is no one number: a histogram, or a text.
    """

    name: str
    labels: Mapping[str, str]
    value: float | None


@attrs.frozen
class Alert:
    """One alert, whichever way it came; `make_alert` builds it.

    Attributes:
        fingerprint: 16 hexadecimal digits, the same for the same labels.
        labels: What identifies it; hostile text.
        annotations: What describes it; hostile text.
        state: Whether it is firing, waits for its rule's `for`, or is over.
        starts_at: RFC 3339, UTC, milliseconds, `Z`.
        ends_at: The same; None until it is over.
        generator_url: Where it came from; only ever an http or https URL.
        source: Where it was reported.
        suppressed: Why Alertmanager sends no notification of it; None where it does.
        manager_url: The page of the Alertmanager that reported it; only ever http or https.
    """

    fingerprint: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    state: AlertState
    starts_at: str
    ends_at: str | None
    generator_url: str | None
    source: AlertSource
    suppressed: Suppression | None = None
    manager_url: str | None = None


@attrs.frozen
class AlertList:
    """The alerts of one poll.

    Attributes:
        alerts: Those that were listed.
        dropped: How many more were left out because there were too many.
        warnings: What the server says about the list, such as that it is only a part.
    """

    alerts: tuple[Alert, ...]
    dropped: int = 0
    warnings: tuple[str, ...] = ()


def make_alert(
    *,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    state: AlertState,
    starts_at: datetime,
    ends_at: datetime | None = None,
    generator_url: str | None = None,
    source: AlertSource,
    fingerprint: str | None = None,
) -> Alert:
    """Build an alert: texts clipped, times in UTC, the fingerprint computed unless given.

    An `ends_at` of an alert that is not resolved is a forecast, which moves at every
    evaluation; it is left out.
    """
    over = state == "resolved" and ends_at is not None
    return Alert(
        fingerprint=clip(fingerprint) if fingerprint else fingerprint_of(labels),
        labels=clip_labels(labels),
        annotations=clip_labels(annotations),
        state=state,
        starts_at=format_time(starts_at),
        ends_at=format_time(ends_at) if over and ends_at else None,
        generator_url=web_address(generator_url),
        source=source,
    )


def clip(text: str) -> str:
    """Return the text, at most `MAX_TEXT` characters of it; a cut one ends in an ellipsis."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def clip_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the labels with every name and value clipped."""
    return {clip(name): clip(value) for name, value in labels.items()}


def texts(value: object) -> dict[str, str]:
    """Return parsed JSON as the object of texts (labels, annotations) that it is.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        message = "labels or annotations are not an object of texts"
        raise ValueError(message)
    return value


def make_sample(name: str, labels: Mapping[str, str], value: float | None) -> Sample:
    """Build a sample whose texts are bounded."""
    return Sample(clip(name), clip_labels(labels), value)


def parse_time(text: str) -> datetime | None:
    """Parse an RFC 3339 time, any number of decimals; Go's zero time is None.

    Raises:
        ValueError: It is not a time, or has no offset from UTC.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        message = f"{one_line(text, 40)!r} has no offset from UTC"
        raise ValueError(message)
    if moment.year == 1:
        return None
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        message = f"{one_line(text, 40)!r} is out of range"
        raise ValueError(message) from None


def format_time(moment: datetime) -> str:
    """Return the time as the wire has it: RFC 3339, UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def fingerprint_of(labels: Mapping[str, str]) -> str:
    """Return the fingerprint that Prometheus and Alertmanager give these labels.

    FNV-1a of 64 bits over the labels sorted by name, names and values each ended by 0xff
    (`labelSetToFingerprint` in prometheus/common).
    """
    texts = (text for name in sorted(labels) for text in (name, labels[name]))
    return _fingerprint(b"".join(text.encode() + b"\xff" for text in texts))


@functools.lru_cache(maxsize=4096)
def _fingerprint(data: bytes) -> str:
    """Hash, byte by byte; the cache makes polling the same alerts again cheap."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def web_address(url: str | None) -> str | None:
    """Return the URL if a page may link to it: ``javascript:`` and the like are dropped."""
    if url and len(url) <= 2 * MAX_TEXT and url.lower().startswith(("http://", "https://")):
        return url
    return None
