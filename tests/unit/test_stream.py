"""Streams and their channel: backlog, retention, merge, flush window. No socket, no real time."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.engine.channel import CATCH_UP_BYTES, Channel
from streaming_api.engine.observer import Writes
from streaming_api.engine.stream import Policy, Retention, Stream
from streaming_api.engine.viewer import Viewer
from streaming_api.wire.framing import EVENTS, Framing
from streaming_api.wire.messages import Encoder, Message
from tests.fakes.engine import (
    AMPLE,
    EPOCH,
    Clock,
    Deliveries,
    Pipe,
    Shown,
    State,
    channel,
    chat_stream,
)

WINDOW = 1.0
"""Seconds of a flush window, on a clock that stands still until moved."""


@pytest.fixture
def clock() -> Iterator[Clock]:
    """The time that streams see."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(time, "monotonic", clock.monotonic)
        yield clock


def watch(on: Channel, shown: Shown | None = None) -> Shown:
    """Everything on a channel, from its start."""
    shown = shown or Shown()
    Viewer(shown, on, frozenset(on.streams)).resume(0)
    return shown


def numbers(messages: list[Message]) -> list[int]:
    return [message.number for message in messages]


def keep(*, messages: int = 10**6, size: int = 2**30, seconds: float = 10.0**6) -> Retention:
    return Retention(bytes=size, messages=messages, seconds=seconds)


class TestNumbers:
    def test_a_chat_counts_from_one_without_holes(self) -> None:
        on = channel()
        chat = chat_stream(on)
        shown = watch(on)
        on.append(chat, [b"{}", b"{}"])
        on.append(chat, [b"{}"])
        on.end(chat, b"{}")
        assert shown.numbers() == [1, 2, 3, 4]

    def test_streams_of_a_channel_share_its_numbers(self) -> None:
        on = channel()
        metrics, alerts = State(on, "metrics", Policy.LATEST), State(on, "alerts", Policy.HISTORY)
        assert [metrics.change(), alerts.change(), metrics.change()] == [1, 2, 3]
        assert (metrics.stream.total, alerts.stream.total) == (2, 1)

    def test_only_the_last_message_is_the_last(self) -> None:
        on = channel()
        chat = chat_stream(on)
        on.append(chat, [b"{}"])
        on.end(chat, b"{}")
        assert [message.final for message in chat.after(0, 2, 1)] == [False]
        assert [message.final for message in chat.after(1, 2, 1)] == [True]

    def test_a_channel_says_how_it_stands(self) -> None:
        on = channel()
        chat = chat_stream(on)
        watch(on)
        on.end(chat, b"{}")
        assert repr(on) == "<Channel 0123456789abcdef at 1, flushed 1, 0 live, 0 lagging, ended>"
        assert "1 messages" in repr(chat)


