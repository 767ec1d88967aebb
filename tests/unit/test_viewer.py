"""Viewers: whatever pauses, cuts and evictions do, nothing is lost unsaid, nothing twice."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.connections.connection import MOST_UNSENT
from streaming_api.engine.channel import Channel
from streaming_api.engine.stream import Policy, Retention
from streaming_api.engine.viewer import Viewer
from streaming_api.wire import framing
from streaming_api.wire.checksum import Checksum
from tests.fakes.engine import (
    AMPLE,
    EPOCH,
    Clock,
    Deliveries,
    Json,
    Pipe,
    Shown,
    State,
    channel,
    chat_stream,
    fold,
)

TOPICS = {"metrics": Policy.LATEST, "alerts": Policy.HISTORY, "status": Policy.HISTORY}
FEW = Retention(bytes=2**30, messages=3, seconds=10**6)


def topics_on(on: Channel, retention: Retention = AMPLE) -> dict[str, State]:
    """The three topics on their channel."""
    return {name: State(on, name, policy, retention) for name, policy in TOPICS.items()}


def view(on: Channel, *names: str, shown: Shown | None = None) -> tuple[Viewer, Shown]:
    shown = shown or Shown()
    return Viewer(shown, on, frozenset(names or on.streams)), shown


def join(on: Channel, *names: str, shown: Shown | None = None) -> Shown:
    viewer, shown = view(on, *names, shown=shown)
    viewer.join()
    return shown


def resume(on: Channel, cursor: int, *names: str, shown: Shown | None = None) -> Shown:
    """As the topics do it: who has seen nothing joins."""
    viewer, shown = view(on, *names, shown=shown)
    if cursor:
        viewer.resume(cursor)
    else:
        viewer.join()
    return shown


class TestJoining:
    def test_who_joins_gets_a_snapshot_of_each_topic_then_what_comes(self) -> None:
        on = channel()
        topics = topics_on(on)
        topics["metrics"].change()
        topics["alerts"].change()
        shown = join(on)
        topics["status"].change()
        seen_by = [(message["stream_id"], message["data"]["event"]) for message in shown.messages()]
        assert seen_by == [
            ("metrics", "snapshot"), ("alerts", "snapshot"), ("status", "snapshot"),
            ("status", "changed"),
        ]  # fmt: skip
        assert all(fold(shown.messages(), name) == topics[name].changes for name in TOPICS)

    def test_what_waits_for_the_window_is_in_the_snapshot_and_does_not_come_again(self) -> None:
        clock = Clock()
        on = channel(clock=clock, flush_interval=10, batch_size=1)
        topics = topics_on(on)
        for _ in range(3):
            topics["metrics"].change()
        shown = join(on)
        clock.advance(10)
        topics["metrics"].change()
        clock.advance(10)
        assert fold(shown.messages(), "metrics") == [1, 2, 3, 4]
        assert [message["data"]["event"] for message in shown.messages()][3:] == ["changed"]

    def test_a_client_cut_off_between_two_snapshots_misses_none(self) -> None:
        """Until the last one is shown its cursor is that of who has seen nothing."""
        on = channel()
        topics = topics_on(on)
        topics["alerts"].change()
        shown = join(on)
        *before, last = shown.messages()
        assert [message["cursor"] for message in before] == [f"{EPOCH}:0"] * 2
        assert last["cursor"] == f"{EPOCH}:1"
        assert [message["sequence_id"] for message in shown.messages()] == [1, 1, 1]

    def test_a_snapshot_of_one_topic_is_where_its_client_is(self) -> None:
        on = channel()
        topics_on(on)["metrics"].change()
        assert join(on, "metrics").messages()[0]["cursor"] == f"{EPOCH}:1"

    def test_a_cursor_that_is_not_flushed_yet_is_not_written_again(self) -> None:
        clock = Clock()
        on = channel(clock=clock, flush_interval=10, batch_size=1)
        topics = topics_on(on)
        topics["alerts"].change()
        topics["alerts"].change()
        assert (on.flushed, on.number) == (1, 2)
        shown = resume(on, 2)
        clock.advance(10)
        topics["alerts"].change(urgent=True)
        assert shown.numbers() == [3]


class TestOpening:
    """What goes ahead of the first message: a response's head."""

    def test_it_goes_along_with_what_is_there_already(self) -> None:
        on = channel()
        on.append(chat_stream(on), [b"{}"] * 2)
        shown = Shown()
        shown.opening = b"head "
        view(on, shown=shown)[0].resume(0)
        (written,) = shown.pipe.written
        assert written.startswith(b"head event: ")
        assert shown.sent() == (2, len(written))

    def test_it_need_not_wait_for_a_message(self) -> None:
        shown = Shown()
        shown.opening = b"head "
        on = channel()
        chat = chat_stream(on)
        view(on, shown=shown)[0].resume(0)
        shown.send_opening()
        shown.send_opening()
        assert shown.pipe.written == [b"head "]
        on.append(chat, [b"{}"])
        assert b"head" not in shown.pipe.written[1]

    def test_it_goes_ahead_of_whatever_else_is_written(self) -> None:
        shown = Shown()
        shown.opening = b"head "
        shown.write(b"comment")
        shown.write(b"another")
        assert shown.pipe.written == [b"head comment", b"another"]


