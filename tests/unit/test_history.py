"""The history: rows by the second, gaps that stay gaps, marks, and what viewers get of it."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

import orjson
import pytest

from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Retention
from streaming_api.topics.history import COARSE, MAX_SERIES, RECENT, SECONDS, History
from tests.fakes.engine import Deliveries

NOON: Final = 1_800_000_000.0

Json = dict[str, Any]


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.monotonic = 100.0
        self.wall = NOON

    def advance(self, seconds: float = 1.0) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history(clock: Clock) -> History:
    history = History(lambda: clock.monotonic, lambda: clock.wall)
    history.mark("started", "streaming-api")
    return history


def everything(history: History, since: float = 0) -> Json:
    reply: Json = orjson.loads(history.since(since))
    return reply


def snapshot(history: History) -> Json:
    reply: Json = orjson.loads(history.snapshot())
    return reply


def test_a_row_a_second_and_null_where_a_series_had_no_value(
    history: History, clock: Clock
) -> None:
    history.sample({"a": 1})
    clock.advance(1.02)
    history.sample({"a": 2, "b": None})
    clock.advance(0.97)
    history.sample({"b": 0.123456})
    reply = everything(history)
    assert reply["times"] == [NOON, NOON + 1, NOON + 2]
    assert reply["series"] == {"a": [1, 2, None], "b": [None, None, 0.1235]}
    assert everything(history, NOON + 1)["times"] == [NOON + 2]
    assert everything(history, NOON + 9)["series"] == {"a": [], "b": []}


def test_seconds_in_which_nobody_sampled_are_rows_of_nothing(
    history: History, clock: Clock
) -> None:
    history.sample({"a": 1})
    clock.advance(4)
    history.sample({"a": 1})
    reply = everything(history)
    assert reply["times"] == [NOON + second for second in range(5)]
    assert reply["series"]["a"] == [1, None, None, None, 1]


def test_a_wall_clock_that_jumps_makes_no_gap_and_is_followed(
    history: History, clock: Clock
) -> None:
    history.sample({"a": 1})
    clock.advance()
    clock.wall -= 3600
    history.sample({"a": 2})
    reply = everything(history)
    assert reply["series"]["a"] == [1, 2]
    assert reply["times"] == [NOON, NOON + 1 - 3600]


def test_an_hour_is_kept_and_no_more(history: History, clock: Clock) -> None:
    for second in range(SECONDS + 5):
        history.sample({"a": second})
        clock.advance()
    reply = everything(history)
    assert len(reply["times"]) == SECONDS
    assert reply["series"]["a"][0] == 5
    assert reply["series"]["a"][-1] == float(f"{SECONDS + 4:.4g}")


def test_a_snapshot_is_coarse_but_for_the_last_minutes(history: History, clock: Clock) -> None:
    for second in range(RECENT + 2 * COARSE + 3):
        history.sample({"a": second, "gone": 1 if second else None})
        clock.advance()
    reply = snapshot(history)
    assert reply["times"][:3] == [NOON + COARSE - 1, NOON + 2 * COARSE - 1, NOON + 2 * COARSE]
    assert reply["series"]["a"][:3] == [4.5, 14.5, 20]
    assert reply["series"]["gone"][:2] == [None, 1], "a gap within ten seconds is one"
    assert len(reply["times"]) == len(reply["series"]["a"]) == RECENT + 2 + 3


def test_series_are_bounded_and_the_infinite_is_a_number(history: History) -> None:
    history.sample({f"s{number}": math.inf for number in range(MAX_SERIES + 3)})
    reply = everything(history)
    assert len(reply["series"]) == MAX_SERIES
    assert reply["series"]["s0"] == [1e15]


def test_marks_say_when_it_began_and_what_happened(history: History, clock: Clock) -> None:
    history.sample({"a": 1})
    clock.advance()
    history.mark("firing", "Broken", "critical")
    started, firing = everything(history)["marks"]
    assert started == {"time": NOON, "event": "started", "name": "streaming-api"}
    assert firing == {
        "time": NOON + 1, "event": "firing", "name": "Broken", "severity": "critical",
    }  # fmt: skip
    assert everything(history, NOON)["marks"] == [firing]


def test_the_start_is_among_the_marks_however_long_it_took(history: History, clock: Clock) -> None:
    clock.advance(7)
    history.sample({"a": 1})
    assert [mark["event"] for mark in snapshot(history)["marks"]] == ["started"]
    clock.advance(SECONDS + 1)
    history.sample({"a": 1})
    assert snapshot(history)["marks"] == []


async def test_who_watches_is_sent_what_changed(history: History, clock: Clock) -> None:
    channel = Channel(
        "0" * 16,
        call_later=asyncio.get_running_loop().call_later,
        flush_interval=0.0,
        batch_size=1,
        observer=Deliveries(),
    )
    history.open(channel, Retention(bytes=2**20, messages=100, seconds=100))
    history.sample({"a": 1, "b": None})
    clock.advance(3)
    history.sample({"a": 1, "b": 2})
    clock.advance()
    history.sample({"a": 1})
    reply = [orjson.loads(m.data) for m in channel.read(frozenset({"history"}), 0)]
    assert reply == [
        {"event": "sampled", "time": NOON, "gap": 0, "values": {"a": 1, "b": None}},
        {"event": "sampled", "time": NOON + 3, "gap": 2, "values": {"b": 2}},
        {"event": "sampled", "time": NOON + 4, "gap": 0, "values": {"b": None}},
    ]
