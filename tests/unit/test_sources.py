"""Sources without a network: values, webhook, exposition text, this process's figures."""

from __future__ import annotations

import json
import math
import os
import resource
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_api.sources import exposition, values
from streaming_api.sources.alertmanager import (
    MAX_PROBLEMS,
    MOST_VALUES,
    WebhookError,
    parse_webhook,
)
from streaming_api.sources.exposition import MAX_LINE, parse, with_path
from streaming_api.sources.fetch import Reply
from streaming_api.sources.values import (
    MAX_TEXT,
    Sample,
    SourceError,
    clip,
    fingerprint_of,
    make_alert,
    make_sample,
    parse_time,
)
from streaming_api.telemetry.process import Process
from streaming_api.text import one_line

NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)

URL = "http://exporter.test/metrics"


def made(**changes: Any) -> values.Alert:  # noqa: ANN401 (of any type)
    """An alert, but for these changes."""
    given: dict[str, Any] = {"labels": {}, "annotations": {}, "state": "firing", "starts_at": NOON}
    return make_alert(**given | {"source": "webhook"} | changes)


def scraped(text: str, content_type: str = "text/plain") -> list[Sample]:
    return parse(Reply(URL, content_type, text.encode()))


class TestValues:
    def test_a_fingerprint_is_the_one_alertmanager_gives(self) -> None:
        """The expected value was served by Alertmanager 0.25.0 for these labels."""
        labels = {"severity": "critical", "alertname": "AlwaysFiring"}
        assert fingerprint_of(labels) == "cdd08c7788026298"

    def test_no_labels_have_the_offset_basis_of_fnv_as_fingerprint(self) -> None:
        assert fingerprint_of({}) == "cbf29ce484222325"

    def test_a_fingerprint_depends_on_where_names_and_values_end(self) -> None:
        assert fingerprint_of({"a": "bc"}) != fingerprint_of({"ab": "c"})

    def test_two_alerts_that_differ_only_past_the_clip_keep_different_fingerprints(self) -> None:
        long = "x" * MAX_TEXT
        assert fingerprint_of({"a": long + "1"}) != fingerprint_of({"a": long + "2"})

    @pytest.mark.parametrize("length", [0, MAX_TEXT - 1, MAX_TEXT])
    def test_a_text_up_to_the_limit_is_kept_whole(self, length: int) -> None:
        assert clip("x" * length) == "x" * length

    def test_a_longer_text_is_cut_to_the_limit_and_marked(self) -> None:
        cut = clip("x" * (MAX_TEXT + 1))
        assert len(cut) == MAX_TEXT
        assert cut.endswith("x…")

    def test_markup_and_control_characters_stay_text(self) -> None:
        hostile = '<script>alert("\0\x1b[31m\u2028")</script>'
        assert make_sample("m", {"a": hostile}, 1.0).labels == {"a": hostile}

    def test_a_line_for_humans_has_no_control_characters_and_no_line_breaks(self) -> None:
        assert one_line("a\r\nb\x1b[31m\u2028c\0") == "a b [31m c"

    def test_a_line_for_humans_is_bounded(self) -> None:
        assert len(one_line("x" * 10_000_000, 300)) == 300

    @pytest.mark.parametrize(
        "text",
        [
            "2026-01-31T12:00:00.123456789Z",
            "2026-01-31T14:00:00.123456+02:00",
            "2026-01-31T12:00:00.123456Z",
        ],
    )
    def test_times_of_any_precision_and_offset_are_read(self, text: str) -> None:
        assert parse_time(text) == NOON

    def test_gos_zero_time_is_no_time(self) -> None:
        assert parse_time("0001-01-01T00:00:00Z") is None

    @pytest.mark.parametrize(
        "text", ["", "soon", "2026-01-31", "2026-01-31T12:00:00", "9999-12-31T23:59:59-12:00"]
    )
    def test_what_is_no_time_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            parse_time(text)

    def test_an_alert_carries_its_times_as_the_wire_has_them(self) -> None:
        east = timezone(timedelta(hours=2))
        ends_at = NOON.replace(microsecond=0)
        alert = made(
            labels={"alertname": "A"}, state="resolved", starts_at=NOON.astimezone(east),
            ends_at=ends_at,
        )  # fmt: skip
        assert alert.starts_at == "2026-01-31T12:00:00.123Z"
        assert alert.ends_at == "2026-01-31T12:00:00.000Z"
        assert alert.fingerprint == fingerprint_of({"alertname": "A"})

    def test_texts_of_an_alert_are_clipped(self) -> None:
        long = {"a": "x" * 10_000}
        alert = made(labels=long, annotations=long, fingerprint="f" * 10_000)
        assert len(alert.labels["a"]) == len(alert.annotations["a"]) == MAX_TEXT
        assert len(alert.fingerprint) == MAX_TEXT

    def test_the_forecast_end_of_a_firing_alert_is_left_out(self) -> None:
        assert made(ends_at=NOON, source="alertmanager").ends_at is None

    @pytest.mark.parametrize(
        ("url", "kept"),
        [
            ("https://prometheus.test/graph?g0.expr=up", True),
            ("HTTP://prometheus.test", True),
            ("javascript:alert(1)", False),
            (" javascript:alert(1)", False),
            ("data:text/html,x", False),
            ("http://" + "x" * 10_000, False),
            ("", False),
        ],
    )
    def test_only_web_addresses_are_kept_as_generator_url(self, url: str, kept: bool) -> None:  # noqa: FBT001
        assert made(generator_url=url).generator_url == (url if kept else None)


