"""The topics: what is published when state changes, what a viewer sees, what a failure costs."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, ClassVar, Final

import attrs
import orjson
import pytest

from streaming_api.access.client import Client
from streaming_api.access.rates import Bucket
from streaming_api.background import Background, Backoff, supervise
from streaming_api.config import StreamingConfig
from streaming_api.connections.connection import Connection
from streaming_api.connections.manager import ConnectionManager
from streaming_api.engine.channel import Channel
from streaming_api.errors import NotFound
from streaming_api.sources.prometheus import QueryResult
from streaming_api.sources.values import (
    Alert,
    AlertList,
    AlertSource,
    AlertState,
    Sample,
    SourceError,
    make_alert,
)
from streaming_api.topics import Readings, Topics, feeds, polling
from streaming_api.topics.alerts import WEBHOOK_KEPT, Alerts
from streaming_api.topics.metrics import MAX_SERIES, query_values, sample_values
from streaming_api.topics.polling import keep_asking, patience
from streaming_api.topics.reported_alerts import MAX_ALERTS
from streaming_api.topics.rules import HOLD, Rules
from streaming_api.wire.framing import EVENTS
from streaming_api.wire.messages import timestamp
from tests.fakes.engine import Deliveries

EPOCH: Final = "0123456789abcdef"
UNIT: Final = 0.05
"""Seconds; bounds of waiting are multiples of it."""
PATIENCE: Final = 100 * UNIT

Json = dict[str, Any]


class Pipe(asyncio.Transport):
    """A transport that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


class Shown(Connection):
    """A connection that remembers what was written to it."""

    kind: ClassVar[str] = "sse"

    def __init__(self) -> None:
        client = Client("", frozenset(), "127.0.0.1", Bucket(0, 0))
        super().__init__(ConnectionManager(StreamingConfig()), client, EVENTS, "/test")
        self.pipe = Pipe()
        self.transport = self.pipe

    def messages(self) -> list[Json]:
        """Everything written so far."""
        events = b"".join(self.pipe.written).split(b"\n\n")[:-1]
        return [orjson.loads(event.rpartition(b"\ndata: ")[2]) for event in events]

    def data(self) -> list[Json]:
        """The `data` of everything written so far."""
        return [message["data"] for message in self.messages()]


def new_channel(epoch: str = EPOCH, *, flush_interval: float = 0) -> Channel:
    return Channel(
        epoch,
        call_later=lambda delay, work: asyncio.get_running_loop().call_later(delay, work),
        flush_interval=flush_interval,
        batch_size=1,
        observer=Deliveries(),
    )


def topics_of(**settings: object) -> Topics:
    return Topics(StreamingConfig(**settings), new_channel())  # type: ignore[arg-type]


def watch(topics: Topics, *names: str, cursor: str | None = None) -> Shown:
    shown = Shown()
    topics.watch(shown, names, cursor)
    return shown


def alert(
    name: str = "Broken",
    *,
    state: AlertState = "firing",
    source: AlertSource = "prometheus",
    summary: str = "It is broken.",
    ends_at: datetime | None = None,
    fingerprint: str | None = None,
    labels: dict[str, str] | None = None,
) -> Alert:
    return make_alert(
        labels={"alertname": name, **(labels or {})},
        annotations={"summary": summary},
        state=state,
        starts_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
        ends_at=ends_at,
        source=source,
        fingerprint=fingerprint,
    )


def listed(*alerts: Alert, dropped: int = 0) -> AlertList:
    return AlertList(alerts, dropped)


def alerts_of(alerts: Alerts) -> list[Json]:
    """What who joins now is shown."""
    shown: list[Json] = orjson.loads(alerts.snapshot())["alerts"]
    return shown


