"""Supervised background work: it may fail, is never lost, and ends on request.

A failure is logged with its traceback, counted and retried with back-off. It ends nothing else:
neither the server, as a task group would, nor silently itself, as a bare task would.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
_STOP_SECONDS: Final = 5.0
"""Seconds that work gets to clean up after its cancellation before it is left behind."""

Work = Callable[[], Awaitable[None]]


class Backoff:
    """Pauses between attempts: doubling, with jitter, so that many do not retry in step.

    Args:
        first: seconds of the first pause.
        longest: the longest pause, in seconds.
    """

    __slots__ = ("_first", "_longest", "_next")

    def __init__(self, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> None:
        self._first = self._next = first
        self._longest = longest

    def pause(self) -> float:
        """Return the seconds until the next attempt: half to all of the pause that is due."""
        due = min(self._next, self._longest)
        self._next = min(2 * due, self._longest)
        return due * random.uniform(0.5, 1)  # noqa: S311 (spreads load, keeps no secret)

    def reset(self) -> None:
        """Note that an attempt went well: the next pause is the first again."""
        self._next = self._first


async def supervise(
    name: str, work: Work, on_failure: Callable[[], None], *, first_pause: float = FIRST_PAUSE
) -> None:
    """Run work until it returns or this is cancelled; begin it again whenever it fails.

    A cancellation that nobody asked for, such as that of a task which the work awaits, is a failure
    like any other. Work that ran well for longer than the longest pause starts again at the first.

    Args:
        name: what the log calls it.
        work: what to run; called again for each attempt.
        on_failure: called once for each failure.
        first_pause: seconds before the first new attempt; later ones double.
    """
    backoff = Backoff(first_pause)
    while True:
        begun = time.monotonic()
        try:
            await work()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            logger.exception("background work was cancelled from inside: %s", name)
        except Exception:
            logger.exception("background work failed: %s", name)
        else:
            return
        on_failure()
        if time.monotonic() - begun > LONGEST_PAUSE:
            backoff.reset()
        await asyncio.sleep(backoff.pause())


class Background:
    """Several pieces of supervised work that end together.

    Args:
        failures: the counts of failures, by the name of the work.
    """

    def __init__(self, failures: Counter[str]) -> None:
        self._failures = failures
        self._tasks: dict[asyncio.Task[None], str] = {}

    def __repr__(self) -> str:
        return f"<Background {', '.join(self._tasks.values()) or 'nothing'}>"

    def start(self, name: str, work: Work, *, first_pause: float = FIRST_PAUSE) -> None:
        """Start work in a task of its own."""

        def count() -> None:
            self._failures[name] += 1

        supervised = supervise(name, work, count, first_pause=first_pause)
        task = asyncio.create_task(supervised, name=name)
        self._tasks[task] = name
        task.add_done_callback(self._tasks.pop)

    async def stop(self) -> None:
        """Cancel all work and wait for its end; the log names what refuses to end."""
        tasks = dict(self._tasks)
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        for task in left:
            logger.error("background work does not end: %s", tasks[task])