class TestFlushWindow:
    def test_inside_the_budget_each_message_goes_out_at_once(self, clock: Clock) -> None:
        deliveries = Deliveries()
        on = channel(clock=clock, flush_interval=WINDOW, batch_size=3, observer=deliveries)
        chat = chat_stream(on)
        watch(on)
        for _ in range(3):
            on.append(chat, [b"{}"])
        assert [batch for batch, _ in deliveries.batches] == [[1], [2], [3]]

    def test_above_it_messages_wait_together_for_the_rest_of_the_window(self, clock: Clock) -> None:
        deliveries = Deliveries()
        on = channel(clock=clock, flush_interval=WINDOW, batch_size=2, observer=deliveries)
        chat = chat_stream(on)
        watch(on)
        on.append(chat, [b"{}"])
        clock.advance(0.25)
        for _ in range(4):
            on.append(chat, [b"{}"])
        clock.advance(0.74)
        assert [batch for batch, _ in deliveries.batches] == [[1], [2]]
        clock.advance(0.02)
        assert [batch for batch, _ in deliveries.batches] == [[1], [2], [3, 4, 5]]

    def test_at_human_speed_nothing_waits(self, clock: Clock) -> None:
        deliveries = Deliveries()
        on = channel(clock=clock, flush_interval=WINDOW, batch_size=5, observer=deliveries)
        chat = chat_stream(on)
        watch(on)
        for number in range(1, 30):
            on.append(chat, [b"{}"])
            assert on.flushed == number
            clock.advance(WINDOW / 5)

    def test_what_is_urgent_never_waits_and_takes_what_waits_along(self, clock: Clock) -> None:
        deliveries = Deliveries()
        on = channel(clock=clock, flush_interval=WINDOW, batch_size=1, observer=deliveries)
        chat = chat_stream(on)
        watch(on)
        on.append(chat, [b"{}"])
        on.append(chat, [b"{}"])
        on.append(chat, [b"{}"], urgent=True)
        on.append(chat, [b"{}"])
        on.end(chat, b"{}")
        assert [batch for batch, _ in deliveries.batches] == [[1], [2, 3], [4, 5]]
        clock.advance(2 * WINDOW)
        assert len(deliveries.batches) == 3, "a timer that comes too late writes nothing"

    def test_a_window_of_nothing_sends_each_message_by_itself(self, clock: Clock) -> None:
        on = channel(clock=clock, flush_interval=0, batch_size=1)
        chat = chat_stream(on)
        for number in range(1, 10):
            on.append(chat, [b"{}"])
            assert on.flushed == number

    @settings(max_examples=200)
    @given(
        batch_size=st.integers(1, 4),
        steps=st.lists(st.tuples(st.floats(0, 0.6), st.booleans(), st.integers(1, 3)), max_size=60),
    )
    def test_never_more_than_its_budget_and_never_later_than_its_length(
        self, batch_size: int, steps: list[tuple[float, bool, int]]
    ) -> None:
        """Any rhythm of appends, urgent ones among them."""
        clock = Clock()
        flushes: list[float] = []
        waits: list[float] = []
        urgent = False

        class Waits(Deliveries):
            def delivered(self, batch: Sequence[Message], writes: Writes) -> None:  # noqa: ARG002
                waits.extend(clock.now - message.appended for message in batch)
                if not urgent:
                    flushes.append(clock.now)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic", clock.monotonic)
            on = channel(
                clock=clock, flush_interval=WINDOW, batch_size=batch_size, observer=Waits()
            )
            chat = chat_stream(on)
            shown = watch(on)
            for pause, asked, count in steps:
                urgent = False  # a timer's flush is not
                clock.advance(pause)
                urgent = asked
                on.append(chat, [b"{}"] * count, urgent=urgent)
            urgent = False
            clock.advance(WINDOW)
        assert shown.numbers() == list(range(1, on.number + 1)), "everything, once, in order"
        assert all(wait <= WINDOW + 1e-6 for wait in waits)
        for first, beyond in zip(flushes, flushes[batch_size:], strict=False):
            assert beyond - first >= WINDOW - 1e-6


