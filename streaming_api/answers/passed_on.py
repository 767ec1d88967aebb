"""Requests that are passed on to the gateway as they are: they count as answers of their key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CUT_SECONDS: Final = 2.0
"""Seconds in which one that is cut has to let go of its connections."""


class PassedOn:
    """The requests that are being passed on now."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object], str] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def of(self, name: str) -> int:
        """Return how many of them a client has."""
        return sum(owner == name for owner in self._tasks.values())

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Count the current task as a request of this client."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = name
        try:
            yield
        finally:
            del self._tasks[task]

    async def drain(self, seconds: float) -> None:
        """Give those that run this many seconds to end, then cut them."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=seconds)
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=_CUT_SECONDS)
