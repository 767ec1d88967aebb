"""The topics on real sources: a real Prometheus and Alertmanager, and servers that misbehave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import pytest
from aiohttp import web

from streaming_api.config import StreamingConfig
from streaming_api.engine.channel import Channel
from streaming_api.topics import Topics
from tests.clients import Message, events
from tests.conftest import StartServer
from tests.fakes.engine import Deliveries
from tests.fakes.prometheus import RealAlertmanager, RealPrometheus, free_port
from tests.lifecycle import Lifecycle

UNIT: Final = 0.05
"""Seconds between two polls; bounds of waiting are multiples of it."""
PATIENCE: Final = 600 * UNIT

Json = dict[str, Any]


@asynccontextmanager
async def running(**settings: object) -> AsyncIterator[Topics]:
    """The topics, asking their sources."""
    loop = asyncio.get_running_loop()
    config = StreamingConfig(poll_interval=UNIT, **settings)  # type: ignore[arg-type]
    channel = Channel(
        "0123456789abcdef",
        call_later=loop.call_later,
        flush_interval=config.flush_interval / 1000,
        batch_size=config.batch_size,
        observer=Deliveries(),
    )
    topics = Topics(config, channel)
    task = asyncio.create_task(topics.run())
    try:
        yield topics
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    """Wait until the condition holds; fail with what is there instead when time is up."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what()
        await asyncio.sleep(UNIT / 5)


async def until_state(topics: Topics, component: str, state: str) -> str | None:
    """Wait until a component is in a state; its reason."""
    await until(lambda: topics.states().get(component) == state, topics.components)
    return topics.components()[component]["reason"]


def values_of(topics: Topics, source: str) -> Json:
    values: Json = orjson.loads(topics.metrics.snapshot())["values"].get(source, {})
    return values


def alerts_of(topics: Topics) -> list[Json]:
    alerts: list[Json] = orjson.loads(topics.alerts.snapshot())["alerts"]
    return alerts