class TestRetention:
    def test_the_oldest_go_above_the_number_of_messages(self) -> None:
        on = channel()
        alerts = State(on, "alerts", Policy.HISTORY, keep(messages=3))
        for _ in range(5):
            alerts.change()
        assert len(alerts.stream) == 3
        assert alerts.stream.evicted == 2
        assert numbers(alerts.stream.after(0, 5, CATCH_UP_BYTES)) == [3, 4, 5]

    def test_the_oldest_go_above_the_bytes(self) -> None:
        on = channel()
        alerts = State(on, "alerts", Policy.HISTORY, keep(size=3_000))
        for _ in range(10):
            alerts.change(pad=1_000)
        assert len(alerts.stream) == 2
        assert alerts.stream.size <= 3_000

    def test_a_message_larger_than_the_whole_retention_is_delivered_and_not_kept(self) -> None:
        on = channel()
        alerts = State(on, "alerts", Policy.HISTORY, keep(size=100))
        shown = watch(on)
        alerts.change(pad=1_000)
        assert shown.numbers() == [1]
        assert len(alerts.stream) == 0
        assert alerts.stream.size == 0

    def test_a_topics_messages_age(self, clock: Clock) -> None:
        on = channel(clock=clock)
        alerts = State(on, "alerts", Policy.HISTORY, keep(seconds=10))
        alerts.change()
        clock.advance(6)
        alerts.change()
        clock.advance(6)
        alerts.change()
        assert (alerts.stream.evicted, len(alerts.stream)) == (1, 2)

    def test_an_answers_messages_do_not_age_while_it_runs(self, clock: Clock) -> None:
        on = channel(clock=clock)
        chat = chat_stream(on, keep(seconds=10))
        on.append(chat, [b"{}"])
        clock.advance(1_000)
        on.append(chat, [b"{}"])
        assert len(chat) == 2

    def test_one_streams_retention_is_nothing_to_another(self) -> None:
        on = channel()
        metrics = State(on, "metrics", Policy.LATEST, keep(messages=2))
        alerts = State(on, "alerts", Policy.HISTORY)
        alerts.change()
        for _ in range(100):
            metrics.change()
        assert numbers(alerts.stream.after(0, on.number, 1)) == [1]

    def test_what_is_evicted_is_not_held_in_memory(self) -> None:
        """The front of the log is cut off now and then only; its messages go at once."""
        on = channel()
        alerts = State(on, "alerts", Policy.HISTORY, keep(messages=2))
        tracemalloc.start()
        try:
            for _ in range(200):
                alerts.change(pad=100_000)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 10 * 100_000

    def test_a_backlog_that_turns_over_for_ever_stays_as_small_as_it_is(self) -> None:
        on = channel()
        alerts = State(on, "alerts", Policy.HISTORY, keep(messages=10)).stream
        for _ in range(5_000):
            on.append(alerts, [b"{}"])
        assert len(alerts._backlog._numbers) < 1_000

    @settings(max_examples=200)
    @given(
        retention=st.builds(
            keep, messages=st.integers(1, 20), size=st.integers(200, 4_000), seconds=st.just(1e6)
        ),
        sizes=st.lists(st.integers(0, 400), max_size=700),
    )
    def test_a_backlog_holds_the_newest_that_fit_in_order(
        self, retention: Retention, sizes: list[int]
    ) -> None:
        on = channel()
        alerts = State(on, "alerts", Policy.HISTORY, retention).stream
        for size in sizes:
            on.append(alerts, [b'{"a":"%b"}' % (b"x" * size)])
            kept = alerts.after(0, on.number, 2**40)
            assert numbers(kept) == list(range(alerts.evicted + 1, on.number + 1))
            assert alerts.size == sum(len(message.payload) for message in kept)
            assert alerts.size <= retention.bytes
            assert len(kept) == len(alerts) <= retention.messages