def webhook(**changes: object) -> dict[str, object]:
    """Return one alert as Alertmanager's webhook has it."""
    alert: dict[str, object] = {
        "status": "firing",
        "labels": {"alertname": "Down", "instance": "a:1"},
        "annotations": {"summary": "<b>down</b>"},
        "startsAt": "2026-01-31T12:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.test/graph",
        "fingerprint": "0123456789abcdef",
    }
    return alert | changes


def body(*alerts: object, **changes: object) -> bytes:
    """Return a payload of version 4 with fields that we do not know."""
    payload: dict[str, object] = {
        "version": "4",
        "groupKey": "{}:{}",
        "truncatedAlerts": 0,
        "receiver": "r",
        "somethingNew": [1],
        "alerts": list(alerts),
    }
    return json.dumps(payload | changes).encode()


class TestWebhook:
    def test_a_firing_alert_is_read(self) -> None:
        [alert] = parse_webhook(body(webhook(alsoNew=1))).alerts
        assert alert == values.Alert(
            fingerprint="0123456789abcdef",
            labels={"alertname": "Down", "instance": "a:1"},
            annotations={"summary": "<b>down</b>"},
            state="firing",
            starts_at="2026-01-31T12:00:00.123Z",
            ends_at=None,
            generator_url="http://prometheus.test/graph",
            source="webhook",
        )

    def test_a_resolved_alert_says_when_it_ended(self) -> None:
        ended = webhook(status="resolved", endsAt="2026-01-31T13:00:00+01:00")
        [alert] = parse_webhook(body(ended)).alerts
        assert (alert.state, alert.ends_at) == ("resolved", "2026-01-31T12:00:00.000Z")

    def test_fingerprint_and_generator_url_may_be_missing(self) -> None:
        alert = webhook()
        del alert["fingerprint"], alert["generatorURL"]
        [read] = parse_webhook(body(alert)).alerts
        assert read.fingerprint == fingerprint_of({"alertname": "Down", "instance": "a:1"})
        assert read.generator_url is None

    def test_no_alerts_are_no_problem(self) -> None:
        assert parse_webhook(body()).alerts == ()

    def test_everything_that_is_wrong_is_said_at_once(self) -> None:
        broken = webhook(status="burning", labels={"a": 1}, startsAt="soon")
        broken["annotations"] = "none"
        with pytest.raises(WebhookError) as caught:
            parse_webhook(body(webhook(), broken, "text", version="3"))
        assert [problem.partition(",")[0] for problem in caught.value.problems] == [
            "version: is '3'",
            "alerts[1].labels: is wrong",
            "alerts[1].annotations: is wrong",
            "alerts[1].startsAt: is wrong",
            "alerts[1].status: is wrong",
            "alerts[2]: should be an object",
        ]

    def test_annotations_may_be_missing_or_null(self) -> None:
        """Go's nil map is null."""
        bare = webhook()
        del bare["annotations"]
        read = parse_webhook(body(bare, webhook(annotations=None))).alerts
        assert [alert.annotations for alert in read] == [{}, {}]

    def test_one_that_cannot_be_read_loses_nothing_but_itself(self) -> None:
        """Alertmanager never sends again what was refused."""
        parsed = parse_webhook(body(webhook(), webhook(startsAt="soon"), 7, truncatedAlerts=17))
        assert (len(parsed.alerts), parsed.unread, parsed.truncated) == (1, 2, 17)
        assert parsed.problems[1] == "alerts[2]: should be an object"

    def test_what_takes_many_times_its_size_is_not_read(self) -> None:
        text = b'{"version":"4","alerts":[' + b"{}," * MOST_VALUES + b"{}]}"
        with pytest.raises(WebhookError, match="holds more than"):
            parse_webhook(text)

    @pytest.mark.parametrize("count", [None, -1, "17", 2**80, 1.5])
    def test_nonsense_is_not_counted_as_truncated(self, count: object) -> None:
        assert parse_webhook(body(webhook(), truncatedAlerts=count)).truncated == 0

    def test_a_resolved_alert_needs_its_end(self) -> None:
        broken = webhook(status="resolved")
        del broken["endsAt"]
        with pytest.raises(WebhookError, match=r"alerts\[0\]\.endsAt: is missing"):
            parse_webhook(body(broken))

    def test_an_alert_needs_a_beginning(self) -> None:
        with pytest.raises(WebhookError, match=r"startsAt: is wrong"):
            parse_webhook(body(webhook(startsAt="0001-01-01T00:00:00Z")))

    def test_ten_thousand_problems_make_a_short_error(self) -> None:
        with pytest.raises(WebhookError) as caught:
            parse_webhook(body(*[1] * 10_000))
        assert len(caught.value.problems) == MAX_PROBLEMS + 1
        assert caught.value.problems[-1] == f"and {10_000 - MAX_PROBLEMS} more"

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"<html>",
            b"[]",
            b"null",
            b'{"version": "4", "alerts": {}}',
            b'{"version": "4", "alerts": [NaN]}',
            b'{"version": "4", "alerts": ["\\ud800"]}',
            b"[" * 100_000,
            b"\xff",
        ],
    )
    def test_what_is_no_webhook_is_refused(self, payload: bytes) -> None:
        with pytest.raises(WebhookError):
            parse_webhook(payload)

    @settings(max_examples=200, deadline=None)
    @given(
        st.fixed_dictionaries(
            {},
            optional={
                name: st.none()
                | st.booleans()
                | st.integers()
                | st.text()
                | st.dictionaries(st.text(), st.text() | st.integers())
                for name in webhook()
            },
        )
    )
    def test_no_alert_raises_anything_but_the_one_error(self, changes: dict[str, object]) -> None:
        try:
            alerts = parse_webhook(body(webhook(**changes))).alerts
        except WebhookError:
            return
        assert len(alerts) == 1


