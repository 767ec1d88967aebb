"""The pool: so many at once, first come first served, and no place lost whoever gives up when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.answers.queue import Pool
from streaming_api.errors import Unavailable


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def ignore(_: int) -> None:
    """Told a place in the queue."""


class TestPool:
    async def test_so_many_at_once(self) -> None:
        pool = Pool(2, 10)
        await pool.acquire(ignore)
        await pool.acquire(ignore)
        third = asyncio.create_task(pool.acquire(ignore))
        await settle()
        assert not third.done()
        pool.release()
        await third
        assert (pool.busy, pool.queued) == (2, 0)

    async def test_first_come_first_served_and_each_told_its_place(self) -> None:
        pool = Pool(1, 10)
        await pool.acquire(ignore)
        told: dict[str, list[int]] = {"a": [], "b": [], "c": []}
        served: list[str] = []

        async def wait(name: str) -> None:
            await pool.acquire(told[name].append)
            served.append(name)

        tasks = []
        for name in told:
            tasks.append(asyncio.create_task(wait(name)))
            await settle()
        for _ in tasks:
            pool.release()
            await settle()
        assert served == ["a", "b", "c"]
        assert told == {"a": [1], "b": [2, 1], "c": [3, 2, 1]}

    async def test_who_comes_late_does_not_overtake(self) -> None:
        """A place that is free for a moment belongs to the queue."""
        pool = Pool(1, 10)
        await pool.acquire(ignore)
        first = asyncio.create_task(pool.acquire(ignore))
        await settle()
        pool.release()
        second = asyncio.create_task(pool.acquire(ignore))
        await settle()
        assert first.done()
        assert not second.done()
        second.cancel()

    async def test_the_others_move_up_when_one_gives_up(self) -> None:
        pool = Pool(1, 10)
        await pool.acquire(ignore)
        told: list[int] = []
        first = asyncio.create_task(pool.acquire(ignore))
        await settle()
        second = asyncio.create_task(pool.acquire(told.append))
        await settle()
        first.cancel()
        await settle()
        assert told == [2, 1]
        pool.release()
        await second

    async def test_giving_up_at_the_moment_of_being_passed_over_is_a_cancellation(self) -> None:
        """Cancelled and released in one step: no place is lost, and the error is the right one."""
        pool = Pool(1, 10)
        await pool.acquire(ignore)
        waiting = asyncio.create_task(pool.acquire(ignore))
        await settle()
        waiting.cancel()
        pool.release()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (pool.busy, pool.queued) == (0, 0)

    async def test_giving_up_at_the_moment_of_being_served_passes_the_place_on(self) -> None:
        pool = Pool(1, 10)
        await pool.acquire(ignore)
        first, second = (asyncio.create_task(pool.acquire(ignore)) for _ in range(2))
        await settle()
        pool.release()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert (pool.busy, pool.queued) == (1, 0)

    async def test_what_could_not_even_wait_is_refused(self) -> None:
        pool = Pool(1, 1)
        pool.check()
        await pool.acquire(ignore)
        pool.check()
        waiting = asyncio.create_task(pool.acquire(ignore))
        await settle()
        with pytest.raises(Unavailable, match="1 upstream connections are busy") as caught:
            pool.check()
        assert caught.value.code == "queue_full"
        assert caught.value.retry_after
        waiting.cancel()
        await settle()
        pool.check()

    async def test_without_a_queue_nobody_waits(self) -> None:
        pool = Pool(1, 0)
        pool.check()
        await pool.acquire(ignore)
        with pytest.raises(Unavailable):
            pool.check()

    async def test_it_says_how_it_stands(self) -> None:
        pool = Pool(1, 1)
        await pool.acquire(ignore)
        assert repr(pool) == "<Pool 1 of 1 busy, 0 waiting>"


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(st.sampled_from(["come", "leave", "give up", "step"]), st.integers(0, 20)),
        max_size=60,
    ),
)
async def test_no_place_is_lost_or_given_twice_whoever_gives_up_when(
    size: int, steps: list[tuple[str, int]]
) -> None:
    """Cancellations and releases in any order, in one step of the loop or in several."""
    pool = Pool(size, 10**6)
    holding: list[asyncio.Task[None]] = []
    tasks: list[asyncio.Task[None]] = []
    done: dict[asyncio.Task[None], asyncio.Event] = {}

    async def visit(leave: asyncio.Event, told: Callable[[int], None]) -> None:
        await pool.acquire(told)
        task = asyncio.current_task()
        assert task is not None
        holding.append(task)
        try:
            assert len(holding) <= size
            await leave.wait()
        finally:
            holding.remove(task)
            pool.release()

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
    assert pool.busy == len(holding) == min(size, sum(not task.done() for task in tasks))
    for leave in done.values():
        leave.set()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert (pool.busy, pool.queued) == (0, 0)