@asynccontextmanager
async def running(topics: Topics) -> AsyncIterator[asyncio.Task[None]]:
    """Poll the sources; all of it ends with the block."""
    task = asyncio.create_task(topics.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(UNIT / 50)


class TestMetrics:
    def test_the_snapshot_comes_first_and_then_only_what_changed(self) -> None:
        topics = topics_of()
        topics.metrics.update("process", {"memory": 1.0, "fds": 7.0})
        shown = watch(topics, "metrics")
        topics.metrics.update("process", {"memory": 2.0, "fds": 7.0})
        assert shown.data() == [
            {"event": "snapshot", "values": {"process": {"memory": 1.0, "fds": 7.0}}},
            {"event": "changed", "values": {"process": {"memory": 2.0}}, "removed": {}},
        ]

    def test_nothing_is_published_when_nothing_changed(self) -> None:
        topics = topics_of()
        for _ in range(3):
            topics.metrics.update("process", {"memory": 1.0, "strange": math.nan})
        assert topics.channel.number == 1

    def test_what_json_has_no_number_for_is_null(self) -> None:
        topics = topics_of()
        shown = watch(topics, "metrics")
        values = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "none": None, "one": 1.0}
        topics.metrics.update("process", values)
        expected = {"nan": None, "inf": None, "minus": None, "none": None, "one": 1.0}
        assert shown.data()[-1]["values"] == {"process": expected}
        snapshot = watch(topics, "metrics").data()[0]
        assert snapshot["values"] == {"process": expected}
        infinite = {"process": {"inf": "+Inf", "minus": "-Inf"}}
        assert snapshot["infinite"] == shown.data()[-1]["infinite"] == infinite
        topics.metrics.update("process", values | {"inf": math.nan})
        assert shown.data()[-1]["values"] == {"process": {"inf": None}}
        assert "infinite" not in shown.data()[-1]

    def test_a_series_that_becomes_null_has_changed_and_one_that_vanishes_is_removed(self) -> None:
        topics = topics_of()
        topics.metrics.update("exposition", {"a": 1.0, "b": 2.0})
        shown = watch(topics, "metrics")
        topics.metrics.update("exposition", {"a": math.nan})
        assert shown.data()[-1] == {
            "event": "changed",
            "values": {"exposition": {"a": None}},
            "removed": {"exposition": ["b"]},
        }

    def test_one_source_says_nothing_about_another(self) -> None:
        topics = topics_of()
        topics.metrics.update("process", {"a": 1.0, "b": 2.0})
        shown = watch(topics, "metrics")
        topics.metrics.update("exposition", {"a": 1.0})
        shown_events = {"event": "changed", "values": {"exposition": {"a": 1.0}}, "removed": {}}
        assert shown.data()[-1] == shown_events
        assert orjson.loads(topics.metrics.snapshot())["values"] == {
            "process": {"a": 1.0, "b": 2.0},
            "exposition": {"a": 1.0},
        }

    def test_a_source_cannot_grow_without_end(self) -> None:
        topics = topics_of()
        values = {f"series_{number}": 1.0 for number in range(MAX_SERIES + 3)}
        assert topics.metrics.update("exposition", values) == 3
        assert len(orjson.loads(topics.metrics.snapshot())["values"]["exposition"]) == MAX_SERIES

    def test_a_query_is_shown_under_its_name_with_labels_if_it_has_several_series(self) -> None:
        one = QueryResult((Sample("up", {"job": "a"}, 1.0),))
        two = QueryResult((*one.samples, Sample("up", {"job": 'b"\\\n'}, None)))
        names = QueryResult((Sample("a", {"x": "1"}, 1.0), Sample("b", {"x": "1"}, 2.0)))
        assert query_values("health", QueryResult(())) == {}
        assert query_values("health", one) == {"health": 1.0}
        assert query_values("health", two) == {
            'health{job="a"}': 1.0,
            r'health{job="b\"\\\n"}': None,
        }
        assert query_values("health", names) == {
            'health{__name__="a",x="1"}': 1.0,
            'health{__name__="b",x="1"}': 2.0,
        }

    def test_a_sample_is_shown_as_its_exposition_writes_it(self) -> None:
        samples = [Sample("m_total", {}, 1.0), Sample("m_bucket", {"le": "+Inf", "a": "b"}, 2.0)]
        assert sample_values(samples) == {"m_total": 1.0, 'm_bucket{le="+Inf",a="b"}': 2.0}


