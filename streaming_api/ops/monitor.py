"""Monitor: this process watches itself, and says so to the topics.

It samples loop lag, rates, what the topic ``metrics`` shows of this process, what this process' own
alerts are based on, and whether the upstream answers.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from typing import TYPE_CHECKING, Final

from streaming_api.connections.endings import KINDS
from streaming_api.telemetry.deliveries import OUTCOMES
from streaming_api.telemetry.recent import RecentRows
from streaming_api.topics import Readings

if TYPE_CHECKING:
    from streaming_api.ops.context import Context
    from streaming_api.upstreams.upstream import Health

_SAMPLE_SECONDS: Final = 0.05
"""Seconds between two looks at bytes that the kernel had not taken."""
_ASK: Final = 5.0
"""Seconds between two checks of an upstream that is up, unless answers raise a doubt."""
_OUTCOMES: Final = 60
"""Samples of the outcomes, one a second, that rates are made of."""
_PAUSE: Final = 1.0
"""Seconds between two checks at least, and between those of an upstream that is not up."""


class Monitor:
    """Samples one application."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.topics.add_process(self._figures)
        context.topics.set_readings(self._readings)
        context.topics.set_history(self._history)
        self._outcomes = RecentRows(_OUTCOMES, len(OUTCOMES))

    def _figures(self) -> dict[str, float | None]:
        context = self._context
        used = context.process.fetch()
        queued = context.answers.queued
        return {
            "websocket_connections": context.manager.open["websocket"],
            "sse_connections": context.manager.open["sse"],
            "answers_running": len(context.answers.running) - queued,
            "answers_queued": queued,
            "tokens_per_second": round(context.telemetry.tokens_per_second(), 1),
            "chunks_total": context.relayed(),
            "resident_memory_bytes": used.resident_memory_bytes,
            "cpu_seconds": used.cpu_seconds,
            "open_fds": used.open_fds,
            "event_loop_lag_seconds": round(context.telemetry.loop_lag, 4),
        }

    def _history(self) -> dict[str, float | None]:
        """Return what the history keeps of each second; rates are over the last minute."""
        context = self._context
        manager, telemetry, used = context.manager, context.telemetry, context.process.fetch()
        queued = context.answers.queued
        counts = array("d", map(telemetry.outcomes.__getitem__, OUTCOMES))
        _, before = next(iter(self._outcomes.rows(0)), (0, counts))
        rates = {
            f"answers_{name}": int(now - then)
            for name, now, then in zip(OUTCOMES, counts, before, strict=True)
        }
        self._outcomes.begin(time.monotonic(), counts)
        connections = tuple(manager.present())
        return {
            "tokens_per_second": telemetry.tokens_per_second(),
            "answers_running": len(context.answers.running) - queued,
            "answers_queued": queued,
            "first_token_p50_seconds": telemetry.first_token(0.5),
            "first_token_p95_seconds": telemetry.first_token(0.95),
            **rates,
            **{f"connections_{kind}": manager.open[kind] for kind in KINDS},
            **{f"limit_{kind}": manager.limits[kind] for kind in KINDS},
            **{f"delivery_p99_{kind}_seconds": telemetry.delivery(kind) for kind in KINDS},
            "lagging_viewers": sum(c.paused for c in connections),
            "unsent_bytes": sum(c.unsent for c in connections),
            "event_loop_lag_seconds": telemetry.loop_lag,
            "resident_memory_bytes": used.resident_memory_bytes,
            "cpu_seconds": used.cpu_seconds,
            "open_fds": used.open_fds,
        }

    def _readings(self) -> Readings:
        manager = self._context.manager
        delivery = self._context.telemetry.delivery
        return Readings(
            connections={kind: (manager.open[kind], manager.limits[kind]) for kind in KINDS},
            delivery_p99_seconds={kind: delivery(kind) for kind in KINDS},
        )

    async def keep_sampling(self) -> None:
        """Note twenty times a second how late this wakes, and which held-back bytes have gone."""
        telemetry = self._context.telemetry
        counted = 0.0
        while True:
            due = time.monotonic() + _SAMPLE_SECONDS
            await asyncio.sleep(_SAMPLE_SECONDS)
            now = time.monotonic()
            lag = max(0.0, now - due)
            telemetry.loop_lag = max(lag, telemetry.loop_lag * 0.95)
            telemetry.check_late()
            if now - counted >= 1:
                counted = now
                telemetry.sample_rate(self._context.relayed())

    async def keep_asking_upstream(self) -> None:
        """Report to the status topic whether the upstream answers."""
        upstream = self._context.upstream
        if not self._context.config.streaming_chat_enabled:
            return
        scraped = False
        while True:
            if not scraped and upstream.model is not None and upstream.model.url is not None:
                scraped = True
                key = {"Authorization": f"Bearer {upstream.model.api_key}"}
                self._context.topics.add_exposition(f"{upstream.model.url}/metrics", key)
            health = await upstream.health()
            self._report(health)
            await asyncio.sleep(_PAUSE)
            if health.state == "up":
                await upstream.doubted(_ASK - _PAUSE)

    def _report(self, health: Health) -> None:
        self._context.readiness.heard(health)
        self._context.telemetry.answers.know_models(health.models)
        detail = ", ".join(health.models) or None
        name = self._context.upstream.name
        self._context.topics.own.set(name, health.state, health.reason, detail)