TEXT = """\
# HELP http_requests_total Requests, \\\\ and \\n too.
# TYPE http_requests_total counter
http_requests_total{code="200",path="a\\"b\\\\c\\nd"} 10
# TYPE temperature gauge
temperature NaN
temperature{room="<b>"} -Inf 1700000000000
# TYPE latency_seconds histogram
latency_seconds_bucket{le="0.5"} 1
latency_seconds_bucket{le="+Inf"} 2
latency_seconds_sum 0.75
latency_seconds_count 2
llamacpp:prompt_tokens_seconds 12.5
"""

OPENMETRICS = """\
# HELP size_bytes How large.
# TYPE size_bytes gauge
# UNIT size_bytes bytes
size_bytes 5 1700000000.5
# TYPE work counter
work_total 3 # {trace_id="x"} 1
# EOF
"""


class TestExposition:
    def test_prometheus_text_is_read(self) -> None:
        requests, nan, temperature, *latency, tokens = scraped(TEXT)
        labels = {"code": "200", "path": 'a"b\\c\nd'}
        assert requests == Sample("http_requests_total", labels, 10.0)
        assert (nan.name, str(nan.value)) == ("temperature", "nan")
        assert temperature == Sample("temperature", {"room": "<b>"}, -math.inf)
        assert [(sample.name, sample.value) for sample in latency] == [
            ("latency_seconds_bucket", 1.0),
            ("latency_seconds_bucket", 2.0),
            ("latency_seconds_sum", 0.75),
            ("latency_seconds_count", 2.0),
        ]
        assert tokens.value == 12.5

    @pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
    def test_a_line_that_is_too_long_costs_no_other(self, kind: str) -> None:
        text = f'# TYPE a gauge\na 1\na{{x="{"y" * MAX_LINE}"}} 2\n# TYPE b gauge\nb 3\n# EOF\n'
        skipped: list[int] = []
        read = parse(Reply("http://h/metrics", kind, text.encode()), skipped)
        assert [(sample.name, sample.value) for sample in read] == [("a", 1), ("b", 3)]
        assert skipped == [3]

    def test_a_counter_of_openmetrics_may_lack_its_suffix(self) -> None:
        """Prometheus takes it, too."""
        text = "# TYPE c counter\nc 5\n# TYPE d counter\nd_total 6\n# EOF\n"
        read = scraped(text, "application/openmetrics-text")
        assert [(sample.name, sample.value) for sample in read] == [("c", 5), ("d_total", 6)]

    def test_openmetrics_is_read(self) -> None:
        assert scraped(OPENMETRICS, "application/openmetrics-text") == [
            Sample("size_bytes", {}, 5.0),
            Sample("work_total", {}, 3.0),
        ]

    def test_a_counter_without_total_keeps_the_name_it_was_served_with(self) -> None:
        assert scraped("# TYPE hits counter\nhits 1\n") == [Sample("hits", {}, 1.0)]

    def test_nothing_is_an_exposition_without_metrics(self) -> None:
        assert scraped("") == []

    def test_a_unicode_line_separator_is_text(self) -> None:
        assert scraped('m{a="x\u2028y"} 1\n') == [Sample("m", {"a": "x\u2028y"}, 1.0)]

    @pytest.mark.parametrize(
        ("text", "content_type", "said"),
        [
            ("<!DOCTYPE html><html>", "text/html", "a web page (HTML)"),
            ("\n <html>", "text/plain", "a web page (HTML)"),
            ('{"status": 1}', "application/json", "application/json that begins with"),
            ("m 1\nhello brave new world\n", "text/plain", "wrong at line 2, 'hello brave"),
            ("m{a=1} 1\n", "text/plain", "wrong at line 1"),
            ("# TYPE m weird\nm 1\n", "text/plain", "weird"),
            ("m 1" + "0" * 400, "text/plain", "wrong at line 1"),
            ("m 1\n", "application/openmetrics-text", "Missing # EOF"),
        ],
    )
    def test_anything_else_is_refused_with_what_was_seen(
        self, text: str, content_type: str, said: str
    ) -> None:
        with pytest.raises(SourceError) as caught:
            scraped(text, content_type)
        assert said in str(caught.value)
        assert URL in str(caught.value)
        assert caught.value.code == "format"
        assert len(str(caught.value)) < 600

    def test_invalid_utf8_is_refused_with_its_position(self) -> None:
        with pytest.raises(SourceError, match="not UTF-8 at byte 6"):
            parse(Reply(URL, "text/plain", b'm{a="x\xff"} 1\n'))

    def test_parsing_ends_when_its_time_is_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exposition, "PARSE_SECONDS", -1.0)
        with pytest.raises(SourceError, match="wrong at line 1"):
            scraped("m 1\n")

    @settings(max_examples=500, deadline=None)
    @given(
        st.lists(
            st.sampled_from([*TEXT.splitlines(), *OPENMETRICS.splitlines()])
            | st.text(alphabet='#m_a{}=",\\ 1.eN:+-\t<TYPEHLU', max_size=40),
            max_size=12,
        ).map("\n".join),
        st.sampled_from(["text/plain", "application/openmetrics-text"]),
    )
    def test_no_text_raises_anything_but_a_source_error(self, text: str, kind: str) -> None:
        with suppress(SourceError):
            scraped(text, kind)

    @pytest.mark.parametrize(
        ("url", "meant"),
        [
            ("http://a:1", "http://a:1/metrics"),
            ("http://a:1/", "http://a:1/metrics"),
            ("http://a:1/prom", "http://a:1/prom"),
            ("http://a:1/prom/", "http://a:1/prom/"),
        ],
    )
    def test_an_address_without_a_path_means_metrics(self, url: str, meant: str) -> None:
        assert with_path(url) == meant


