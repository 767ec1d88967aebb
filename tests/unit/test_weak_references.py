"""What is referred to weakly is gone from there when it is freed, compiled or not.

A native object is not: what refers to it weakly is left dangling, and a collection may crash.
"""

from __future__ import annotations

import asyncio
import weakref

import pytest

from streaming_api.engine.budget import Budget
from tests.fakes import hot_path


def referred(thing: object) -> list[str]:
    """A list that names the class of a thing as soon as it is freed."""
    freed: list[str] = []
    name = type(thing).__name__
    weakref.finalize(thing, freed.append, name)
    return freed


@pytest.mark.parametrize("face", hot_path.FACES)
async def test_an_answer_and_its_derived_stream_that_are_freed_are_gone_from_what_refers_to_them(
    face: str,
) -> None:
    context = hot_path.context()
    stream, _ = hot_path.derived(context, face)
    stream.data_received(hot_path.READ)
    answer = context.answers.local(("", face))
    assert answer is not None
    freed = referred(answer), referred(answer.faces[face])
    answer.cancel()
    await asyncio.wait([answer.task])
    context.answers.forget(answer)
    stream.abort()
    del stream, answer
    assert freed == (["Answer"], ["Derived"])


def test_a_share_that_is_freed_is_gone_from_what_refers_to_it() -> None:
    freed = referred(Budget().share("somebody"))
    assert freed == ["Share"]
