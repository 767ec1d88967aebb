"""The documented classes: configure one, ask it for a figure. Façades over server and self-test.

An object that serves real traffic reports that traffic. One that serves nothing measures: the
application is started on a loopback port and real clients are driven through it.
"""

from __future__ import annotations

from streaming_api import selftest, service
from streaming_api.config import StreamingConfig


class StreamingService(service.StreamingService):
    """One server and its three figures, each in percent."""

    def get_websocket_performance(self) -> float:
        """Return the share of recent messages delivered to WebSocket viewers within 100 ms."""
        return self._performance("websocket")

    def get_sse_performance(self) -> float:
        """Return the share of recent messages delivered to SSE viewers within 100 ms."""
        return self._performance("sse")

    def get_connection_stability(self) -> float:
        """Return the share of recent connections that no fault of ours and no broken link ended."""
        percent = self.context.telemetry.stability() if self.running else None
        return selftest.measure(self.config).connection_stability if percent is None else percent

    def _performance(self, kind: str) -> float:
        percent = self.context.telemetry.performance(kind) if self.running else None
        return selftest.measure(self.config).performance[kind] if percent is None else percent


class ConnectionManager:
    """The connections that a configuration would serve.

    Args:
        config: the limits to measure with.
    """

    def __init__(self, config: StreamingConfig | None = None) -> None:
        self.config = config or StreamingConfig()

    def get_connection_stability(self) -> float:
        """Return the share of connections that no fault of ours and no broken link ended."""
        return selftest.measure(self.config).connection_stability
