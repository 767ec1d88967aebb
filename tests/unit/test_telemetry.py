"""Telemetry: counted by hand, on a clock that stands still; no traffic is never 100 percent."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_api.engine.observer import Writes
from streaming_api.engine.viewer import Viewer
from streaming_api.telemetry.deliveries import BOUNDS, IN_TIME, WINDOW, Histogram, Telemetry
from streaming_api.wire.messages import Encoder, Message
from tests.fakes.engine import Clock, Pipe, Shown, channel, chat_stream
from tests.records import ended


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The time that telemetry sees."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(time, "monotonic", clock.monotonic)
        yield clock


def message(number: int, appended: float) -> Message:
    return Encoder("chat_completion", "chat/r", "r", "r").encode(number, b"{}", appended)


def unstick(slow: Viewer) -> None:
    """The kernel takes what it held back."""
    assert isinstance(slow.connection, Shown)
    slow.connection.pipe.take(None)


def viewer(pipe: Pipe | None = None, since: float = 0.0) -> Viewer:
    on = channel()
    chat_stream(on)
    made = Viewer(Shown(pipe), on, frozenset(on.streams))
    made.since = since
    return made


def stuck() -> Pipe:
    """A transport that has bytes which the kernel does not take."""
    pipe = Pipe(room=0)
    pipe.unsent = 1
    return pipe


def writes(*viewers: Viewer) -> Writes:
    return tuple((one, one.write) for one in viewers)


class TestHistogram:
    def test_nothing_observed_is_no_figure(self) -> None:
        histogram = Histogram()
        assert histogram.share_in_time() is None
        assert histogram.quantile(0.99) is None

    @pytest.mark.parametrize(
        ("seconds", "share"), [(0.0, 100), (IN_TIME, 100), (IN_TIME * 1.01, 0), (1e9, 0)]
    )
    def test_a_hundred_milliseconds_are_in_time_and_no_more(
        self, seconds: float, share: float
    ) -> None:
        histogram = Histogram()
        histogram.observe(seconds, 7)
        assert histogram.share_in_time() == share

    def test_each_time_is_counted_under_the_first_bound_that_it_does_not_exceed(self) -> None:
        histogram = Histogram()
        for bound in BOUNDS:
            histogram.observe(bound, 1)
        histogram.observe(BOUNDS[-1] + 1, 2)
        assert histogram.counts == [1] * len(BOUNDS) + [2]
        assert histogram.sum == pytest.approx(sum(BOUNDS) + 2 * (BOUNDS[-1] + 1))

    def test_a_share_is_of_deliveries(self) -> None:
        histogram = Histogram()
        histogram.observe(0.001, 3)
        histogram.observe(1.0, 1)
        assert histogram.share_in_time() == 75

    def test_what_is_older_than_the_window_no_longer_counts(self, clock: Clock) -> None:
        histogram = Histogram()
        histogram.observe(1.0, 1)
        clock.advance(WINDOW / 2)
        histogram.observe(0.001, 1)
        assert histogram.share_in_time() == 50
        clock.advance(WINDOW / 2 + 1)
        assert histogram.share_in_time() == 100
        clock.advance(WINDOW)
        assert histogram.share_in_time() is None
        assert sum(histogram.counts) == 2, "since the start it does"

    def test_a_short_look_back_sees_the_short_past(self, clock: Clock) -> None:
        histogram = Histogram()
        histogram.observe(10.0, 100)
        clock.advance(100)
        histogram.observe(0.001, 1)
        assert histogram.quantile(0.99, 60) == 0.001
        assert histogram.quantile(0.99) == 10.0

    def test_above_the_last_bound_a_quantile_is_not_made_up(self) -> None:
        histogram = Histogram()
        histogram.observe(1_000, 1)
        assert histogram.quantile(0.5) == math.inf

    @given(
        st.lists(st.floats(0, 60), min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.9, 0.99])
    )
    def test_a_quantile_is_an_upper_bound_and_no_further_than_the_next(
        self, latencies: list[float], share: float
    ) -> None:
        histogram = Histogram()
        for seconds in latencies:
            histogram.observe(seconds, 1)
        bound = histogram.quantile(share)
        assert bound is not None
        exact = sorted(latencies)[math.ceil(share * len(latencies)) - 1]
        assert exact <= bound
        assert bound == min(limit for limit in BOUNDS if limit >= exact)

    @given(st.lists(st.tuples(st.floats(0, 40), st.integers(1, 5)), max_size=80))
    def test_the_window_is_exact_to_a_slice(self, steps: list[tuple[float, int]]) -> None:
        """What is surely inside counts, what is surely outside does not."""
        with pytest.MonkeyPatch.context() as patch:
            clock = Clock()
            patch.setattr(time, "monotonic", clock.monotonic)
            histogram, seen = Histogram(), []
            for pause, count in steps:
                clock.advance(pause)
                histogram.observe(0.001, count)
                seen.append((clock.now, count))
            recent = sum(histogram.recent())
            inside = sum(count for when, count in seen if when > clock.now - WINDOW + 5)
            possible = sum(count for when, count in seen if when >= clock.now - WINDOW)
            assert inside <= recent <= possible


class TestDeliveries:
    def test_one_flush_counts_each_message_for_each_viewer(self, clock: Clock) -> None:
        telemetry = Telemetry()
        batch = [message(1, clock.now - 0.02), message(2, clock.now - 0.02)]
        telemetry.delivered(batch, writes(*(viewer() for _ in range(3))))
        assert telemetry.deliveries == {"websocket": 0, "sse": 6}
        assert telemetry.performance("sse") == 100
        assert telemetry.performance("websocket") is None
        assert telemetry.latency["sse"].quantile(0.5) == 0.025

    def test_messages_that_waited_for_the_window_are_as_old_as_they_are(self, clock: Clock) -> None:
        telemetry = Telemetry()
        telemetry.delivered(
            [message(1, clock.now - 0.3), message(2, clock.now - 0.002)], writes(viewer())
        )
        assert telemetry.performance("sse") == 50

    def test_what_the_kernel_has_not_taken_is_not_delivered_yet(self, clock: Clock) -> None:
        telemetry = Telemetry()
        slow, fast = viewer(stuck()), viewer()
        telemetry.delivered([message(1, clock.now)], writes(slow, fast))
        assert telemetry.deliveries["sse"] == 1
        clock.advance(1)
        telemetry.check_late()
        assert telemetry.deliveries["sse"] == 1
        unstick(slow)
        telemetry.check_late()
        assert telemetry.deliveries["sse"] == 2
        assert telemetry.performance("sse") == 50
        telemetry.check_late()
        assert telemetry.deliveries["sse"] == 2

    def test_what_never_arrives_is_late_and_no_delivery(self, clock: Clock) -> None:
        telemetry = Telemetry()
        slow = viewer(stuck())
        telemetry.delivered([message(1, clock.now)], writes(slow))
        slow.connection.transport.abort()
        telemetry.check_late()
        assert telemetry.performance("sse") == 0
        assert telemetry.deliveries["sse"] == 0
        assert telemetry._late == {}

    def test_an_old_message_is_due_to_a_new_viewer_when_it_comes(self, clock: Clock) -> None:
        telemetry = Telemetry()
        telemetry.delivered_late(
            viewer(since=clock.now - 0.01), [message(1, 1.0), message(2, clock.now)]
        )
        assert telemetry.performance("sse") == 100
        assert telemetry.deliveries["sse"] == 2

    def test_who_falls_behind_is_late(self, clock: Clock) -> None:
        telemetry = Telemetry()
        telemetry.delivered_late(viewer(since=0.0), [message(1, clock.now - 5)])
        assert telemetry.performance("sse") == 0

    def test_a_stuck_viewer_costs_two_numbers_not_one_a_message(self, clock: Clock) -> None:
        telemetry = Telemetry()
        slow = viewer(stuck())
        for number in range(10_000):
            telemetry.delivered([message(number, clock.now)], writes(slow))
        assert len(telemetry._late[slow.connection]) <= 65
        unstick(slow)
        telemetry.check_late()
        assert telemetry.deliveries["sse"] == 10_000

    def test_a_flush_that_nobody_saw_counts_nothing(self, clock: Clock) -> None:
        telemetry = Telemetry()
        telemetry.delivered([message(1, clock.now)], ())
        assert telemetry.performance("sse") is None


class TestConnections:
    def test_without_connections_there_is_no_stability(self) -> None:
        assert Telemetry().stability() is None

    def test_stability_is_the_share_that_did_not_end_by_a_fault(self) -> None:
        telemetry = Telemetry()
        for _ in range(4):
            telemetry.opened("websocket")
        telemetry.closed("websocket", "client", fault=False)
        assert telemetry.stability() == 100
        telemetry.closed("websocket", "stalled", fault=True)
        assert telemetry.stability() == 75
        assert telemetry.endings["websocket", "stalled"] == 1

    def test_an_old_fault_is_forgotten_and_an_open_connection_is_not(self, clock: Clock) -> None:
        telemetry = Telemetry()
        telemetry.opened("sse")
        telemetry.opened("sse")
        telemetry.closed("sse", "broken", fault=True)
        clock.advance(WINDOW + 1)
        assert telemetry.stability() == 100

    def test_a_storm_of_endings_does_not_pile_up(self) -> None:
        telemetry = Telemetry()
        for _ in range(100_100):
            telemetry.opened("sse")
            telemetry.closed("sse", "client", fault=False)
        assert len(telemetry._ended.rows(0)) < 100, "slices of time, and no row for each"


class TestAnswers:
    def test_each_outcome_is_counted_and_an_unknown_one_as_other(self) -> None:
        telemetry = Telemetry()
        for outcome in ("stop", "stop", "error", "made up by the model"):
            telemetry.answer_ended(ended(outcome=outcome, chunks=10))
        counted = {name: count for name, count in telemetry.outcomes.items() if count}
        assert counted == {"stop": 2, "error": 1, "other": 1}
        assert telemetry.chunks == 40

    def test_tokens_a_second_are_those_of_the_last_seconds(self, clock: Clock) -> None:
        telemetry = Telemetry()
        assert telemetry.tokens_per_second() == 0
        telemetry.sample_rate(1_000)
        assert telemetry.tokens_per_second() == 0
        for second in range(1, 11):
            clock.advance(1)
            telemetry.sample_rate(1_000 + 50 * second)
        assert telemetry.tokens_per_second() == pytest.approx(50)
        for _ in range(6):
            clock.advance(1)
            telemetry.sample_rate(1_500)
        assert telemetry.tokens_per_second() == 0

    def test_two_samples_of_one_moment_divide_by_nothing(self) -> None:
        telemetry = Telemetry()
        telemetry.sample_rate(1)
        telemetry.sample_rate(2)
        assert telemetry.tokens_per_second() == 0