class TestFallingBehind:
    def test_nothing_more_is_written_until_the_transport_drains(self) -> None:
        on = channel()
        topics = topics_on(on)
        shown = resume(on, 0, "alerts", shown=Shown(Pipe(room=0)))
        for _ in range(9):
            topics["alerts"].change()
        assert len(shown.pipe.written) == 1
        assert shown.lag == 9
        shown.pipe.take(None)
        assert shown.numbers()[1:] == list(range(1, 10))
        assert shown.lag == 0

    def test_every_viewer_of_a_paused_connection_has_what_the_flush_was_writing(self) -> None:
        """One batch, two topics, two viewers: the first one's write is one too many."""
        clock = Clock()
        on = channel(clock=clock, flush_interval=10, batch_size=1)
        topics = topics_on(on)
        shown = Shown()
        for name in ("metrics", "alerts"):
            join(on, name, shown=shown)
        topics["metrics"].change()
        shown.pipe.room = 0
        for name in ("metrics", "alerts", "metrics", "alerts"):
            topics[name].change()
        clock.advance(10)
        assert shown.pipe.paused
        shown.pipe.take(None)
        for name in ("metrics", "alerts"):
            assert fold(shown.messages(), name) == topics[name].changes
        assert shown.sent() == (len(shown.messages()), sum(map(len, shown.pipe.written)))

    def test_the_others_do_not_notice(self) -> None:
        on = channel()
        chat = chat_stream(on)
        slow, fast = Shown(Pipe(room=0)), Shown()
        for shown in (slow, fast):
            resume(on, 0, shown=shown)
        for number in range(1, 50):
            on.append(chat, [b"{}"])
            assert fast.numbers()[-1] == number

    async def test_catching_up_on_a_long_backlog_lets_others_have_the_event_loop(self) -> None:
        on = channel()
        chat = chat_stream(on)
        on.append(chat, [b'{"a":"%b"}' % (b"x" * 40_000)] * 40)
        viewer, shown = view(on)
        viewer.resume(0)
        assert 0 < len(shown.numbers()) < 40
        while viewer.lag:
            await asyncio.sleep(0)
        assert shown.numbers() == list(range(1, 41))

    async def test_a_viewer_that_leaves_while_catching_up_is_written_no_more(self) -> None:
        on = channel()
        chat = chat_stream(on)
        on.append(chat, [b'{"a":"%b"}' % (b"x" * 40_000)] * 40)
        viewer, shown = view(on)
        viewer.resume(0)
        viewer.leave()
        viewer.leave()
        before = len(shown.pipe.written)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(shown.pipe.written) == before
        assert shown.viewers == set()