class TestAlerts:
    def test_an_alert_is_reported_as_it_is_pending_fires_and_vanishes_from_the_poll(self) -> None:
        topics = topics_of()
        shown = watch(topics, "alerts")
        topics.alerts.poll("prometheus", listed(alert(state="pending")))
        topics.alerts.poll("prometheus", listed(alert()))
        topics.alerts.poll("prometheus", listed(alert()))
        topics.alerts.poll("prometheus", listed())
        first, *shown_events = shown.data()
        assert first == {"event": "snapshot", "alerts": []}
        assert [data["event"] for data in shown_events] == ["pending", "firing", "resolved"]
        assert [d["alert"]["state"] for d in shown_events] == ["pending", "firing", "resolved"]
        assert shown_events[1]["alert"] == {
            "fingerprint": shown_events[0]["alert"]["fingerprint"],
            "state": "firing",
            "source": "prometheus",
            "labels": {"alertname": "Broken"},
            "annotations": {"summary": "It is broken."},
            "starts_at": "2026-01-31T12:00:00.000Z",
            "ends_at": None,
            "generator_url": None,
            "sources": ["prometheus"],
            "suppressed": None,
            "manager_url": None,
        }
        assert shown_events[2]["alert"]["ends_at"].endswith("Z")
        assert alerts_of(topics.alerts) == []

    def test_new_words_of_an_alert_are_sent_too(self) -> None:
        """Otherwise who joins now would know more than who was there."""
        topics = topics_of()
        topics.alerts.poll("prometheus", listed(alert(summary="91 %")))
        shown = watch(topics, "alerts")
        topics.alerts.poll("prometheus", listed(alert(summary="92 %")))
        assert shown.data()[-1]["alert"]["annotations"] == {"summary": "92 %"}
        assert len(alerts_of(topics.alerts)) == 1

    def test_sources_end_only_their_own_alerts(self) -> None:
        topics = topics_of()
        alerts, shown = topics.alerts, watch(topics, "alerts")
        alerts.poll("prometheus", listed(alert()))
        alerts.poll("alertmanager", listed(alert(source="alertmanager")))
        alerts.webhook([alert(source="webhook")])
        alerts.poll("prometheus", listed())
        [left] = alerts_of(alerts)
        assert left["sources"] == ["alertmanager", "webhook"]
        assert "resolved" not in [data["event"] for data in shown.data()]
        alerts.poll("alertmanager", listed())
        alerts.webhook([alert(source="webhook", state="resolved", ends_at=datetime.now(UTC))])
        assert shown.data()[-1]["event"] == "resolved"
        assert shown.data()[-1]["alert"]["sources"] == ["webhook"]

    def test_an_alert_that_several_sources_report_is_one_alert(self) -> None:
        topics = topics_of()
        topics.alerts.poll("prometheus", listed(alert(state="pending")))
        topics.alerts.webhook([alert(source="webhook")])
        topics.alerts.poll("alertmanager", listed(alert(source="alertmanager", summary="Ours.")))
        [one] = alerts_of(topics.alerts)
        assert one["state"] == "firing"
        assert one["source"] == "alertmanager"
        assert one["annotations"] == {"summary": "Ours."}
        assert one["sources"] == ["alertmanager", "webhook", "prometheus"]
        assert topics.alerts.counts() == {"firing": 1, "pending": 0}

    def test_labels_that_prometheus_adds_make_no_other_alert(self) -> None:
        """Whichever tells first, viewers know the alert by one fingerprint; some may be dropped."""
        topics = topics_of()
        alerts, own = topics.alerts, alert()
        sent = alert(source="alertmanager", labels={"cluster": "eu"})
        alerts.poll("alertmanager", listed(sent))
        alerts.poll("prometheus", listed(own))
        assert alerts.counts()["firing"] == 2, "before its external labels are known"
        shown = watch(topics, "alerts")
        alerts.set_external_labels({"cluster": "eu", "replica": "a"})
        [one] = shown.data()[-1]["alerts"]
        assert one["sources"] == ["alertmanager", "prometheus"]
        assert (one["fingerprint"], one["labels"]) == (own.fingerprint, sent.labels)
        alerts.webhook([alert(source="webhook", labels={"cluster": "eu", "replica": "a"})])
        alerts.webhook([alert(source="webhook", labels={"cluster": "us"})])
        assert alerts.counts()["firing"] == 2, "another cluster's is another alert"
        alerts.poll("prometheus", listed())
        alerts.poll("alertmanager", listed())
        over = alert(
            source="webhook", labels={"cluster": "eu"}, state="resolved", ends_at=datetime.now(UTC)
        )
        alerts.webhook([over])
        assert shown.data()[-1]["event"] == "resolved"
        assert shown.data()[-1]["alert"]["fingerprint"] == own.fingerprint
        shown_events = len(shown.data())
        alerts.set_external_labels({"replica": "a", "cluster": "eu"})
        assert len(shown.data()) == shown_events, "nothing has changed"

    def test_what_alertmanager_silences_is_shown_and_does_not_count(self) -> None:
        topics = topics_of()
        shown = watch(topics, "alerts")
        topics.alerts.poll("prometheus", listed(alert()))
        silenced = attrs.evolve(alert(source="alertmanager"), suppressed="silenced")
        topics.alerts.poll("alertmanager", listed(silenced))
        assert shown.data()[-1]["alert"]["suppressed"] == "silenced"
        assert topics.alerts.counts() == {"firing": 0, "pending": 0}
        topics.alerts.poll("alertmanager", listed(alert(source="alertmanager")))
        assert topics.alerts.counts() == {"firing": 1, "pending": 0}

    def test_a_list_that_was_cut_short_ends_nothing(self) -> None:
        alerts = Alerts()
        alerts.poll("prometheus", listed(alert("A"), alert("B")))
        alerts.poll("prometheus", listed(alert("A"), dropped=1))
        assert len(alerts_of(alerts)) == 2
        alerts.poll("prometheus", listed(alert("A")))
        assert len(alerts_of(alerts)) == 1

    def test_labels_listed_twice_do_not_flap(self) -> None:
        topics = topics_of()
        for _ in range(2):
            topics.alerts.poll("prometheus", listed(alert(), alert(state="pending")))
        assert topics.channel.number == 1
        assert [each["state"] for each in alerts_of(topics.alerts)] == ["firing"]

    def test_the_webhook_resolves_its_own_alert_and_nothing_that_nobody_knew(self) -> None:
        topics = topics_of()
        shown = watch(topics, "alerts")
        over = datetime(2026, 1, 31, 13, tzinfo=UTC)
        topics.alerts.webhook([alert(source="webhook"), alert("Other", source="webhook")])
        topics.alerts.webhook([alert(source="webhook", state="resolved", ends_at=over)])
        topics.alerts.webhook([alert("Unknown", source="webhook", state="resolved")])
        events = [(d["event"], d["alert"]["labels"]["alertname"]) for d in shown.data()[1:]]
        assert events == [("firing", "Broken"), ("firing", "Other"), ("resolved", "Broken")]
        assert shown.data()[-1]["alert"]["ends_at"] == "2026-01-31T13:00:00.000Z"

    def test_an_alert_that_the_webhook_does_not_repeat_ends_at_last(self) -> None:
        now = 0.0
        alerts = Alerts(clock=lambda: now)
        alerts.webhook([alert("Repeated", source="webhook"), alert("Forgotten", source="webhook")])
        now = WEBHOOK_KEPT - 1
        alerts.webhook([alert("Repeated", source="webhook")])
        alerts.expire()
        assert len(alerts_of(alerts)) == 2
        now = WEBHOOK_KEPT + 1
        alerts.expire()
        [left] = alerts_of(alerts)
        assert left["labels"] == {"alertname": "Repeated"}

    def test_too_many_alerts_are_refused_with_one_line_in_the_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        alerts = Alerts()
        many = [alert(f"A{number}", source="webhook") for number in range(MAX_ALERTS + 5)]
        assert alerts.webhook(many) == 5
        assert alerts.webhook(many) == 5
        assert len(alerts_of(alerts)) == MAX_ALERTS
        (line,) = caplog.messages
        assert line.startswith("5 alerts of webhook are refused:")

    def test_who_fills_one_source_silences_no_other(self) -> None:
        alerts = Alerts()
        alerts.webhook(alert(f"A{number}", source="webhook") for number in range(MAX_ALERTS + 1))
        assert alerts.poll("prometheus", listed(alert())) == 0

    def test_huge_alerts_are_bounded_by_their_bytes(self) -> None:
        alerts = Alerts()
        labels = {f"label_{number}": "x" * 1000 for number in range(1000)}
        huge = [alert(f"A{number}", source="webhook", labels=labels) for number in range(10)]
        assert alerts.webhook(huge) > 5
        alerts.webhook(attrs.evolve(each, state="resolved") for each in huge)
        assert alerts.webhook(huge[:1]) == 0, "their room is free again"

    async def test_a_transition_does_not_wait_for_the_flush_window(self) -> None:
        topics = Topics(StreamingConfig(), new_channel(flush_interval=3600))
        shown = watch(topics, "alerts", "metrics")
        topics.metrics.update("process", {"a": 1.0})
        topics.metrics.update("process", {"a": 2.0})
        seen = len(shown.data())
        topics.alerts.poll("prometheus", listed(alert()))
        assert [data["event"] for data in shown.data()[seen:]] == ["changed", "firing"]


