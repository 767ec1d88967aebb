"""The scrape of a running server: what promtool, Prometheus' own parsers and an operator see."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable

import httpx
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_metrics

from streaming_api.connections.endings import KINDS, REFUSALS, CloseReason
from streaming_api.service import StreamingService
from streaming_api.telemetry.deliveries import BOUNDS
from tests.clients import events, eventually, http, websocket
from tests.conftest import StartServer

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
PROMTOOL = shutil.which("promtool")


async def scrape(server: StreamingService, accept: str = "text/plain") -> httpx.Response:
    async with http() as client:
        response = await client.get(f"{server.url}/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    return response


def ours(families: Iterable[Metric]) -> dict[str, Metric]:
    """The metrics of this application, without those of Python and the process."""
    return {family.name: family for family in families if family.name.startswith("streaming_")}


async def figures(server: StreamingService) -> dict[str, Metric]:
    return ours(text_metrics((await scrape(server)).text))


def values(family: Metric, label: str) -> dict[str, float]:
    """Value by label value; a sample with several labels counts under the one asked for."""
    found: dict[str, float] = {}
    for sample in family.samples:
        name = sample.labels[label]
        found[name] = found.get(name, 0.0) + sample.value
    return found


async def promtool(text: str) -> tuple[int | None, str]:
    """Exit status and everything that ``promtool check metrics`` prints about a scrape."""
    assert PROMTOOL is not None
    process = await asyncio.create_subprocess_exec(
        PROMTOOL, "check", "metrics",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate(text.encode())
    return process.returncode, output.decode()


async def use(server: StreamingService) -> None:
    """An answer over WebSocket, a topic over SSE, and an end of each connection."""
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        await socket.answer()
    async with events(server.url, "/streaming/sse/status") as stream:
        await stream.receive()
    manager = server.connection_manager
    await eventually(lambda: not manager.open["websocket"] and not manager.open["sse"])


class TestPromtool:
    pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="promtool: apt-get install prometheus")

    async def test_promtool_has_nothing_to_say_about_a_server_that_has_just_started(
        self, server: StreamingService
    ) -> None:
        assert await promtool((await scrape(server)).text) == (0, "")

    async def test_promtool_has_nothing_to_say_about_a_server_in_use(
        self, server: StreamingService
    ) -> None:
        await use(server)
        assert await promtool((await scrape(server)).text) == (0, "")

    async def test_promtool_would_say_something_if_there_were_something(self) -> None:
        status, said = await promtool("# TYPE bad_count counter\nbad_count 1\n")
        assert status
        assert "bad_count" in said


class TestFormats:
    async def test_prometheus_own_text_is_the_default(self, server: StreamingService) -> None:
        response = await scrape(server, "*/*")
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert ours(text_metrics(response.text))

    async def test_open_metrics_are_given_when_asked_for(self, server: StreamingService) -> None:
        await use(server)
        response = await scrape(server, OPEN_METRICS)
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert response.text.endswith("# EOF\n")
        families = open_metrics(response.text)  # type: ignore[no-untyped-call]
        assert ours(families).keys() == (await figures(server)).keys()


BOUNDED = frozenset(
    {
        "transport", "reason", "topic", "state", "outcome", "source", "le", "kind", "result",
        "status", "version", "python", "build", "key", "type",
    }
)  # fmt: skip
"""Labels whose values are known in advance; of keys, by the configuration."""


class TestNames:
    async def test_every_metric_has_a_help_and_a_type(self, server: StreamingService) -> None:
        for name, family in (await figures(server)).items():
            assert family.documentation.endswith("."), name
            assert family.type in {"gauge", "counter", "histogram"}, name

    async def test_counters_end_in_total_and_units_are_base_units(
        self, server: StreamingService
    ) -> None:
        for family in (await figures(server)).values():
            for sample in family.samples:
                assert (family.type == "counter") == sample.name.endswith("_total")
                assert not any(
                    unit in sample.name for unit in ("_ms", "_milli", "_kb", "_mb", "_percent")
                )

    async def test_no_label_is_per_connection_user_or_request(
        self, server: StreamingService
    ) -> None:
        before = await figures(server)
        await use(server)
        after = await figures(server)
        for name, family in after.items():
            labels = {label for sample in family.samples for label in sample.labels}
            assert labels <= BOUNDED, name
            assert len(family.samples) == len(before[name].samples), f"{name} has grown"
            assert "r-1" not in str(family.samples)


class TestFirstScrape:
    async def test_the_first_scrape_shows_every_label_value_at_nothing(
        self, server: StreamingService
    ) -> None:
        found = await figures(server)
        kinds = dict.fromkeys(KINDS, 0.0)
        assert values(found["streaming_connections"], "transport") == kinds
        assert values(found["streaming_connections_accepted"], "transport") == kinds
        assert values(found["streaming_deliveries"], "transport") == kinds
        ended = found["streaming_connections_ended"]
        assert len(ended.samples) == len(KINDS) * len(CloseReason)
        assert values(ended, "reason") == dict.fromkeys(CloseReason, 0.0)
        refused = values(found["streaming_connections_refused"], "reason")
        assert refused == dict.fromkeys(REFUSALS, 0.0)
        assert values(found["streaming_viewer_aborts"], "reason") == dict.fromkeys(
            ("stalled", "too_slow", "ping_timeout"), 0.0
        )
        assert values(found["streaming_answers"], "state") == {"queued": 0, "running": 0}
        outcomes = values(found["streaming_answers_ended"], "outcome")
        assert set(outcomes) >= {"stop", "length", "cancelled", "incomplete", "error"}
        assert not any(outcomes.values())
        topics = values(found["streaming_messages"], "topic")
        assert set(topics) == {"chat", "metrics", "alerts", "status"}
        assert topics["chat"] == 0
        assert values(found["streaming_source_up"], "source") == {}
        latency = found["streaming_delivery_latency_seconds"]
        buckets = [sample for sample in latency.samples if sample.name.endswith("_bucket")]
        assert len(buckets) == len(KINDS) * (len(BOUNDS) + 1)
        assert not any(sample.value for sample in latency.samples)
        for name in ("streaming_chunks", "streaming_background_failures", "streaming_unsent_bytes"):
            assert [sample.value for sample in found[name].samples] == [0]

    async def test_the_first_scrape_shows_a_source_that_is_configured_as_not_up_until_it_answers(
        self, start_server: StartServer
    ) -> None:
        nobody = "http://127.0.0.1:9"
        server = await start_server(
            metrics_server_endpoint=nobody,
            custom_metrics_endpoint=nobody,
            alertmanager_endpoint=nobody,
        )
        await eventually(lambda: "alertmanager" in server.context.topics.states())
        sources = values((await figures(server))["streaming_source_up"], "source")
        assert sources == dict.fromkeys(("prometheus", "exposition", "alertmanager"), 0.0)

    async def test_the_first_scrape_shows_the_limits_as_configured(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(max_connections=7, sse_max_connections=5)
        found = await figures(server)
        assert values(found["streaming_connections_limit"], "transport") == {
            "websocket": 7, "sse": 5
        }  # fmt: skip


class TestFigures:
    async def test_figures_count_what_has_happened(self, server: StreamingService) -> None:
        await use(server)
        found = await figures(server)
        kinds = dict.fromkeys(KINDS, 1.0)
        assert values(found["streaming_connections_accepted"], "transport") == kinds
        assert values(found["streaming_connections_ended"], "transport") == kinds
        assert values(found["streaming_connections"], "transport") == dict.fromkeys(KINDS, 0.0)
        assert values(found["streaming_answers_ended"], "outcome")["stop"] == 1
        assert values(found["streaming_messages"], "topic")["chat"] > 1
        delivered = values(found["streaming_deliveries"], "transport")
        assert delivered["websocket"] > 1
        latency = found["streaming_delivery_latency_seconds"].samples
        counts = {
            sample.labels["transport"]: sample.value
            for sample in latency
            if sample.name.endswith("_count")
        }
        assert counts == delivered

    async def test_buckets_only_grow(self, server: StreamingService) -> None:
        await use(server)
        latency = (await figures(server))["streaming_delivery_latency_seconds"]
        for kind in KINDS:
            counts = [
                sample.value
                for sample in latency.samples
                if sample.name.endswith("_bucket") and sample.labels["transport"] == kind
            ]
            assert counts == sorted(counts)
            assert counts[-1] > 0

    async def test_figures_are_the_same_as_json(self, server: StreamingService) -> None:
        await use(server)
        async with http() as client:
            shown = (await client.get(f"{server.url}/streaming/metrics")).json()
        found = await figures(server)
        assert values(found["streaming_messages"], "topic")["chat"] == shown["messages"]["chat"]
        assert values(found["streaming_answers_ended"], "outcome") == shown["answers"]["by_outcome"]
        count = shown["delivery_latency_seconds"]["websocket"]["count"]
        assert values(found["streaming_deliveries"], "transport")["websocket"] == count
        for kind in KINDS:
            assert shown[f"{kind}_performance"]["percent"] is not None

    async def test_a_refusal_is_counted_by_its_reason(self, start_server: StartServer) -> None:
        server = await start_server(sse_max_connections=1)
        async with events(server.url, "/streaming/sse/status") as stream:
            await stream.receive()
            async with http() as client:
                refused = await client.get(f"{server.url}/streaming/sse/status")
            assert refused.status_code == 503
            found = await figures(server)
        assert values(found["streaming_connections_refused"], "reason")["connections"] == 1
        assert values(found["streaming_connections"], "transport")["sse"] == 1