class TestOffTheBacklog:
    def test_latest_jumps_to_the_newest_state(self) -> None:
        on = channel()
        topics = topics_on(on, FEW)
        shown = join(on, "metrics", shown=Shown(Pipe(room=0)))
        for _ in range(20):
            topics["metrics"].change()
        shown.pipe.take(None)
        assert shown.events("gap") == []
        assert [message["data"]["event"] for message in shown.messages()] == ["snapshot"] * 2
        assert fold(shown.messages(), "metrics") == topics["metrics"].changes

    def test_history_gets_a_gap_and_then_the_oldest_that_is_kept(self) -> None:
        on = channel()
        topics = topics_on(on, FEW)
        shown = join(on, "alerts", shown=Shown(Pipe(room=0)))
        for _ in range(20):
            topics["alerts"].change()
        shown.pipe.take(None)
        assert shown.events("gap") == [{"event": "gap", "reason": "evicted", "from": 1, "to": 17}]
        assert shown.numbers()[1:] == [18, 19, 20]

    def test_lossless_gets_a_gap_and_is_closed(self) -> None:
        on = channel()
        chat = chat_stream(on, FEW)
        resume(on, 0)
        slow = resume(on, 0, shown=Shown(Pipe(room=0)))
        for _ in range(9):
            on.append(chat, [b"{}"])
        slow.pipe.take(None)
        (gap,) = slow.events("gap")
        assert gap["reason"] == "evicted"
        assert slow.closes == ["too_slow"]
        assert slow.viewers == set()

    def test_a_snapshot_amid_other_topics_leaves_the_cursor_where_they_are(self) -> None:
        """Cut off right behind it, the client comes back for the alerts it has not seen."""
        on = channel()
        topics = topics_on(on)
        topics["metrics"].stream.keep(FEW)
        topics["alerts"].change()
        shown = join(on, "metrics", "alerts", shown=Shown(Pipe(room=0)))
        for _ in range(5):
            topics["metrics"].change()
            topics["alerts"].change()
        shown.pipe.take(None)
        *_, snapshot = [m for m in shown.messages() if m["data"]["event"] == "snapshot"]
        assert (snapshot["cursor"], snapshot["sequence_id"]) == (f"{EPOCH}:1", 11)
        assert shown.messages()[-1]["cursor"] == f"{EPOCH}:11"

    def test_the_same_gap_is_not_reported_twice(self) -> None:
        """Eviction goes on while a viewer of several topics reads on."""
        on = channel()
        topics = topics_on(on)
        topics["alerts"].stream.keep(FEW)
        shown = join(on, shown=Shown(Pipe(room=0)))
        for _ in range(10):
            topics["alerts"].change()
        for _ in range(10):
            topics["status"].change(pad=30_000)
        shown.pipe.take(1)  # the snapshots that it was stuck in, not yet all of them
        shown.pipe.room, shown.pipe.unsent = 100, 0
        shown.pipe.paused = False
        shown.resume_writing()
        for _ in range(10):
            topics["alerts"].change()
        shown.pipe.take(None)
        gaps = [(gap["from"], gap["to"]) for gap in shown.events("gap")]
        assert gaps[0] == (1, 7)
        for (_, end), (start, _) in pairwise(gaps):
            assert end < start


class Client:
    """A client of the topics that stalls, is cut, and comes back with its last cursor."""

    def __init__(self, on: Channel, names: tuple[str, ...]) -> None:
        self.channel = on
        self.names = names
        self.seen: list[Json] = []
        self.cursor = 0
        self.shown = self._connect()

    def _connect(self) -> Shown:
        return resume(self.channel, self.cursor, *self.names, shown=Shown(Pipe(room=0, high=200)))

    def take(self, count: int | None) -> None:
        """The network lets so many bytes more through."""
        self.shown.pipe.take(count)

    def cut(self) -> None:
        """The connection breaks with whatever had got through; the client resumes after it."""
        got = sum(map(len, self.shown.pipe.written)) - self.shown.pipe.unsent
        self.shown.leave_all()
        through = b"".join(self.shown.pipe.written)[:got]
        whole = through[: through.rfind(b"\n\n") + 2] if b"\n\n" in through else b""
        self.shown.pipe.written[:] = [whole]
        self._read()
        self.shown = self._connect()

    def _read(self) -> None:
        for message in self.shown.messages():
            self.seen.append(message)
            if "cursor" in message:
                self.cursor = int(message["cursor"].rpartition(":")[2])

    def finish(self) -> None:
        """Everything gets through."""
        self.take(None)
        self._read()