class TestStatus:
    def test_a_change_is_sent_once_and_since_is_kept_while_the_state_lasts(self) -> None:
        topics = topics_of()
        shown = watch(topics, "status")
        topics.status.set("gateway", "down", "It refuses connections.")
        topics.status.set("gateway", "down", "It refuses connections.")
        since = topics.components()["gateway"]["since"]
        while timestamp().decode() == since:
            pass  # a millisecond
        topics.status.set("gateway", "down", "Its name is not found.")
        snapshot, *shown_events = shown.data()
        assert list(snapshot["components"]) == ["streaming-api"]
        assert snapshot["components"]["streaming-api"]["state"] == "up"
        reasons = [data["status"]["reason"] for data in shown_events]
        assert reasons == ["It refuses connections.", "Its name is not found."]
        assert shown_events[-1] == {
            "event": "changed",
            "component": "gateway",
            "status": {"state": "down", "since": since, "reason": reasons[-1], "detail": None},
        }
        assert topics.states() == {"streaming-api": "up", "gateway": "down"}

    def test_draining_is_reported_at_once(self) -> None:
        topics = topics_of()
        shown = watch(topics, "status")
        topics.report_draining()
        assert shown.data()[-1]["status"]["state"] == "draining"

    def test_a_hostile_reason_is_one_line_of_bounded_length(self) -> None:
        topics = topics_of()
        topics.status.set("gateway", "down", "a\r\nb\x1b[31m" + "x" * 10_000)
        reason = topics.components()["gateway"]["reason"]
        assert reason is not None
        assert reason.startswith("a b [31mx")
        assert len(reason) <= 500

    def test_what_is_switched_off_still_has_a_status_but_publishes_nothing(self) -> None:
        topics = topics_of(streaming_status_enabled=False)
        topics.status.set("gateway", "up")
        assert topics.states()["gateway"] == "up"
        assert topics.channel.number == 0


