"""What this process is doing, in words: tasks, streams, connections. For SIGUSR1."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from streaming_api.ops.context import Context

_MOST: Final = 200
"""Rows of each kind; a reader would get lost in more."""


def describe(context: Context) -> str:
    """List tasks and where they wait, answers, topics, connections; no content, no secrets."""
    return "\n".join(_lines(context))


def _lines(context: Context) -> Iterator[str]:
    yield "what this process is doing"
    answers = context.answers
    yield f"  {context.manager!r}, {answers!r}, {answers.queue!r}, {context.upstream.name}"
    yield f"  topics: {context.topics.channel!r}"
    for answer in answers.running[:_MOST]:
        state = f"waits, {answer.position} in the queue" if answer.position else "runs"
        viewers, age = len(answer.channel.viewers()), time.monotonic() - answer.started
        yield f"  answer: {state}, {age:.1f} s, {answer.chunks} chunks, {viewers} viewers"
    for connection in tuple(context.manager.present())[:_MOST]:
        unsent, lag = connection.unsent, connection.lag
        yield f"  connection: {connection!r} {unsent} unsent bytes, {lag} messages behind"
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    for task in tasks[:_MOST]:
        frames = task.get_stack(limit=1)
        where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "-"
        yield f"  task: {task.get_name()} at {where}"
