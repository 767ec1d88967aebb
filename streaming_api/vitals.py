"""Vitals: this process watches itself. Loop lag, rates, and whether the upstream answers."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from streaming_api.upstreams.upstream import Health
    from streaming_api.web.context import Context

_SETTLE: Final = 0.05
"""Seconds between two looks at bytes that the kernel had not taken."""
_ASK: Final = 5.0
"""Seconds between two questions to an upstream that is up; one that is not is asked each second."""


class Vitals:
    """Samples one application."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def keep_sampling(self) -> None:
        """Twenty times a second: how late this wake-up is, and which held-back bytes have gone."""
        telemetry = self._context.telemetry
        counted = 0.0
        while True:
            due = time.monotonic() + _SETTLE
            await asyncio.sleep(_SETTLE)
            now = time.monotonic()
            lag = max(0.0, now - due)
            telemetry.loop_lag = max(lag, telemetry.loop_lag * 0.95)
            telemetry.settle()
            if now - counted >= 1:
                counted = now
                telemetry.sample_rate(self._context.relayed())

    async def keep_asking_upstream(self) -> None:
        """Tell the status topic whether the upstream answers."""
        upstream = self._context.upstream
        if not self._context.config.chat_enabled:
            return
        while True:
            health = await upstream.health()
            self._tell(health)
            await asyncio.sleep(_ASK if health.state == "up" else 1)

    def _tell(self, health: Health) -> None:
        detail = ", ".join(health.models) or None
        name = self._context.upstream.name
        self._context.topics.status.set(name, health.state, health.reason, detail)