def ops() -> st.SearchStrategy[list[tuple[str, Any]]]:
    return st.lists(
        st.one_of(
            st.tuples(st.just("change"), st.sampled_from(sorted(TOPICS))),
            st.tuples(st.just("urgent"), st.sampled_from(sorted(TOPICS))),
            st.tuples(st.just("take"), st.integers(1, 1_500)),
            st.tuples(st.just("drain"), st.none()),
            st.tuples(st.just("cut"), st.none()),
            st.tuples(st.just("wait"), st.floats(0, 1.5)),
        ),
        max_size=60,
    )


class TestAnyOrderOfThings:
    @settings(max_examples=400)
    @given(ops(), st.sets(st.sampled_from(sorted(TOPICS)), min_size=1), st.booleans())
    def test_a_client_of_several_topics_ends_with_their_states(
        self,
        steps: list[tuple[str, Any]],
        names: set[str],
        few: bool,  # noqa: FBT001
    ) -> None:
        """With a long log, or one so short that it falls off: then a gap says what it misses."""
        clock = Clock()
        on = channel(clock=clock, flush_interval=1.0, batch_size=2)
        topics = topics_on(on, FEW if few else AMPLE)
        client = Client(on, tuple(sorted(names)))
        for what, how in steps:
            if what in {"change", "urgent"}:
                topics[how].change(urgent=what == "urgent")
            elif what == "take":
                client.take(how)
            elif what == "drain":
                client.take(None)
            elif what == "cut":
                client.cut()
            else:
                clock.advance(how)
        clock.advance(1.0)
        client.finish()
        for name in names:
            state = fold(client.seen, name)
            missing = {
                number
                for message in client.seen
                if message.get("stream_id") == name and message["data"]["event"] == "gap"
                for number in range(message["data"]["from"], message["data"]["to"] + 1)
            }
            if TOPICS[name] is Policy.LATEST:
                assert missing == set()
                assert state[-1:] == topics[name].changes[-1:]
                assert state == topics[name].changes or few
            else:
                lost = set(topics[name].changes) - set(state)
                assert lost <= missing, "what is lost has been told"
                assert not missing or few
            if not few:
                assert state == topics[name].changes

    @settings(max_examples=300)
    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("append"), st.integers(1, 4)),
                st.tuples(st.just("take"), st.integers(1, 1_500)),
                st.tuples(st.just("drain"), st.none()),
                st.tuples(st.just("cut"), st.none()),
                st.tuples(st.just("wait"), st.floats(0, 1.5)),
            ),
            max_size=60,
        ),
        st.sampled_from([AMPLE, Retention(bytes=2**30, messages=40, seconds=1.0)]),
    )
    def test_no_number_of_an_answer_is_lost_or_doubled(
        self, steps: list[tuple[str, Any]], retention: Retention
    ) -> None:
        """Its only viewer stalls and is cut; the producer stops while the log is full."""
        clock = Clock()
        on = channel(clock=clock, flush_interval=1.0, batch_size=2)
        chat = chat_stream(on, retention)
        shown = Shown(Pipe(room=0, high=200))
        Viewer(shown, on, frozenset(on.streams)).resume(0)
        seen: list[int] = []

        def through() -> list[int]:
            data = b"".join(shown.pipe.written)
            got = data[: len(data) - shown.pipe.unsent]
            shown.pipe.written[:] = [got[: got.rfind(b"\n\n") + 2] if b"\n\n" in got else b""]
            return shown.numbers()

        for what, how in steps:
            if what == "append" and not on.full:
                on.append(chat, [b'{"a":"xxxxxxxxxxxxxxxxxxxxxxxxx"}'] * how)
            elif what == "take":
                shown.pipe.take(how)
            elif what == "drain":
                shown.pipe.take(None)
            elif what == "cut":
                old = shown
                seen += through()
                shown = Shown(Pipe(room=0, high=200))
                viewer = Viewer(shown, on, frozenset(on.streams))
                viewer.attach(seen[-1] if seen else 0)  # before the old one goes, as a resume does
                old.leave_all()
                viewer.catch_up()
            else:
                clock.advance(how)
            assert len(chat) <= retention.messages + 8, "bounded by the retention and one read"
        on.end(chat, b"{}")
        shown.pipe.take(None)
        seen += through()
        assert seen == list(range(1, on.number + 1))
        assert shown.finishes == 1
        assert shown.closes == []

    @settings(max_examples=100)
    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 700)), max_size=50))
    def test_several_viewers_of_one_connection_each_get_theirs(
        self, steps: list[tuple[int, int]]
    ) -> None:
        """As on a WebSocket: one viewer a topic, one transport for all, paused by any."""
        clock = Clock()
        on = channel(clock=clock, flush_interval=1.0, batch_size=1)
        topics = topics_on(on)
        names = sorted(TOPICS)
        shown = Shown(Pipe(room=0, high=100))
        for name in names:
            join(on, name, shown=shown)
        for which, size in steps:
            if which < len(names):
                topics[names[which]].change(pad=size)
            else:
                shown.pipe.take(size)
                clock.advance(size / 700)
        clock.advance(1.0)
        shown.pipe.take(None)
        for name in names:
            assert fold(shown.messages(), name) == topics[name].changes
        assert shown.sent() == (len(shown.messages()), sum(map(len, shown.pipe.written)))


