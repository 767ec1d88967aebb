"""Readiness: whether this process may be sent traffic, and why not. For load balancers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streaming_api.connections.manager import ConnectionManager
    from streaming_api.upstreams.upstream import Health


class Readiness:
    """Ready from the moment that answers are first available until this process stops.

    An upstream that fails later makes no process unready: the others, to which the traffic would
    go, ask the same upstream, and topics are served without it.

    Args:
        manager: knows whether this process is stopping.
        waits: whether there is an upstream to wait for.
    """

    def __init__(self, manager: ConnectionManager, *, waits: bool) -> None:
        self._manager = manager
        self._missing = "The upstream has not been asked yet." if waits else None

    def heard(self, health: Health) -> None:
        """Note the health of the upstream."""
        if self._missing is not None:
            answers = health.state in {"up", "absent"}  # absent: nothing is going to come
            self._missing = None if answers else health.reason or "The upstream does not answer."

    def reasons(self) -> list[str]:
        """Return why this process is not ready, in sentences; an empty list if it is."""
        if self._manager.leaving:
            return ["This server is stopping."]
        return [] if self._missing is None else [self._missing]