class TestRules:
    def test_an_upstream_that_is_down_fires_and_resolves_by_itself(self) -> None:
        rules = Rules()
        down, up = {"gateway": "down", "prometheus": "down"}, {"gateway": "up"}
        [firing] = rules.evaluate([Readings()], down).alerts
        about = {"alertname": "UpstreamDown", "severity": "critical", "component": "gateway"}
        assert firing.labels == about
        assert (firing.source, firing.state) == ("streaming-api", "firing")
        for _ in range(HOLD - 1):
            assert rules.evaluate([Readings()], up).alerts == (firing,)
        assert rules.evaluate([Readings()], up).alerts == ()

    def test_what_hovers_around_a_threshold_is_one_alert(self) -> None:
        rules = Rules()
        first, *others = [
            rules.evaluate([Readings(connections={"sse": (used, 100)})], {}).alerts
            for used in [91, 90, 89, 91, 90] * HOLD
        ]
        assert len(first) == 1
        assert all(other == first for other in others)

    @pytest.mark.parametrize(("used", "names"), [(90, []), (91, ["ConnectionsNearLimit"])])
    def test_connections_above_nine_tenths_of_their_limit_fire(
        self, used: int, names: list[str]
    ) -> None:
        readings = Readings(connections={"websocket": (used, 100), "sse": (0, 100)})
        fired = Rules().evaluate([readings], {}).alerts
        assert [each.labels["alertname"] for each in fired] == names
        assert [each.labels["transport"] for each in fired] == ["websocket"] * len(names)

    @pytest.mark.parametrize(("p99", "count"), [(None, 0), (0.1, 0), (0.25, 1)])
    def test_deliveries_that_take_longer_than_100_ms_fire(
        self, p99: float | None, count: int
    ) -> None:
        fired = Rules().evaluate([Readings(delivery_p99_seconds={"sse": p99})], {}).alerts
        assert len(fired) == count