class TestBackpressure:
    """A lossless stream keeps what its fastest viewer needs, and says that it is full."""

    def test_with_nobody_there_the_oldest_go(self) -> None:
        on = channel()
        chat = chat_stream(on, keep(messages=2))
        on.append(chat, [b"{}"] * 5)
        assert not on.full
        assert chat.evicted == 3

    def test_how_an_answer_ended_is_kept_however_little_is_kept_of_it(self) -> None:
        on = channel()
        chat = chat_stream(on, keep(size=1))
        on.append(chat, [b"{}"] * 3)
        assert chat.evicted == 3
        on.end(chat, b'{"finish_reason":"stop"}')
        assert chat.evicted == 3
        assert [message.number for message in chat.after(0, on.number, 1)] == [4]

    def test_a_live_viewer_holds_nothing_up(self) -> None:
        on = channel()
        chat = chat_stream(on, keep(messages=2))
        shown = watch(on)
        for _ in range(5):
            on.append(chat, [b"{}"])
        assert not on.full
        assert shown.numbers() == [1, 2, 3, 4, 5]

    def test_an_only_viewer_never_falls_off_and_learns_when_there_is_room(self) -> None:
        on = channel()
        chat = chat_stream(on, keep(messages=2))
        rooms: list[int] = []
        on.on_room = lambda: rooms.append(on.number)
        shown = watch(on, Shown(Pipe(room=0)))
        for _ in range(5):
            on.append(chat, [b"{}"])
        assert on.full
        assert chat.evicted <= 1
        assert not rooms
        shown.pipe.take(None)
        assert shown.numbers() == [1, 2, 3, 4, 5]
        assert not on.full
        assert rooms == [5]
        assert len(chat) == 2

    def test_when_the_slow_one_leaves_there_is_room(self) -> None:
        on = channel()
        chat = chat_stream(on, keep(messages=2))
        shown = watch(on, Shown(Pipe(room=0)))
        on.append(chat, [b"{}"] * 5)
        on.append(chat, [b"{}"] * 5)
        assert on.full
        rooms: list[bool] = []
        on.on_room = lambda: rooms.append(True)
        shown.leave_all()
        assert rooms == [True]
        assert len(chat) == 2

    def test_one_slow_viewer_cannot_hold_back_another(self) -> None:
        on = channel()
        chat = chat_stream(on, keep(messages=2))
        slow, fast = watch(on, Shown(Pipe(room=0))), watch(on)
        for _ in range(9):
            on.append(chat, [b"{}"])
        assert not on.full
        assert fast.numbers() == list(range(1, 10))
        slow.pipe.take(None)
        assert slow.closes == ["too_slow"]
        assert slow.events("gap")[0]["to"] == 7

    def test_nor_can_it_when_both_lag(self) -> None:
        on = channel()
        chat = chat_stream(on, keep(messages=2))
        slow, fast = watch(on, Shown(Pipe(room=0))), watch(on, Shown(Pipe(room=0)))
        for _ in range(4):
            on.append(chat, [b"{}"])
        assert on.full
        fast.pipe.take(fast.pipe.unsent)
        assert fast.pipe.paused
        assert fast.numbers() == [1, 2, 3, 4]
        assert slow.numbers() == [1]
        assert not on.full

    def test_what_waits_for_the_window_is_not_evicted_from_under_a_live_viewer(
        self, clock: Clock
    ) -> None:
        on = channel(clock=clock, flush_interval=WINDOW, batch_size=1)
        chat = chat_stream(on, keep(messages=2))
        shown = watch(on)
        for _ in range(6):
            on.append(chat, [b"{}"])
        assert on.full
        clock.advance(WINDOW)
        assert shown.numbers() == [1, 2, 3, 4, 5, 6]
        assert not on.full


class TestReading:
    def test_reading_is_strictly_after_the_cursor_and_up_to_what_was_flushed(
        self, clock: Clock
    ) -> None:
        on = channel(clock=clock, flush_interval=WINDOW, batch_size=2)
        chat = chat_stream(on)
        for _ in range(4):
            on.append(chat, [b"{}"])
        everything = frozenset(on.streams)
        assert on.flushed == 2
        assert numbers(on.read(everything, 0)) == [1, 2]
        assert numbers(on.read(everything, 1)) == [2]
        assert on.read(everything, 2) == []
        assert on.read(everything, 99) == []

    @settings(max_examples=200)
    @given(
        appends=st.lists(
            st.tuples(st.sampled_from(["metrics", "alerts", "status"]), st.integers(0, 40_000)),
            max_size=40,
        ),
        watched=st.sets(st.sampled_from(["metrics", "alerts", "status"]), min_size=1),
        start=st.integers(0, 40),
    )
    def test_streams_are_merged_in_order_and_nothing_falls_between_two_reads(
        self, appends: list[tuple[str, int]], watched: set[str], start: int
    ) -> None:
        on = channel()
        streams: dict[str, Stream] = {
            name: State(on, name, Policy.HISTORY).stream for name in ("metrics", "alerts", "status")
        }
        for name, size in appends:
            on.append(streams[name], [b'{"a":"%b"}' % (b"x" * size)])
        cursor, found = start, []
        while part := on.read(frozenset(watched), cursor):
            sizes = [len(message.payload) for message in part]
            assert sum(sizes[:-1]) < CATCH_UP_BYTES, "about so much at a time"
            found += numbers(part)
            cursor = part[-1].number
        expected = [at for at, (name, _) in enumerate(appends, 1) if name in watched and at > start]
        assert found == expected

    def test_a_backlog_much_larger_than_a_read_comes_in_parts(self) -> None:
        on = channel()
        chat = chat_stream(on)
        on.append(chat, [b'{"a":"%b"}' % (b"x" * 20_000)] * 10)
        first = on.read(frozenset(on.streams), 0)
        assert numbers(first) == [1, 2, 3, 4]


