"""Making: what runs in the process that makes the topics, and where its changes go."""

from __future__ import annotations

import enum
import logging
from collections import Counter

from streaming_api.background import Background
from streaming_api.topics import Topics
from streaming_api.topics.topic import Outlet

logger = logging.getLogger(__name__)


class Role(enum.Enum):
    """What a process does for the topics; the value is what the log says of it."""

    ARRIVING = "it is not known yet who polls the sources"
    FOLLOWING = "another process polls the sources"
    LEADING = "this process polls the sources"
    ALONE = "the store cannot be reached, so this process polls the sources for itself"


class Making:
    """Runs the polls and the history while this process makes the topics.

    Args:
        failures: failures of background work, counted by name.

    Attributes:
        role: what this process does now.
    """

    def __init__(self, topics: Topics, failures: Counter[str]) -> None:
        self.role = Role.ARRIVING
        self._topics = topics
        self._failures = failures
        self._works: Background | None = None

    def begin(self, role: Role, outlet: Outlet) -> None:
        """Make the topics from now on; their changes go to ``outlet``."""
        self._become(role)
        self._topics.pass_on(outlet)
        if self._works is None:
            self._works = Background(self._failures)
            self._works.start("topics", self._topics.run)
            self._works.start("history", self._topics.desk.history.keep_sampling)

    def pause(self) -> None:
        """Let changes go nowhere until it is known again who makes the topics."""
        self._topics.pass_on(_nowhere)

    async def end(self) -> None:
        """Leave the making to another process."""
        self._become(Role.FOLLOWING)
        self.pause()
        await self.stop()

    async def stop(self) -> None:
        """End what runs."""
        if self._works is not None:
            works, self._works = self._works, None
            await works.stop()

    def _become(self, role: Role) -> None:
        if role is not self.role:
            logger.info("topics: %s", role.value)
        self.role = role


def _nowhere(_topic: str, _changes: tuple[bytes, ...], _urgent: bool) -> None:  # noqa: FBT001 (an outlet)
    """Take changes that nobody is to be shown."""