class TestProcess:
    def test_the_figures_are_those_of_this_process(self) -> None:
        process = Process()
        figures = process.fetch()
        process.close()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        assert 2**20 < figures.resident_memory_bytes <= peak * 1.1
        assert 0 < figures.cpu_seconds <= sum(os.times()[:2]) + 1
        assert figures.max_fds == resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def test_every_open_descriptor_is_counted_once(self) -> None:
        process = Process()
        before = process.fetch().open_fds
        opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
        after = process.fetch().open_fds
        for descriptor in opened:
            os.close(descriptor)
        assert after - before == 10
        assert process.fetch().open_fds == before
        process.close()

    def test_descriptors_are_counted_as_the_kernel_lists_them(self) -> None:
        """The list has one more: the descriptor that the listing itself opens."""
        process = Process()
        assert process.fetch().open_fds == len(list(Path("/proc/self/fd").iterdir())) - 1
        process.close()

    def test_memory_that_is_taken_is_seen(self) -> None:
        process = Process()
        before = process.memory_bytes()
        taken = bytearray(os.urandom(2**20)) * 64
        after = process.memory_bytes()
        process.close()
        assert after - before > len(taken) / 2

    def test_figures_are_read_when_no_descriptor_is_left(self) -> None:
        process = Process()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        in_use = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (in_use, hard))
        taken: list[int] = []
        try:
            with pytest.raises(OSError, match="Too many open files"):  # noqa: PT012
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            figures = process.fetch()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
        process.close()
        assert figures.open_fds == figures.max_fds == in_use
        assert figures.resident_memory_bytes > 0

    def test_without_proc_it_says_what_to_do(self) -> None:
        with pytest.raises(SourceError, match=r"mount /proc") as caught:
            Process("/nonexistent")
        assert caught.value.code == "system"