class TestFigures:
    def test_a_connection_knows_what_it_was_sent_live_and_late(self) -> None:
        seen_by = Deliveries()
        on = channel(observer=seen_by)
        chat = chat_stream(on)
        on.append(chat, [b"{}"] * 3)
        (viewer, shown), (other, _) = view(on), view(on)
        viewer.resume(0)
        other.resume(0)
        on.append(chat, [b"{}"] * 2)
        assert shown.sent() == (5, sum(map(len, shown.pipe.written)))
        shown.leave_all()
        assert shown.sent() == (5, sum(map(len, shown.pipe.written)))
        assert seen_by.batches == [([4, 5], 2)]

    def test_a_viewer_says_how_it_stands(self) -> None:
        on = channel()
        chat_stream(on)
        viewer, shown = view(on)
        assert "lagging at 0" in repr(viewer)
        viewer.resume(0)
        assert "live at 0" in repr(viewer)
        shown.leave_all()
        assert "gone" in repr(viewer)

    def test_each_connection_has_the_checksum_of_what_it_was_sent_compressed(self) -> None:
        class Gzip(Shown):
            checksum = Checksum()

            def add_plain(self, plain: bytes) -> None:
                for viewer in self.viewers:
                    viewer.pass_checksum()
                self.checksum = self.checksum.add(plain)

            def add_checksum(self, written: Checksum) -> None:
                self.checksum = self.checksum.join(written)

        on = channel()
        chat = chat_stream(on)
        on.append(chat, [b"{}"])
        live, interrupted, late = (Gzip(framing=framing.GZIP_EVENTS) for _ in range(3))
        for one in (live, interrupted):
            resume(on, 1, shown=one)
        on.append(chat, [b"{}"] * 2)
        view(on, shown=late)[0].resume(0)
        interrupted.add_plain(b"a heartbeat")
        on.append(chat, [b"{}"])
        for one in (live, interrupted, late):
            one.leave_all()
        plain = [framing.EVENTS.message(message) for message in chat.after(0, 9, 10**6)]
        assert late.checksum == Checksum().add(b"".join(plain))
        assert live.checksum == Checksum().add(b"".join(plain[1:]))
        seen_by = b"".join([*plain[1:3], b"a heartbeat", plain[3]])
        assert interrupted.checksum == Checksum().add(seen_by)


class TestNotices:
    def test_a_client_that_asks_on_and_on_and_reads_nothing_is_dropped(self) -> None:
        shown = Shown(Pipe(room=0))
        shown.send(b"x" * (MOST_UNSENT // 2), "alert")
        shown.send(b"x" * (MOST_UNSENT // 2), "alert")
        assert not shown.pipe.aborted
        shown.send(b"x", "alert")
        assert shown.pipe.aborted
        assert shown.ending == "stalled"
        written = len(shown.pipe.written)
        shown.send(b"x", "alert")
        assert len(shown.pipe.written) == written

    @pytest.mark.parametrize("first", [None, 3])
    def test_a_gap_says_what_is_missing_as_far_as_it_is_known(self, first: int | None) -> None:
        on = channel()
        chat = chat_stream(on)
        viewer, shown = view(on)
        viewer.report_gap(chat, "evicted", first, 7 if first else None)
        (message,) = shown.messages()
        assert message["request_id"] == "r"
        assert message["stream_id"] == "chat/r"
        assert "sequence_id" not in message
        assert ("from" in message["data"]) == (first is not None)
