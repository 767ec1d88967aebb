"""The package as a whole: it says what it is, builds, starts, answers, and is gone when stopped."""

from __future__ import annotations

import asyncio
import gc
import re
from importlib import metadata
from pathlib import Path

import httpx
import pytest
from aiohttp import web

import streaming_api
from streaming_api.app import make_app
from streaming_api.config import StreamingConfig
from streaming_api.service import StreamingService
from tests.clients import http
from tests.conftest import StartServer

ROUTES = [
    ("GET", "/"),
    ("GET", "/streaming/websocket"),
    ("GET", "/streaming/websocket/chat"),
    ("GET", "/streaming/sse/metrics"),
    ("GET", "/streaming/sse/alerts"),
    ("GET", "/streaming/sse/status"),
    ("GET", "/streaming/sse"),
    ("POST", "/streaming/sse/chat"),
    ("GET", "/streaming/sse/chat/r-1"),
    ("DELETE", "/streaming/chat/r-1"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("POST", "/chat/completions"),
    ("GET", "/v1/chat/completions/r-1"),
    ("DELETE", "/v1/chat/completions/r-1"),
    ("GET", "/models"),
    ("GET", "/v1/models/a/b"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses"),
    ("GET", "/v1/responses/resp_1"),
    ("DELETE", "/v1/responses/resp_1"),
    ("POST", "/v1/responses/resp_1/cancel"),
    ("GET", "/v1/responses/resp_1/input_items"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/audio/speech"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/rerank"),
    ("POST", "/v1/moderations"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/api/chat"),
    ("GET", "/api/chat/c/stream"),
    ("DELETE", "/api/chat/c"),
    ("POST", "/streaming/alerts"),
    ("POST", "/streaming/tickets"),
    ("GET", "/streaming/history"),
    ("GET", "/streaming/snapshot"),
    ("GET", "/streaming/sse/history"),
    ("GET", "/streaming/connections"),
    ("GET", "/streaming/status"),
    ("GET", "/streaming/metrics"),
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/streaming/usage"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/streaming/schema"),
    ("GET", "/streaming/openapi.json"),
    ("GET", "/streaming/asyncapi.json"),
]
"""The design's table of endpoints, by example."""


def descriptors() -> int:
    """How many file descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def matches(app: web.Application, method: str, path: str) -> bool:
    """Whether the application answers this method on this path."""
    for route in app.router.routes():
        pattern = route.get_info().get("pattern") or re.compile(re.escape(route.get_info()["path"]))
        if route.method == method and pattern.fullmatch(path):
            return True
    return False


async def get(url: str) -> httpx.Response:
    async with http() as client:
        return await client.get(url)


def test_the_version_is_the_one_that_is_installed() -> None:
    assert streaming_api.__version__ == metadata.version("streaming-api")


class TestConfiguration:
    def test_an_argument_that_there_is_not_is_refused(self) -> None:
        with pytest.raises(TypeError):
            StreamingConfig(colour="blue")  # type: ignore[call-arg]


class TestApplication:
    @pytest.mark.parametrize(("method", "path"), ROUTES)
    def test_every_endpoint_of_the_design_is_there(self, method: str, path: str) -> None:
        assert matches(make_app(StreamingConfig()), method, path)

    def test_there_is_no_endpoint_besides(self) -> None:
        app = make_app(StreamingConfig())
        for route in app.router.routes():
            if route.method == "HEAD":
                continue
            info = route.get_info()
            if info.get("formatter") in {"/static/{file}", "/static/{edition}/{file}"}:
                continue
            pattern = info.get("pattern") or re.compile(re.escape(info["path"]))
            assert any(
                route.method == method and pattern.fullmatch(path) for method, path in ROUTES
            ), info

    def test_building_starts_nothing(self) -> None:
        """No loop is needed, and nothing is open that would have to be closed."""
        before = descriptors()
        made = [make_app(StreamingConfig()) for _ in range(3)]
        assert len({id(app) for app in made}) == 3
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        assert descriptors() - before <= 2 * len(made), "two of /proc each"

    @pytest.mark.parametrize("feature", ["chat", "metrics", "alerts", "status"])
    def test_with_a_feature_switched_off_it_builds(self, feature: str) -> None:
        make_app(StreamingConfig(**{f"streaming_{feature}_enabled": False}))  # type: ignore[arg-type]


class TestService:
    async def test_a_stopped_service_is_gone_and_leaves_nothing_open(self) -> None:
        config = StreamingConfig(host="127.0.0.1", port=0, embedded_model="none")

        async def once() -> str:
            async with StreamingService(config) as service:
                assert (await get(f"{service.url}/health")).status_code == 200
                return service.url

        await once()
        gc.collect()
        before = descriptors()
        tasks = len(asyncio.all_tasks())
        for _ in range(3):
            url = await once()
        gc.collect()
        assert descriptors() <= before
        assert len(asyncio.all_tasks()) == tasks
        with pytest.raises(httpx.ConnectError):
            await get(f"{url}/health")

    async def test_a_service_that_does_not_run_says_so(self) -> None:
        service = StreamingService(StreamingConfig())
        assert repr(service) == "<StreamingService stopped>"
        with pytest.raises(RuntimeError, match="not been started"):
            _ = service.context
        await service.stop()

    async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing(
        self, start_server: StartServer
    ) -> None:
        server = await start_server()
        port = int(server.url.rpartition(":")[2])
        second = StreamingService(
            StreamingConfig(host="127.0.0.1", port=port, embedded_model="none")
        )
        with pytest.raises(OSError, match=r"[Aa]ddress"):
            await second.start()
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert len(names) == len(set(names)), "each piece of background work runs once"
        assert (await get(f"{server.url}/health")).status_code == 200

    async def test_two_services_in_one_process_do_not_mix(self, start_server: StartServer) -> None:
        first, second = await start_server(name="one"), await start_server(name="two")
        names = [
            (await get(f"{server.url}/health")).json()["service"] for server in (first, second)
        ]
        assert names == ["one", "two"]


def test_every_module_says_in_its_first_line_what_lives_there() -> None:
    package = Path(streaming_api.__file__).parent
    silent = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if not re.match(r'"""[A-Za-z"`].{10,}', path.read_text().partition("\n")[0])
    ]
    assert silent == []
