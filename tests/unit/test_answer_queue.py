"""The queue: so many at once, first come first served, and no slot lost whoever gives up when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.answers.queue import AnswerQueue
from streaming_api.errors import Unavailable


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def ignore(_: int) -> None:
    """Take a position in the queue."""


class TestQueue:
    async def test_so_many_are_served_at_once(self) -> None:
        queue = AnswerQueue(2, 10)
        await queue.acquire(ignore)
        await queue.acquire(ignore)
        third = asyncio.create_task(queue.acquire(ignore))
        await settle()
        assert not third.done()
        queue.release()
        await third
        assert (queue.busy, queue.queued) == (2, 0)

    async def test_first_come_is_first_served_and_each_knows_its_position(self) -> None:
        queue = AnswerQueue(1, 10)
        await queue.acquire(ignore)
        positions: dict[str, list[int]] = {"a": [], "b": [], "c": []}
        served: list[str] = []

        async def wait(name: str) -> None:
            await queue.acquire(positions[name].append)
            served.append(name)

        tasks = []
        for name in positions:
            tasks.append(asyncio.create_task(wait(name)))
            await settle()
        for _ in tasks:
            queue.release()
            await settle()
        assert served == ["a", "b", "c"]
        assert positions == {"a": [1], "b": [2, 1], "c": [3, 2, 1]}

    async def test_who_comes_late_does_not_overtake(self) -> None:
        """A slot that is free for a moment belongs to the queue."""
        queue = AnswerQueue(1, 10)
        await queue.acquire(ignore)
        first = asyncio.create_task(queue.acquire(ignore))
        await settle()
        queue.release()
        second = asyncio.create_task(queue.acquire(ignore))
        await settle()
        assert first.done()
        assert not second.done()
        second.cancel()

    async def test_the_others_move_up_when_one_gives_up(self) -> None:
        queue = AnswerQueue(1, 10)
        await queue.acquire(ignore)
        positions: list[int] = []
        first = asyncio.create_task(queue.acquire(ignore))
        await settle()
        second = asyncio.create_task(queue.acquire(positions.append))
        await settle()
        first.cancel()
        await settle()
        assert positions == [2, 1]
        queue.release()
        await second

    async def test_giving_up_at_the_moment_of_being_passed_over_is_a_cancellation(self) -> None:
        """Cancelled and released in one step: no slot is lost, and the error is the right one."""
        queue = AnswerQueue(1, 10)
        await queue.acquire(ignore)
        waiting = asyncio.create_task(queue.acquire(ignore))
        await settle()
        waiting.cancel()
        queue.release()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (queue.busy, queue.queued) == (0, 0)

    async def test_giving_up_at_the_moment_of_being_served_passes_the_slot_on(self) -> None:
        queue = AnswerQueue(1, 10)
        await queue.acquire(ignore)
        first, second = (asyncio.create_task(queue.acquire(ignore)) for _ in range(2))
        await settle()
        queue.release()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert (queue.busy, queue.queued) == (1, 0)

    async def test_what_could_not_even_wait_is_refused(self) -> None:
        queue = AnswerQueue(1, 1)
        queue.check()
        await queue.acquire(ignore)
        queue.check()
        waiting = asyncio.create_task(queue.acquire(ignore))
        await settle()
        with pytest.raises(Unavailable, match="1 upstream connections are busy") as caught:
            queue.check()
        assert caught.value.code == "queue_full"
        assert caught.value.retry_after
        waiting.cancel()
        await settle()
        queue.check()

    async def test_without_a_queue_nobody_waits(self) -> None:
        queue = AnswerQueue(1, 0)
        queue.check()
        await queue.acquire(ignore)
        with pytest.raises(Unavailable):
            queue.check()

    async def test_the_queue_says_how_it_stands(self) -> None:
        queue = AnswerQueue(1, 1)
        await queue.acquire(ignore)
        assert repr(queue) == "<AnswerQueue 1 of 1 busy, 0 waiting>"


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(st.sampled_from(["come", "leave", "give up", "step"]), st.integers(0, 20)),
        max_size=60,
    ),
)
async def test_no_slot_is_lost_or_given_twice_whoever_gives_up_when(
    size: int, steps: list[tuple[str, int]]
) -> None:
    """Cancellations and releases in any order, in one step of the loop or in several."""
    queue = AnswerQueue(size, 10**6)
    holding: list[asyncio.Task[None]] = []
    tasks: list[asyncio.Task[None]] = []
    done: dict[asyncio.Task[None], asyncio.Event] = {}

    async def visit(leave: asyncio.Event, positions: Callable[[int], None]) -> None:
        await queue.acquire(positions)
        task = asyncio.current_task()
        assert task is not None
        holding.append(task)
        try:
            assert len(holding) <= size
            await leave.wait()
        finally:
            holding.remove(task)
            queue.release()

    for what, which in steps:
        if what == "come":
            leave = asyncio.Event()
            task = asyncio.create_task(visit(leave, ignore))
            tasks.append(task)
            done[task] = leave
        elif what == "leave" and holding:
            done[holding[which % len(holding)]].set()
        elif what == "give up" and tasks:
            tasks[which % len(tasks)].cancel()
        elif what == "step":
            await asyncio.sleep(0)
    await settle()
    assert queue.busy == len(holding) == min(size, sum(not task.done() for task in tasks))
    for leave in done.values():
        leave.set()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert (queue.busy, queue.queued) == (0, 0)
