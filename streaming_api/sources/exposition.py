"""An exposition endpoint, scraped: Prometheus' text format or OpenMetrics; knows no PromQL."""

from __future__ import annotations

import asyncio
import io
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import cast

import aiohttp
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_fd_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_fd_to_metric_families as parse_text
from yarl import URL

from streaming_api.sources.fetch import TIMEOUT, Reply, describe, fetch
from streaming_api.sources.values import Sample, SourceError, make_sample
from streaming_api.text import one_line

MAX_BYTES = 8 * 2**20

MAX_LINE = 16 * 2**10
"""Characters of one line: some steps of the parser grow with the square of a line's length. Longer
ones are skipped: Prometheus accepts them, and the other lines are still good."""

IN_THREAD_ABOVE = 4 * 2**10
"""Bytes above which parsing leaves the event loop: it costs about 0.3 ms per KiB."""

SLICE_SECONDS = 0.001
"""How long the parser runs before it offers the interpreter to the event loop.

Measured with 8 MiB: the loop's median lag beside the parser falls from 5 ms to 0.1 ms.
"""

PARSE_SECONDS = 10.0
"""Seconds that parsing one exposition may take; 8 MiB of ordinary lines take about 3 s."""

_OPENMETRICS = "application/openmetrics-text"
_TEXT = "text/plain"
_ACCEPT = f"{_TEXT};version=0.0.4,{_OPENMETRICS};version=1.0.0;q=0.5"

_PARSER_ERRORS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, NameError)
"""What the library raises on bad input: mostly ValueError, sometimes something else."""

_BARE_COUNTER = re.compile(r"^#[ \t]+TYPE[ \t]+(\S+)(?<!_total)[ \t]+counter[ \t]*$", re.MULTILINE)

_SAMPLE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)[ {]", re.MULTILINE)
"""A sample's name. In OpenMetrics a counter's ends in `_total`; Prometheus takes others, too."""

_TYPE = re.compile(r"#[ \t]+TYPE[ \t]+(\S+)")

_Parser = Callable[[Iterable[str]], Iterable[Metric]]
_PARSE_TEXT = cast("_Parser", parse_text)
_PARSE_OPENMETRICS = cast("_Parser", parse_openmetrics)


class Exposition:
    """Scrapes one endpoint.

    Args:
        url: Without a path, ``/metrics`` is meant.
        session: From `open_session`; the caller owns it.
        headers: Sent with each scrape, such as `Authorization`.
        timeout: Seconds that the transfer may take; parsing has its own limit.
    """

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        self.url = with_path(url)
        self._session = session
        self._headers = {"Accept": _ACCEPT, **(headers or {})}
        self._timeout = timeout

    async def fetch(self, skipped: list[int] | None = None) -> list[Sample]:
        """Scrape once.

        Args:
            skipped: Receives the numbers of the lines that were too long to be read.

        Raises:
            SourceError: There is no answer, or it is no exposition.
        """
        reply = await fetch(
            self._session,
            self.url,
            max_bytes=MAX_BYTES,
            headers=self._headers,
            seconds=self._timeout,
        )
        if len(reply.body) <= IN_THREAD_ABOVE:
            return parse(reply, skipped)
        return await asyncio.to_thread(parse, reply, skipped)


def with_path(url: str) -> str:
    """Return the URL, with ``/metrics`` where it has no path of its own."""
    try:
        parsed = URL(url)
        return str(parsed.with_path("/metrics")) if parsed.path in {"", "/"} else url
    except ValueError:
        return url


def parse(reply: Reply, skipped: list[int] | None = None) -> list[Sample]:
    """Return the samples of an exposition, in its order.

    Args:
        reply: What was scraped.
        skipped: Receives the numbers of the lines that were too long to be read.

    Raises:
        SourceError: It is not one; says what it is instead, or which line is wrong.
    """
    if reply.content_type not in {_TEXT, _OPENMETRICS, ""} or reply.body[:64].lstrip()[:1] == b"<":
        saw = describe(reply.content_type, reply.body)
        raise _not_exposition(reply, f"served {saw}")
    try:
        text = reply.body.decode()
    except UnicodeDecodeError as error:
        raise _not_exposition(reply, f"is not UTF-8 at byte {error.start}") from None
    lines = _Lines(text, [] if skipped is None else skipped)
    try:
        if reply.content_type == _OPENMETRICS:
            lines.untyped = set(_BARE_COUNTER.findall(text)) & set(_SAMPLE.findall(text))
            return [sample for metric in _PARSE_OPENMETRICS(lines) for sample in _samples(metric)]
        bare = set(_BARE_COUNTER.findall(text))
        return [sample for metric in _PARSE_TEXT(lines) for sample in _samples(metric, bare)]
    except _PARSER_ERRORS as error:
        cause = one_line(str(error), 100) or type(error).__name__
        wrong = f"is wrong at line {lines.number}, {one_line(lines.line, 60)!r} ({cause})"
        raise _not_exposition(reply, wrong) from None


class _Lines:
    """Hands lines to the parser, within limits, and knows which one it has reached."""

    def __init__(self, text: str, skipped: list[int]) -> None:
        self._text = text
        self._skipped = skipped
        self.untyped: set[str] = set()
        self.number = 0
        self.line = ""

    def __iter__(self) -> Iterator[str]:
        now = time.monotonic()
        deadline = now + PARSE_SECONDS
        slice_end = now + SLICE_SECONDS
        for line in io.StringIO(self._text):
            self.line = line
            self.number += 1
            now = time.monotonic()
            if now > deadline:
                message = f"reached only after {PARSE_SECONDS:g} s of parsing"
                raise ValueError(message)
            if now > slice_end:
                time.sleep(0)
                slice_end = time.monotonic() + SLICE_SECONDS
            if len(line) > MAX_LINE:
                self._skipped.append(self.number)
            elif self.untyped and (kind := _TYPE.match(line)) and kind[1] in self.untyped:
                yield f"# TYPE {kind[1]} unknown\n"
            else:
                yield line


def _samples(metric: Metric, bare: Container[str] = ()) -> list[Sample]:
    """Return a metric's samples, under the names that they were served with.

    The library adds `_total` to the names of counters that lack it; `bare` are those counters.
    """
    added = "_total" if metric.name in bare else ""
    return [
        make_sample(sample.name.removesuffix(added), sample.labels or {}, float(sample.value))
        for sample in metric.samples
        if sample.native_histogram is None
    ]


def _not_exposition(reply: Reply, what: str) -> SourceError:
    reason = (
        f"{reply.url} {what}: that is no Prometheus exposition;"
        " check the path, which usually is /metrics."
    )
    return SourceError(reason, "format")