class TestWatching:
    def test_one_cursor_serves_any_subset(self) -> None:
        topics = topics_of()
        shown = watch(topics, "metrics", "status")
        topics.metrics.update("process", {"a": 1.0})
        cursor = shown.messages()[-1]["cursor"]
        topics.alerts.poll("prometheus", listed(alert()))
        topics.metrics.update("process", {"a": 2.0})
        again = watch(topics, "alerts", "metrics", cursor=cursor)
        assert [data["event"] for data in again.data()] == ["firing", "changed"]
        only = watch(topics, "metrics", cursor=cursor)
        topics.status.set("gateway", "up")
        assert [m["stream_id"] for m in only.messages()] == ["metrics"]
        assert [m["stream_id"] for m in shown.messages()[-2:]] == ["metrics", "status"]

    def test_who_has_seen_everything_is_shown_nothing_again(self) -> None:
        topics = topics_of()
        topics.status.set("gateway", "up")
        again = watch(topics, "status", cursor=f"{EPOCH}:{topics.channel.number}")
        assert again.messages() == []
        topics.status.set("gateway", "down")
        assert [data["component"] for data in again.data()] == ["gateway"]

    @pytest.mark.parametrize(
        ("cursor", "reason"),
        [
            ("", "malformed"),
            ("garbage", "malformed"),
            (f"{EPOCH}:-1", "malformed"),
            (f"{EPOCH}:1e3", "malformed"),
            (f"{EPOCH}:٣", "malformed"),
            (f"{EPOCH}:1\r\ndata: x", "malformed"),
            (f"{EPOCH}:{10**30}", "malformed"),
            ("\ud800:1", "malformed"),
            ("fedcba9876543210:1", "epoch"),
            (f"{EPOCH}:2", "future"),
            (f"{EPOCH}:{10**17}", "future"),
        ],
    )
    def test_a_cursor_that_means_nothing_here_is_a_gap_and_then_the_snapshot(
        self, cursor: str, reason: str
    ) -> None:
        topics = topics_of()
        topics.status.set("gateway", "up")
        shown = watch(topics, "alerts", "status", cursor=cursor)
        gaps, snapshots = shown.messages()[:2], shown.messages()[2:]
        assert [gap["data"] for gap in gaps] == [{"event": "gap", "reason": reason}] * 2
        assert [gap["stream_id"] for gap in gaps] == ["alerts", "status"]
        assert all("sequence_id" not in gap for gap in gaps)
        assert {m["stream_id"] for m in snapshots} == {"alerts", "status"}
        assert {m["data"]["event"] for m in snapshots} == {"snapshot"}

    def test_what_history_no_longer_retains_is_a_gap_and_metrics_are_a_snapshot(self) -> None:
        topics = topics_of(topic_retention_messages=2)
        for value in range(5):
            topics.metrics.update("process", {"a": float(value)})
            topics.alerts.poll("prometheus", listed(alert(f"A{value}")))
        shown = watch(topics, "metrics", "alerts", cursor=f"{EPOCH}:1")
        by_stream: dict[str, list[Json]] = {"metrics": [], "alerts": []}
        for message in shown.messages():
            by_stream[message["stream_id"]].append(message["data"])
        assert by_stream["metrics"] == [{"event": "snapshot", "values": {"process": {"a": 4.0}}}]
        gap, *rest = by_stream["alerts"]
        assert (gap["event"], gap["reason"], gap["from"]) == ("gap", "evicted", 2)
        assert [data["alert"]["labels"]["alertname"] for data in rest] == ["A3", "A4"]

    def test_only_topics_that_exist_and_are_switched_on_may_be_watched(self) -> None:
        topics = topics_of(streaming_alerts_enabled=False)
        assert topics.names == ("metrics", "status")
        topics.require("metrics")
        with pytest.raises(NotFound) as unknown:
            topics.require("weather\r\n" * 100)
        with pytest.raises(NotFound) as off:
            topics.require("alerts")
        assert unknown.value.code == "unknown_topic"
        assert len(unknown.value.message) < 200
        assert off.value.code == "alerts_disabled"
        assert "streaming.alerts_enabled" in off.value.message


