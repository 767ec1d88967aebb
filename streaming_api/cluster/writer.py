"""Writer: writes recordings to the store in few round trips, for these are what costs.

A window has four ticks, and at each there is one trip at most. Answers are spread over two of them;
what must not wait (the first message, the end, what is watched elsewhere) goes with the next one.
While nothing else is written, that is at once; an end goes at once, too, if there are not many.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from streaming_api.answers.answer import Answer
from streaming_api.answers.elsewhere import Key
from streaming_api.background import Backoff
from streaming_api.cluster.connection import Command, StoreError, reason_of
from streaming_api.cluster.figures import Figures
from streaming_api.cluster.meta import Meta
from streaming_api.cluster.recorder import Recorder, Rewrite
from streaming_api.cluster.recording import Recording, refusal_in
from streaming_api.cluster.store import Store

TICKS: Final = 4
SLOTS: Final = 2
EARLY: Final = 2
"""How many ends a second do not wait for the next tick."""


class Writer:
    """Writes recordings to the store.

    Args:
        interval: the length of a window in seconds.
        kept: seconds for which the store keeps an answer after its end.
        on_sealed: called with a recording that others have ended.
    """

    def __init__(
        self,
        store: Store,
        figures: Figures,
        interval: float,
        kept: float,
        on_sealed: Callable[[Recording], None],
    ) -> None:
        self.recordings: dict[Key, Recording] = {}
        self._store = store
        self._figures = figures
        self._tick = interval / TICKS
        self._kept = max(1, round(kept))
        self._on_sealed = on_sealed
        self._dirty: list[set[Recording]] = [set() for _ in range(TICKS)]
        self._watched: set[Recording] = set()  # elsewhere: written at each tick
        self._urgent: set[Recording] = set()
        self._early = deque([-math.inf] * EARLY, EARLY)  # when ends did not wait
        self._idle = False
        self._wake = asyncio.Event()
        self._count = 0
        self._backoff = Backoff(0.05, 1.0)

    def add(self, key: Key, answer: Answer, meta: Meta) -> Recording:
        """Record an answer from now on."""
        self._count += 1
        recording = Recording(key, answer, meta, self._count % SLOTS * (TICKS // SLOTS))

        def wake(recorder: Recorder) -> None:
            if recorder.urgent:
                self._urgent.add(recording)
                if answer.channel.ended:
                    self._hasten()
            elif recording.watchers:
                self._watched.add(recording)
            else:
                self._dirty[recording.slot].add(recording)
            if self._idle:
                self._wake.set()

        recording.recorder = Recorder(answer.channel, answer.stream, wake)
        recording.recorder.store_is_up = self._figures.up
        answer.channel.recorder = recording.recorder
        self.recordings[key] = recording
        return recording

    def hurry(self, recording: Recording) -> None:
        """Write what is due of a recording with the next pipeline."""
        self._urgent.add(recording)
        if self._idle:
            self._wake.set()

    def _hasten(self) -> None:
        """Do not let an end wait for the next tick, unless there were many of late."""
        now = time.monotonic()
        if now - self._early[0] >= 1:
            self._early.append(now)
            self._wake.set()

    def verify(self) -> None:
        """Ask for everything what the store has of it: the store may be another one."""
        for recording in self.recordings.values():
            recording.recorder.unsure()
            self._urgent.add(recording)
        self._wake.set()

    @property
    def lag(self) -> int:
        """Number of messages that viewers have seen and the store does not have."""
        return sum(recording.recorder.lag for recording in self.recordings.values())

    async def run(self) -> None:
        """Write forever."""
        tick, due = 0, 0.0
        while True:
            if not self._urgent and not self._watched and not any(self._dirty):
                await self._work()
            self._wake.clear()
            now = time.monotonic()
            due = self._tick + (due if 0 <= now - due < self._tick else now)
            tick = (tick + 1) % TICKS
            batch = self._urgent | self._watched | self._dirty[tick]
            self._urgent, self._watched, self._dirty[tick] = set(), set(), set()
            await self._write(batch)
            await self._until(due)

    async def _work(self) -> None:
        """Wait until there is something to write."""
        self._idle = True
        self._wake.clear()
        await self._wake.wait()
        self._idle = False

    async def _until(self, due: float) -> None:
        """Wait for the next tick, which comes early for an end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - time.monotonic())):
                await self._wake.wait()

    async def flush(self, seconds: float) -> None:
        """Wait until everything is in the store, but no longer than this."""
        until = time.monotonic() + seconds
        while self._figures.up and time.monotonic() < until:
            if all(recording.recorder.done for recording in self.recordings.values()):
                return
            await asyncio.sleep(0.01)

    async def _write(self, batch: Iterable[Recording]) -> None:
        """Do one step for each recording, in one round trip except for what must be repaired."""
        steps = [(each, step) for each in batch if (step := each.recorder.due()) is not None]
        commands: list[Command] = []
        at: list[slice] = []
        for recording, step in steps:
            begin = len(commands)
            if not isinstance(step, Rewrite):
                wanted = self.recordings.get(recording.key) is recording
                kept = self._kept if wanted else None
                commands += recording.commands(self._store, step, kept)
            at.append(slice(begin, len(commands)))
        for recording in batch:
            if not recording.described:  # it has no message yet
                commands += recording.describe(self._store)
        commands += self._news(recording for recording, _ in steps)
        begun = time.monotonic()
        try:
            replies = await self._store.run(*commands) if commands else []
        except StoreError as error:
            await self._failed(str(error), [recording for recording, _ in steps])
            return
        refused: str | None = None
        for (recording, step), where in zip(steps, at, strict=True):
            if isinstance(step, Rewrite):
                refused = await self._rewrite(recording, step) or refused
            else:
                refused = recording.took(step, replies[where]) or refused
            self._next(recording)
        if refused is not None:
            await self._failed(refused, [])
        elif steps:
            self._figures.round_trip = time.monotonic() - begun
            self._succeeded()

    def _next(self, recording: Recording) -> None:
        """Handle, after a step, answers taken from us and what is to be done at once."""
        if recording.recorder.sealed:
            self._on_sealed(recording)
        elif recording.recorder.disturbed:
            self._urgent.add(recording)
        elif not recording.recorder.done:
            recording.recorder.flushed()

    def renew(self) -> list[Command]:
        """Return the commands that keep running answers in the store."""
        running = (each for each in self.recordings.values() if each.answer.outcome is None)
        return [command for recording in running for command in recording.renew(self._store)]

    def _news(self, recordings: Iterable[Recording]) -> list[Command]:
        """Return a hint to each process that shows one of them, to follow the data itself."""
        news: dict[str, list[str]] = {}
        for recording in recordings:
            for instance in recording.watchers:
                news.setdefault(instance, []).append(recording.ref)
        return [
            self._store.message(instance, "news", k="\n".join(refs))
            for instance, refs in news.items()
        ]

    async def _rewrite(self, recording: Recording, step: Rewrite) -> str | None:
        """Write an answer again; return what the store refuses, if anything."""
        recorder = recording.recorder
        try:
            written = await self._store.rewrite(recording.ref, step)
            more = recording.describe(self._store)
            if recording.answer.outcome is not None:
                more += recording.expire(self._store, self._kept)
            replies = await self._store.run(*more, *self._news([recording]))
        except StoreError as error:
            recorder.unsure()
            return str(error)
        if (refusal := refusal_in(replies)) is not None:
            recorder.unsure()
            return reason_of(refusal)
        if written:
            self._figures.repairs += 1
            recorder.accepted()
        else:
            recorder.seal()
        return None

    async def _failed(self, reason: str, recordings: Iterable[Recording]) -> None:
        for recording in recordings:
            recording.recorder.unsure()
            self._urgent.add(recording)
        self._figures.failed(reason)
        for recording in self.recordings.values():
            recording.recorder.store_is_up = False
        await asyncio.sleep(self._backoff.pause())

    def _succeeded(self) -> None:
        self._backoff.reset()
        if not self._figures.up:
            self.recovered()

    def recovered(self) -> None:
        """Note that the store answers again."""
        self._figures.answered()
        for recording in self.recordings.values():
            recording.recorder.store_is_up = True
        self.verify()
