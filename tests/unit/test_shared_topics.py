"""Topics that are made in one process and shown in many: what is shown is what was made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.cluster.entries import Unreadable
from streaming_api.cluster.topic_entries import (
    TopicEntry,
    decode,
    decode_state,
    encode_state,
    memory_of,
)
from streaming_api.config import StreamingConfig
from streaming_api.sources.values import Alert, AlertSource
from streaming_api.topics import Readings, Topics
from streaming_api.topics.alerts import WEBHOOK_KEPT, Alerts
from streaming_api.topics.board import AHEAD_SECONDS, Past
from streaming_api.topics.processes import Processes, Report
from streaming_api.topics.status import SELF, Component, Status
from tests.unit.test_topics import alert, listed, new_channel, until, watch

EPOCH: Final = "0123456789abcdef"
SOURCES: Final[tuple[AlertSource, ...]] = ("prometheus", "alertmanager", "webhook")

Json = dict[str, Any]


def several(**settings: object) -> Topics:
    """The topics of one of several processes, which shows what it makes."""
    config = StreamingConfig(**settings)  # type: ignore[arg-type]
    topics = Topics(config, new_channel(), None, new_channel(EPOCH + "h"), "one")
    boards = topics.boards.values()

    def show(name: str, changes: tuple[bytes, ...], urgent: bool) -> None:  # noqa: FBT001 (an outlet)
        next(each for each in boards if name in each.names).show(name, changes, urgent=urgent)

    topics.pass_on(show)
    topics.take_over(None)
    return topics


def of_both(topics: Topics) -> list[tuple[Json, Json]]:
    """What is made and what is shown, as their dumps have it."""
    shown = (topics.metrics, topics.alerts, topics.status, topics.history)
    return [
        (orjson.loads(made.dump()), orjson.loads(each.dump()))
        for made, each in zip(topics.desk.topics(), shown, strict=True)
    ]


values = st.dictionaries(
    st.sampled_from("abc"), st.sampled_from([None, 0.0, 1.5, math.inf, -math.inf, math.nan])
)
steps = st.one_of(
    st.tuples(st.just("metrics"), st.sampled_from(["process", "exposition"]), values),
    st.tuples(
        st.just("status"), st.sampled_from(["gateway", SELF]), st.sampled_from(["up", "down"])
    ),
    st.tuples(
        st.just("alerts"), st.sampled_from(SOURCES), st.lists(st.sampled_from("xyz"), unique=True)
    ),
    st.tuples(st.just("history"), st.just(""), values),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=25), st.integers(0, 25))
def test_what_is_shown_is_what_was_made_whoever_takes_over_when(
    changes: list[tuple[str, str, Any]], takeover: int
) -> None:
    topics = several()
    for at, (topic, name, value) in enumerate(changes):
        if at == takeover:
            topics.take_over(topics.memory())
        if topic == "metrics":
            topics.desk.metrics.update(name, value)
        elif topic == "status":
            topics.desk.status.set(name, value, "A reason.")
        elif topic == "alerts":
            alerts = [alert(each, source=name) for each in value]  # type: ignore[arg-type]
            topics.desk.alerts.poll(name, listed(*alerts))  # type: ignore[arg-type]
        else:
            topics.desk.history.sample(value)
    for made, shown in of_both(topics):
        assert shown == made


def test_a_state_restores_everything() -> None:
    topics = several()
    topics.desk.metrics.update("process", {"a": math.inf, "b": None})
    topics.desk.alerts.poll("prometheus", listed(alert("One")))
    topics.desk.history.sample({"a": 1.0})
    other = several()
    for name, board in topics.boards.items():
        state = encode_state(7, board.dumps(), topics.memory())
        other.boards[name].load("of-the-store", decode_state(state)[0], [])
        assert other.boards[name].channel.number == 7
    assert [shown for _, shown in of_both(other)] == [shown for _, shown in of_both(topics)]


class TestBoard:
    def messages(self, topics: Topics, first: int, *names: str) -> list[tuple[str, bytes]]:
        board = topics.boards["topics"]
        change = b'{"event":"changed","component":"%b","status":%b}'
        status = orjson.dumps({"state": "up", "since": "", "reason": None, "detail": None})
        return [
            ("status", board.encode(number, "status", change % (name.encode(), status)))
            for number, name in enumerate(names, first)
        ]

    def test_what_is_known_already_is_skipped_and_what_is_missing_is_noticed(self) -> None:
        topics = several()
        board = topics.boards["topics"]
        lines = self.messages(topics, 1, "a", "b", "c")
        shown = watch(topics, "status")
        assert board.take(1, lines[:2])
        assert board.take(1, lines)
        assert not board.take(5, self.messages(topics, 5, "e"))
        assert [each["sequence_id"] for each in shown.messages()] == [0, 1, 2, 3]
        assert {"a", "b", "c"} < topics.status.states().keys()

    def test_a_topic_that_is_off_here_uses_up_its_numbers(self) -> None:
        topics = several(streaming_alerts_enabled=False)
        board = topics.boards["topics"]
        shown = watch(topics, "status")
        (line,) = self.messages(topics, 2, "a")
        assert board.take(1, [("alerts", b"{}"), line])
        assert [each["sequence_id"] for each in shown.messages()] == [0, 2]

    def test_whoever_watches_is_told_of_another_epoch_and_shown_the_state(self) -> None:
        topics = several()
        shown = watch(topics, "metrics", "status")
        board = topics.boards["topics"]
        entries = [(3, self.messages(topics, 3, "a", "b")), (5, self.messages(topics, 5, "c"))]
        status = {"event": "snapshot", "components": {}}
        board.load("other", Past(4, {"status": status}), entries)
        gaps, snapshots = shown.data()[2:4], shown.messages()[4:]
        assert [gap["reason"] for gap in gaps] == ["epoch", "epoch"]
        assert snapshots[-1]["cursor"] == "other:5"
        assert list(snapshots[-1]["data"]["components"]) == ["c"], "a and b are in the state"
        again = watch(topics, "status", cursor="other:2")
        assert [each["sequence_id"] for each in again.messages()] == [3, 4, 5]
        late = watch(topics, "status", cursor="other:1")
        assert late.data()[0] == {"event": "gap", "reason": "evicted", "from": 2, "to": 2}

    async def test_a_cursor_that_is_on_its_way_here_is_waited_for(self) -> None:
        topics = several()
        board = topics.boards["topics"]
        lines = self.messages(topics, 1, "a", "b", "c", "d")
        board.take(1, lines[:1])
        shown = watch(topics, "status", cursor=f"{EPOCH}:3")
        board.take(2, lines[1:2])
        assert shown.messages() == []
        board.take(3, lines[2:])
        board.take(5, self.messages(topics, 5, "e"))
        assert [each["sequence_id"] for each in shown.messages()] == [4, 5]

    async def test_a_cursor_that_never_was_is_said_to_be_of_the_future(self) -> None:
        topics = several()
        shown = watch(topics, "status", cursor=f"{EPOCH}:99999")
        gone = watch(topics, "status", cursor=f"{EPOCH}:99999")
        gone.leave_all()
        await until(lambda: bool(shown.messages()))
        assert [each.get("reason") for each in shown.data()] == ["future", None]
        assert gone.messages() == []
        assert AHEAD_SECONDS <= 1


class TestProcesses:
    def processes(self, *reports: Report) -> Processes:
        processes = Processes("one", Status())
        processes.hear(reports)
        return processes

    def report(self, worker: str, age: float = 1.0, **given: Any) -> Report:  # noqa: ANN401
        components: Mapping[str, Component] = {SELF: Component("up", "")}
        parts: dict[str, Any] = {"figures": {}, "history": {}, "readings": Readings()}
        return Report(worker=worker, age=age, **parts | {"components": components} | given)

    def test_a_report_survives_the_way_through_the_store(self) -> None:
        readings = Readings({"sse": (1, 2)}, {"sse": None}, "one")
        report = self.report("one", figures={"a": None}, history={"b": 1.5}, readings=readings)
        assert Report.decode(report.encode()) == report

    def test_figures_have_the_name_and_the_youngest_has_it_of_two(self) -> None:
        reports = [self.report("one", 1, figures={"fds": 3.0}),
                   self.report("one", 9, figures={"fds": 8.0}),
                   self.report("two", 5, figures={"fds": 4.0})]  # fmt: skip
        assert self.processes(*reports).all_figures() == {
            'fds{worker="one"}': 3.0,
            'fds{worker="two"}': 4.0,
        }

    def test_the_history_adds_up_but_shows_the_slowest(self) -> None:
        one = {"answers_running": 1.0, "cpu_seconds": 3.0, "first_token_p50_seconds": 0.2}
        two = {"answers_running": 2.0, "cpu_seconds": 4.0, "first_token_p50_seconds": None}
        both = self.processes(self.report("one", history=one), self.report("two", history=two))
        assert both.all_history() == {
            "answers_running": 3.0, "cpu_seconds": 7.0, "first_token_p50_seconds": 0.2,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("said", "agreed"),
        [
            ({"one": ("up", None), "two": ("up", None)}, ("up", None)),
            ({"one": ("up", "Odd."), "two": ("up", "Odd.")}, ("up", "Odd.")),
            ({"one": ("up", None), "two": ("down", "No route.")}, ("down", "two: No route.")),
            ({"one": ("loading", "Soon."), "two": ("up", None)}, ("up", None)),
        ],
    )
    def test_a_component_is_as_the_worst_of_them_finds_it(
        self, said: dict[str, tuple[str, str | None]], agreed: tuple[str, str | None]
    ) -> None:
        reports = [
            self.report(who, components={"gateway": Component(state, "", reason)})
            for who, (state, reason) in said.items()
        ]
        found = self.processes(*reports).all_components()["gateway"]
        assert (found.state, found.reason) == agreed

    def test_the_service_stops_when_all_do(self) -> None:
        leaving = {SELF: Component("draining", "", "It stops.")}
        one, two = self.report("one"), self.report("two", components=leaving)
        some = self.processes(one, two).all_components()[SELF]
        assert (some.state, some.reason) == ("up", "two: It stops.")
        assert self.processes(two).all_components()[SELF].state == "draining"


class TestAlertsTakenOver:
    def test_an_alert_of_the_webhook_ends_when_it_would_have_ended(self) -> None:
        now = 0.0
        one = Alerts(lambda: now)
        one.webhook([alert(source="webhook")], "group", 3)
        now = WEBHOOK_KEPT - 10
        memory = orjson.loads(orjson.dumps(one.memory()))
        other = Alerts(lambda: now)
        other.fold(orjson.loads(one.dump()))
        other.recall(memory)
        assert other.left_out == 3
        now += 9
        other.expire()
        assert other.counts()["firing"] == 1
        now += 2
        other.expire()
        assert other.counts()["firing"] == 0

    def test_each_source_still_reports_what_it_reported(self) -> None:
        one = Alerts()
        silenced: Alert = alert(source="alertmanager")
        one.poll("alertmanager", listed(silenced))
        one.poll("prometheus", listed(alert()))
        other = Alerts()
        other.fold(orjson.loads(one.dump()))
        other.poll("alertmanager", listed())
        (left,) = orjson.loads(other.snapshot())["alerts"]
        assert (left["source"], left["sources"]) == ("prometheus", ["prometheus"])


class TestEntries:
    def test_an_entry_survives_the_store(self) -> None:
        entry = TopicEntry(5, [("status", b'{"a": 1}'), ("", b"")], "7-1", 2)
        fields = entry.encode()
        stored = dict(zip(fields[::2], fields[1::2], strict=True))
        assert decode("5-0", stored | {b"later": b"1"}) == entry

    def test_what_is_no_entry_is_unreadable(self) -> None:
        for fields in ({}, {b"z": b"no deflate", b"w": b"0-0"}, {b"z": b""}):
            with pytest.raises(Unreadable):
                decode("1-0", fields)
        with pytest.raises(Unreadable):
            decode_state(b"no state")
        assert memory_of(None) is memory_of(b"no state") is None


def test_the_others_viewers_hear_nothing_of_one_that_stops() -> None:
    topics, other = several(), several()
    mine, theirs = watch(topics, "status"), watch(other, "status")
    topics.report_draining()
    assert mine.data()[-1]["status"]["state"] == "draining"
    assert "cursor" not in mine.messages()[-1]
    assert len(theirs.data()) == 1
    assert topics.processes.report().leaving