class FakeSource(Lifecycle):
    """An HTTP server whose answer can be changed while it runs; it keeps its port.

    Attributes:
        answer: what each request gets; None hangs.
        asked: how many requests there have been.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.answer: Callable[[web.Request], web.Response] | None = text("")
        self.asked = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.answer is None:
            await asyncio.Event().wait()
            raise AssertionError
        return self.answer(request)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=UNIT)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


@pytest.fixture
async def source() -> AsyncIterator[FakeSource]:
    async with FakeSource() as fake:
        yield fake


def text(body: str, content_type: str = "text/plain", status: int = 200) -> Callable[..., Any]:
    """An answer that is always the same."""
    return lambda _request: web.Response(text=body, content_type=content_type, status=status)


def prometheus(alerts: list[Json], value: str = "1") -> Callable[[web.Request], web.Response]:
    """A small Prometheus: every query gives one value."""

    def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/alerts"):
            return web.json_response({"status": "success", "data": {"alerts": alerts}})
        data = {"resultType": "scalar", "result": [0, value]}
        return web.json_response({"status": "success", "data": data})

    return answer


FIRING: Final[Json] = {
    "labels": {"alertname": "Broken"},
    "annotations": {},
    "state": "firing",
    "activeAt": "2026-01-31T12:00:00Z",
    "value": "1",
}

ALL_THREE: Final = ("prometheus", "alertmanager", "webhook")

NONSENSE: Final = {
    "a web page": text("<html><h1>It works!</h1>", "text/html"),
    "an error": text("database is locked", status=500),
    "another format": text("{}", "application/json"),
    "no answer": None,
}


class TestSourcesThatFail:
    @pytest.mark.parametrize("wrong", NONSENSE)
    async def test_an_exposition_that_is_wrong_keeps_its_values_and_is_down_until_it_is_right(
        self, wrong: str, source: FakeSource
    ) -> None:
        source.answer = text("requests_total 1\n")
        async with running(custom_metrics_endpoint=source.url) as topics:
            assert await until_state(topics, "exposition", "up") is None
            source.answer = NONSENSE[wrong]
            reason = await until_state(topics, "exposition", "down")
            assert reason
            assert source.url in reason
            assert values_of(topics, "exposition") == {"requests_total": 1.0}
            source.answer = text("requests_total 2\n")
            assert await until_state(topics, "exposition", "up") is None
            assert values_of(topics, "exposition") == {"requests_total": 2.0}

    async def test_a_source_that_is_gone_comes_back_and_harms_no_other(
        self, source: FakeSource
    ) -> None:
        asked = 0

        def figures() -> dict[str, float]:
            nonlocal asked
            asked += 1
            return {"asked": float(asked)}

        source.answer = prometheus([FIRING])
        async with running(metrics_server_endpoint=source.url, queries={"one": "1"}) as topics:
            topics.add_process(figures)
            await until_state(topics, "prometheus", "up")
            await source.stop()
            reason = await until_state(topics, "prometheus", "down")
            assert reason is not None
            assert "refuses connections" in reason or "broke" in reason
            before = asked
            await until(lambda: asked > before + 2, lambda: asked)
            assert values_of(topics, "prometheus") == {"one": 1.0}
            assert [alert["state"] for alert in alerts_of(topics)] == ["firing"]
            source.answer = prometheus([], "2")
            await source.start()
            await until_state(topics, "prometheus", "up")
            assert values_of(topics, "prometheus") == {"one": 2.0}
            assert alerts_of(topics) == []

    async def test_a_source_that_is_down_is_asked_less_and_less_often(
        self, source: FakeSource
    ) -> None:
        source.answer = text("", status=500)
        async with running(custom_metrics_endpoint=source.url) as topics:
            await until_state(topics, "exposition", "down")
            await until(lambda: source.asked >= 4, lambda: source.asked)
            begun = time.monotonic()
            before = source.asked
            await until(lambda: source.asked >= before + 2, lambda: source.asked)
            assert time.monotonic() - begun > 4 * UNIT, "pauses of at least 4 and 8 intervals / 2"

    async def test_a_bad_query_and_missing_alerts_are_said_while_the_rest_is_shown(
        self, source: FakeSource
    ) -> None:
        good = prometheus([])

        def answer(request: web.Request) -> web.Response:
            if request.path.endswith("/alerts"):
                return web.Response(status=404, text="404 page not found")
            return good(request)

        source.answer = answer
        async with running(metrics_server_endpoint=source.url, queries={"one": "1"}) as topics:
            reason = await until_state(topics, "prometheus", "up")
            assert reason is not None
            assert reason.startswith("alerts: ")
            assert "404" in reason
            assert values_of(topics, "prometheus") == {"one": 1.0}

    async def test_an_endpoint_that_is_not_configured_is_no_component(self) -> None:
        async with running() as topics:
            topics.add_process(lambda: {"one": 1.0})
            await until(lambda: bool(values_of(topics, "process")), topics.components)
            assert set(topics.states()) == {"streaming-api"}

    async def test_the_models_exposition_may_come_later_with_its_key(
        self, source: FakeSource
    ) -> None:
        seen: list[str | None] = []

        def answer(request: web.Request) -> web.Response:
            seen.append(request.headers.get("Authorization"))
            return web.Response(text="slots 4\n")

        source.answer = answer
        async with running() as topics:
            topics.add_exposition(source.url, {"Authorization": "Bearer secret"})
            await until_state(topics, "exposition", "up")
            topics.add_exposition(source.url, {"Authorization": "Bearer of a second one"})
            before = len(seen)
            await until(lambda: len(seen) > before + 2, lambda: seen)
            assert set(seen) == {"Bearer secret"}
            assert values_of(topics, "exposition") == {"slots": 4.0}


class TestRealSources:
    async def test_the_usual_queries_of_a_real_prometheus(self, tmp_path: Path) -> None:
        """None of them is refused, and one that finds nothing gives no series."""
        async with (
            RealPrometheus(tmp_path) as server,
            running(metrics_server_endpoint=server.url) as topics,
        ):
            assert await until_state(topics, "prometheus", "up") is None
            await until(
                lambda: values_of(topics, "prometheus") == {"up": 1, "alerts_firing": 1},
                lambda: values_of(topics, "prometheus"),
            )
            assert topics.components()["prometheus"]["reason"] is None

    async def test_a_real_alert_arrives_three_ways(
        self, tmp_path: Path, start_server: StartServer
    ) -> None:
        """From Prometheus, from its Alertmanager, and by the Alertmanager's webhook.

        Prometheus adds labels to what it sends, one of which it takes away again.
        """
        port = free_port()
        hook = f"http://127.0.0.1:{port}/streaming/alerts"
        async with RealAlertmanager(tmp_path / "manager", webhook=hook) as manager:
            peers = [f"127.0.0.1:{manager.port}"]
            labels = {"cluster": "eu", "replica": "a"}
            async with RealPrometheus(
                tmp_path / "server", alertmanagers=peers, external=labels
            ) as real:
                server = await start_server(
                    port=port,
                    poll_interval=UNIT,
                    metrics_server_endpoint=real.url,
                    alertmanager_endpoint=manager.url,
                )
                firing: dict[str, Message] = {}

                def all_three(message: Message) -> bool:  # the snapshot or a change
                    data = message["data"]
                    for alert in data["alerts"] if "alerts" in data else [data["alert"]]:
                        if alert["labels"]["alertname"] == "AlwaysFiring":
                            firing[alert["fingerprint"]] = alert
                    return any(set(a["sources"]) == set(ALL_THREE) for a in firing.values())

                topics = server.context.topics
                async with events(server.url, "/streaming/sse/alerts") as stream:
                    await until(  # Prometheus finds its Alertmanager only after 5 s
                        lambda: (
                            {s for alert in alerts_of(topics) for s in alert["sources"]}
                            == set(ALL_THREE)
                        ),
                        lambda: alerts_of(topics),
                    )
                    await stream.until(all_three)
                [alert] = firing.values()
                assert alert["state"] == "firing"
                assert topics.alerts.counts()["firing"] == 1
                assert alert["labels"]["cluster"] == "eu"

    async def test_an_alert_of_the_webhook_alone_survives_a_restart(
        self, tmp_path: Path, start_server: StartServer
    ) -> None:
        """Nothing posts it again: Alertmanager, which is configured, is asked."""
        port = free_port()
        hook = f"http://127.0.0.1:{port}/streaming/alerts"
        async with RealAlertmanager(tmp_path, webhook=hook) as manager:
            posted = [{"labels": {"alertname": "Posted"}}]

            async def got(source: str) -> Json:
                server = await start_server(port=port, alertmanager_endpoint=manager.url)
                topics = server.context.topics
                if source == "webhook":
                    async with (
                        aiohttp.ClientSession() as session,
                        session.post(f"{manager.url}/api/v2/alerts", json=posted) as reply,
                    ):
                        assert reply.ok
                await until(
                    lambda: any(source in a["sources"] for a in alerts_of(topics)),
                    lambda: alerts_of(topics),
                )
                [alert] = alerts_of(topics)
                await server.stop()
                return alert

            await got("webhook")
            alert = await got("alertmanager")
            assert alert["labels"] == posted[0]["labels"]
            assert alert["sources"] == ["alertmanager"]


class TestTheApplication:
    async def test_a_gateway_that_is_down_is_an_alert_of_our_own(
        self, start_server: StartServer
    ) -> None:
        gone = f"http://127.0.0.1:{free_port()}"
        server = await start_server(poll_interval=UNIT, api_gateway_endpoint=gone)
        async with events(server.url, "/streaming/sse/alerts") as stream:
            got = await stream.until(lambda message: message["data"].get("event") == "firing")
        assert got[-1]["data"]["alert"]["labels"]["alertname"] == "UpstreamDown"
        assert got[-1]["data"]["alert"]["source"] == "streaming-api"