class TestWatching:
    def test_each_framing_is_made_once_for_all_its_viewers(self) -> None:
        on = channel()
        chat = chat_stream(on)
        shown = [watch(on) for _ in range(20)]
        framed: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            original = type(EVENTS).message

            def counted(self: Framing, message: Message) -> bytes:
                framed.append(message.number)
                return original(self, message)

            patch.setattr(type(EVENTS), "message", counted)
            on.append(chat, [b"{}", b"{}"])
        assert framed == [1, 2]
        assert all(one.numbers() == [1, 2] for one in shown)

    def test_a_batch_is_one_write_a_viewer(self) -> None:
        on = channel()
        chat = chat_stream(on)
        shown = watch(on)
        on.append(chat, [b"{}"] * 7)
        assert len(shown.pipe.written) == 1

    def test_who_watches_one_topic_is_not_written_for_another(self) -> None:
        deliveries = Deliveries()
        on = channel(observer=deliveries)
        metrics, alerts = State(on, "metrics", Policy.LATEST), State(on, "alerts", Policy.HISTORY)
        shown = Shown()
        Viewer(shown, on, frozenset({"alerts"})).resume(0)
        metrics.change()
        assert shown.pipe.written == []
        alerts.change()
        assert shown.numbers() == [2]
        assert deliveries.batches == [([2], 1)]

    def test_the_last_to_leave_is_noticed_and_only_the_last(self) -> None:
        on = channel()
        chat_stream(on)
        left: list[bool] = []
        on.on_unwatched = lambda: left.append(True)
        first, second = watch(on), watch(on, Shown(Pipe(room=0)))
        assert on.watched
        first.leave_all()
        assert not left
        second.leave_all()
        assert left == [True]
        assert not on.watched
        assert on.viewers() == []

    def test_audiences_without_viewers_are_forgotten(self) -> None:
        on = channel()
        chat_stream(on)
        for _ in range(10):
            watch(on).leave_all()
        assert on.audiences == {}

    def test_the_end_is_written_and_then_the_viewers_are_done(self) -> None:
        on = channel()
        chat = chat_stream(on)
        shown, slow = watch(on), watch(on, Shown(Pipe(room=0)))
        on.append(chat, [b"{}"])
        on.end(chat, b"{}")
        assert shown.numbers() == [1, 2]
        assert shown.finishes == 1
        assert slow.finishes == 0
        slow.pipe.take(None)
        assert slow.numbers() == [1, 2]
        assert slow.finishes == 1
        assert not on.watched


def test_states_are_made_once_for_all_who_join_before_the_next_change() -> None:
    on = channel()
    made: list[int] = []

    def snapshot() -> bytes:
        made.append(on.number)
        return b"{}"

    stream = on.add(
        Stream(Encoder("metrics_update", "metrics", EPOCH), Policy.LATEST, AMPLE, snapshot=snapshot)
    )
    for _ in range(5):
        stream.state(on.number, on.number)
        stream.state(on.number, 0)
    assert made == [0]
    on.append(stream, [b"{}"])
    states = [stream.state(on.number, cursor) for cursor in (1, 0, 1)]
    assert made == [0, 1]
    assert [state.number for state in states if state] == [1, 1, 1]
    assert all(a != b for a, b in pairwise(states))