class TestPolling:
    async def test_a_source_that_fails_is_down_and_comes_back_as_up(self) -> None:
        answers: list[SourceError | str | None] = [
            SourceError("It refuses connections.", "refused"),
            SourceError("It refuses connections.", "refused"),
            "1 series is left out.",
            None,
        ]
        shown_events: list[tuple[str, str | None]] = []

        async def ask() -> str | None:
            answer = answers.pop(0) if answers else None
            if isinstance(answer, SourceError):
                raise answer
            return answer

        def report(state: str, reason: str | None) -> None:
            shown_events.append((state, reason))

        task = asyncio.create_task(keep_asking(ask, UNIT / 50, report))
        await until(lambda: len(shown_events) >= 4)
        task.cancel()
        assert shown_events[:4] == [
            ("down", "It refuses connections."),
            ("down", "It refuses connections."),
            ("up", "1 series is left out."),
            ("up", None),
        ]

    async def test_a_source_is_asked_on_time_however_late_it_was_before(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 100.4
        takes = [0.1, 0.1, 0.7, 3.0, 0.0, 0.1]
        asked = []

        async def ask() -> None:
            nonlocal now
            asked.append(round(now, 2))
            if not takes:
                raise asyncio.CancelledError
            now += takes.pop(0)

        async def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds + 0.01

        monkeypatch.setattr(polling, "time", SimpleNamespace(monotonic=lambda: now))
        monkeypatch.setattr(polling, "asyncio", SimpleNamespace(sleep=sleep))
        with pytest.raises(asyncio.CancelledError):
            await keep_asking(ask, 1.0, lambda *_: None, phase=0.25)
        assert asked == [100.4, 101.26, 102.26, 103.26, 109.27, 110.26, 111.26]

    async def test_sources_are_asked_at_different_moments(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        phases: list[float] = []

        async def keep_asking(*_: object, phase: float) -> None:
            phases.append(phase)

        monkeypatch.setattr(feeds, "keep_asking", keep_asking)
        endpoint = "http://127.0.0.1:9"
        topics = topics_of(poll_interval=2, custom_metrics_endpoint=endpoint)
        topics.add_process(dict)
        async with running(topics):
            await until(lambda: len(phases) == 3)
        first, second, third = sorted(phases)
        assert min(second - first, third - second, first + 2 - third) > 0.4

    def test_pauses_double_with_jitter_up_to_the_longest_and_start_again(self) -> None:
        backoff = Backoff(1, 30)
        for due in [1, 2, 4, 8, 16, 30, 30, 30]:
            assert due / 2 <= backoff.pause() <= due
        backoff.reset()
        assert backoff.pause() <= 1
        assert len({Backoff(1).pause() for _ in range(20)}) > 1

    def test_patience_follows_the_poll_interval_within_bounds(self) -> None:
        assert [patience(interval) for interval in (0.01, 1, 60)] == [2, 5, 10]

    async def test_what_is_added_while_it_runs_is_asked_at_once(self) -> None:
        topics = topics_of(poll_interval=UNIT)
        figures = {"open_fds": 7.0, "tokens_per_second": None}
        async with running(topics) as task:
            await asyncio.sleep(0)
            shown = watch(topics, "metrics")
            topics.add_process(lambda: figures)
            await until(lambda: len(shown.data()) > 1)
            assert shown.data()[1]["values"] == {"process": figures}
        assert task.cancelled()
        assert {other for other in asyncio.all_tasks() if "poll" in other.get_name()} == set()

    async def test_our_own_rules_are_evaluated_and_resolve(self) -> None:
        topics = topics_of(poll_interval=0.01)
        used = 99
        topics.set_readings(lambda: Readings(connections={"sse": (used, 100)}))
        shown = watch(topics, "alerts")
        async with running(topics):
            await until(lambda: len(shown.data()) > 1)
            used = 1
            await until(lambda: len(shown.data()) > 2)
        assert [data["event"] for data in shown.data()] == ["snapshot", "firing", "resolved"]
        assert shown.data()[1]["alert"]["source"] == "streaming-api"

    async def test_a_bug_in_one_source_is_counted_and_harms_no_other(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        failures: Counter[str] = Counter()
        topics = Topics(StreamingConfig(poll_interval=0.01), new_channel(), failures)

        def broken() -> Readings:
            message = "a bug"
            raise RuntimeError(message)

        topics.set_readings(broken)
        counted = itertools.count()
        topics.add_process(lambda: {"counted": next(counted)})
        shown = watch(topics, "metrics")
        async with running(topics):
            await until(lambda: failures["poll of own rules"] > 0 and len(shown.data()) > 3)
        assert "RuntimeError: a bug" in caplog.text

    async def test_nothing_is_polled_for_a_topic_that_is_switched_off(self) -> None:
        nowhere = "http://127.0.0.1:9"
        topics = topics_of(
            streaming_metrics_enabled=False,
            streaming_alerts_enabled=False,
            metrics_server_endpoint=nowhere,
            custom_metrics_endpoint=nowhere,
            alertmanager_endpoint=nowhere,
        )
        topics.add_process(dict)
        topics.add_exposition(nowhere)
        async with running(topics):
            await asyncio.sleep(UNIT)
            assert set(topics.states()) == {"streaming-api"}
            assert not [each for each in asyncio.all_tasks() if each.get_name().startswith("poll")]


class TestBackground:
    async def test_work_that_fails_is_logged_counted_and_begun_again(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        attempts = 0
        failures: list[None] = []

        async def work() -> None:
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                message = f"attempt {attempts}"
                raise RuntimeError(message)

        async with asyncio.timeout(PATIENCE):
            await supervise("the work", work, lambda: failures.append(None), first_pause=UNIT / 50)
        assert (attempts, len(failures)) == (3, 2)
        assert caplog.messages == ["background work failed: the work"] * 2
        assert "RuntimeError: attempt 2" in caplog.text

    async def test_a_cancellation_from_inside_is_a_failure_and_not_the_end(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        attempts = 0
        failures: list[None] = []

        async def work() -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                lost = asyncio.create_task(asyncio.sleep(PATIENCE))
                lost.cancel()
                await lost

        async with asyncio.timeout(PATIENCE):
            await supervise("the work", work, lambda: failures.append(None), first_pause=UNIT / 50)
        assert (attempts, len(failures)) == (2, 1)
        assert "cancelled from inside" in caplog.text

    async def test_cancellation_ends_work_also_while_it_pauses(self) -> None:
        failed = asyncio.Event()

        async def work() -> None:
            raise RuntimeError

        task = asyncio.create_task(supervise("the work", work, failed.set, first_pause=PATIENCE))
        async with asyncio.timeout(PATIENCE):
            await failed.wait()
        task.cancel()
        async with asyncio.timeout(PATIENCE / 2):
            await asyncio.wait([task])
        assert task.cancelled()

    async def test_one_failure_does_not_stop_the_others_and_stop_ends_them_all(self) -> None:
        failures: Counter[str] = Counter()
        background = Background(failures)
        ended = asyncio.Event()

        async def broken() -> None:
            raise RuntimeError

        async def steady() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        background.start("broken", broken, first_pause=UNIT / 50)
        background.start("steady", steady)
        await until(lambda: failures["broken"] > 1)
        assert not ended.is_set()
        assert "steady" in repr(background)
        await background.stop()
        assert ended.is_set()
        assert repr(background) == "<Background nothing>"

    async def test_work_that_refuses_to_end_is_named_and_left(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("streaming_api.background._STOP_SECONDS", UNIT)
        background = Background(Counter())
        release = asyncio.Event()
        running = asyncio.Event()

        async def stubborn() -> None:
            running.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    logging.getLogger(__name__).debug("not now")

        background.start("stubborn", stubborn)
        await running.wait()
        async with asyncio.timeout(PATIENCE):
            await background.stop()
        assert "background work does not end: stubborn" in caplog.text
        release.set()
        await until(lambda: repr(background) == "<Background nothing>")


class TestWhatIsLeftOut:
    def test_what_a_webhook_leaves_out_is_counted_by_group_until_it_is_reported_again(self) -> None:
        alerts = Alerts()
        alerts.webhook([alert(source="webhook")], "a", 17)
        alerts.webhook([], "b", 3)
        assert alerts.left_out == 20
        assert orjson.loads(alerts.snapshot())["left_out"] == {"webhook": 20}
        alerts.webhook([], "a", 0)
        alerts.webhook([], "b")
        assert "left_out" not in orjson.loads(alerts.snapshot())

    def test_what_is_left_out_is_bounded(self) -> None:
        alerts = Alerts()
        for number in range(5_000):
            alerts.webhook([], f"g{number}", 1)
        assert alerts.left_out <= 1_000

    def test_what_a_partial_list_leaves_out_is_not_resolved(self) -> None:
        """The server warns that a part of it did not answer."""
        alerts = Alerts()
        alerts.poll("prometheus", listed(alert()))
        alerts.poll("prometheus", AlertList((), 0, ("store gateway timed out",)))
        assert len(alerts_of(alerts)) == 1
        alerts.poll("prometheus", listed())
        assert not alerts_of(alerts)
