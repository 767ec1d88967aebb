"""Feeds: which sources are polled into which topics, and the running of it. Knows no viewer."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, cast

import attrs

from streaming_api.background import Background
from streaming_api.sources.alertmanager import Alertmanager
from streaming_api.sources.exposition import Exposition
from streaming_api.sources.fetch import open_session
from streaming_api.sources.prometheus import Prometheus
from streaming_api.sources.values import AlertList
from streaming_api.topics.alerts import Alerts
from streaming_api.topics.metrics import Metrics, Values
from streaming_api.topics.polling import (
    DEFAULT_QUERIES,
    AlertmanagerPoll,
    Ask,
    ExpositionPoll,
    PrometheusPoll,
    keep_asking,
    patience,
)
from streaming_api.topics.rules import Readings, Rules
from streaming_api.topics.status import Status

if TYPE_CHECKING:
    import aiohttp

    from streaming_api.config import StreamingConfig
    from streaming_api.sources.values import AlertSource

logger = logging.getLogger(__name__)

_GOLDEN: Final = (5**0.5 - 1) / 2
"""Its multiples spread evenly over an interval, however many there are. If several sources reported
at the same moment, every viewer would wait for all of them."""

_ENDPOINTS: Final = {
    "prometheus": "metrics_server_endpoint",
    "exposition": "custom_metrics_endpoint",
    "alertmanager": "alertmanager_endpoint",
}
_ASKED: Final = (*_ENDPOINTS.values(), "queries", "poll_interval")
"""Settings that say which source is asked for what."""

Make = Callable[["aiohttp.ClientSession"], Ask]
"""Makes the function that asks a source, once there is a session for it."""


@attrs.frozen
class _Feed:
    """One source; a component of the status, unless it is this process itself.

    Attributes:
        phase: when in the interval it is asked.
    """

    name: str
    make: Make
    component: bool
    phase: float


class Feeds:
    """The sources of the topics. Nothing is polled for a topic that is switched off.

    What is added while `run` runs is polled from then on; what is added before, once it runs.

    Attributes:
        readings: called for what our own rules are based on, besides the states of the upstreams.
    """

    def __init__(
        self,
        config: StreamingConfig,
        metrics: Metrics,
        alerts: Alerts,
        status: Status,
        *,
        failures: Counter[str],
    ) -> None:
        self.readings: Callable[[], Iterable[Readings]] = tuple
        self._config = config
        self._metrics = metrics
        self._alerts = alerts
        self._status = status
        self._failures = failures
        self._timeout = patience(config.poll_interval)
        self._rules = Rules()
        self._feeds: dict[str, _Feed] = {}
        self._changed = asyncio.Event()
        self._running: tuple[Background, aiohttp.ClientSession] | None = None
        self._add_configured()

    def apply(self, config: StreamingConfig) -> None:
        """Poll the sources of this configuration from now on."""
        before, self._config = self._config, config
        if all(getattr(before, name) == getattr(config, name) for name in _ASKED):
            return
        self._timeout = patience(config.poll_interval)
        for name, setting in _ENDPOINTS.items():
            if getattr(before, setting) is not None and self._feeds.pop(name, None) is not None:
                self._status.set(name, "absent", "It is no longer configured.")
                if getattr(config, setting) is None:
                    self._forget(name)
        self._changed.set()  # first: what is added is asked when all begin anew
        self._add_configured()

    def _forget(self, name: str) -> None:
        """Show nothing more of a source that is no longer configured: it would stay for ever."""
        self._metrics.update(name, {})
        if name == "prometheus":
            self._alerts.set_external_labels({})
        if name in {"prometheus", "alertmanager"}:
            self._alerts.poll(cast("AlertSource", name), AlertList(()))

    def __repr__(self) -> str:
        return f"<Feeds {', '.join(self._feeds)}>"

    # A new source is one module, one poll and one method here.

    def _add_configured(self) -> None:
        config = self._config
        if config.metrics_server_endpoint is not None:
            self._add_prometheus(config.metrics_server_endpoint)
        if config.custom_metrics_endpoint is not None:
            self.add_exposition(config.custom_metrics_endpoint)
        if config.alertmanager_endpoint is not None:
            self._add_alertmanager(config.alertmanager_endpoint)
        if self._alerts.is_open:
            self._add("own rules", lambda _: self._evaluate, component=False)

    def _add_prometheus(self, url: str) -> None:
        if not self._metrics.is_open and not self._alerts.is_open:
            return

        def make(session: aiohttp.ClientSession) -> Ask:
            return PrometheusPoll(
                Prometheus(url, session, timeout=self._timeout),
                (self._config.queries or DEFAULT_QUERIES) if self._metrics.is_open else {},
                self._metrics,
                self._alerts if self._alerts.is_open else None,
            ).ask

        self._add("prometheus", make)

    def add_exposition(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        """Scrape an endpoint, unless it is already scraped."""
        if not self._metrics.is_open or "exposition" in self._feeds:
            return

        def make(session: aiohttp.ClientSession) -> Ask:
            source = Exposition(url, session, headers, timeout=self._timeout)
            return ExpositionPoll(source, self._metrics).ask

        self._add("exposition", make)

    def _add_alertmanager(self, url: str) -> None:
        if not self._alerts.is_open:
            return

        def make(session: aiohttp.ClientSession) -> Ask:
            source = Alertmanager(url, session, timeout=self._timeout)
            return AlertmanagerPoll(source, self._alerts).ask

        self._add("alertmanager", make)

    def add_process(self, figures: Callable[[], Values]) -> None:
        """Show figures of this process."""
        if not self._metrics.is_open:
            return

        async def ask() -> str | None:
            self._metrics.update("process", figures())
            return None

        self._add("process", lambda _: ask, component=False)

    async def _evaluate(self) -> str | None:
        """Evaluate our own rules, and expire what the webhook has not repeated."""
        firing = self._rules.evaluate(self.readings(), self._status.states())
        self._alerts.poll("streaming-api", firing)
        self._alerts.expire()
        return None

    # Running

    def components(self) -> set[str]:
        """Return the components that are reported on from here."""
        return {*_ENDPOINTS, *self._feeds, "webhook"}

    def take_over(self) -> None:
        """Go on from what the topics have been loaded with."""
        self._rules.recall(self._alerts.of("streaming-api"))
        states = self._status.states()
        for name in _ENDPOINTS.keys() - self._feeds.keys():
            if states.get(name, "absent") != "absent":
                self._status.set(name, "absent", "It is no longer configured.")
                self._forget(name)

    async def run(self) -> None:
        """Poll every source until cancelled."""
        async with open_session() as session:
            while True:
                await self._ask_until_changed(session)

    async def _ask_until_changed(self, session: aiohttp.ClientSession) -> None:
        background = Background(self._failures)
        self._changed.clear()
        self._running = (background, session)
        try:
            for feed in self._feeds.values():
                self._start(feed, background, session)
            await self._changed.wait()
        finally:
            self._running = None
            await background.stop()

    def _add(self, name: str, make: Make, *, component: bool = True) -> None:
        phase = len(self._feeds) * _GOLDEN % 1 * self._config.poll_interval
        feed = self._feeds[name] = _Feed(name, make, component, phase)
        if self._running is not None and not self._changed.is_set():
            self._start(feed, *self._running)

    def _start(self, feed: _Feed, background: Background, session: aiohttp.ClientSession) -> None:
        ask = feed.make(session)
        if feed.component and self._status.states().get(feed.name, "absent") == "absent":
            self._status.set(feed.name, "loading", "It has not answered yet.")

        def report(state: str, reason: str | None) -> None:
            if feed.component:
                self._status.set(feed.name, state, reason)
            elif state == "down":
                logger.warning("%s: %s", feed.name, reason)

        async def work() -> None:
            try:
                await keep_asking(ask, self._config.poll_interval, report, phase=feed.phase)
            except Exception:
                report("down", "This server failed to read it; the operator finds why in its log.")
                raise

        background.start(f"poll of {feed.name}", work)
