"""conf/nginx.conf in a real nginx: events are not held back, WebSockets pass, no key is logged."""

from __future__ import annotations

import asyncio
import io
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from aiohttp.http import HttpVersion11
from aiohttp.test_utils import BaseTestServer, TestServer

from tests.nginx import NGINX, SAMPLE, nginx

S: Final = 10.0
"""Seconds within which a thing that takes one must have happened, on the slowest machine."""

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is missing: apt-get install nginx")


class Backend:
    """Stands in for the server: two events, the second on request; an echo; what it was asked."""

    def __init__(self) -> None:
        self.second = asyncio.Event()
        self.flooded = asyncio.Event()
        self.requests: list[web.Request] = []
        self.app = web.Application(client_max_size=2**26)
        self.app.router.add_get("/events", self.events)
        self.app.router.add_get("/socket", self.socket)
        self.app.router.add_get("/metrics", self.metrics)
        self.app.router.add_get("/flood", self.flood)
        self.app.router.add_get("/slow", self.slow)
        self.app.router.add_post("/take", self.take)
        self.app.router.add_post("/break", self.broken)

    async def events(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await self.second.wait()
        await response.write(b"data: second\n\n")
        return response

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data)
        return ws

    async def flood(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(64):
            await response.write(b"data: %b\n\n" % bytes(2**20))
        self.flooded.set()
        return response

    async def slow(self, _request: web.Request) -> web.Response:
        await asyncio.sleep(0.7)
        return web.Response(text="a whole answer")

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        return web.Response(text=str(len(await request.read())))

    async def broken(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def metrics(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        return web.Response(text="up 1\n")


def in_milliseconds(setting: str) -> Callable[[str], str]:
    """A change to the configuration: so many milliseconds instead of seconds."""

    def change(sample: str) -> str:
        changed, times = re.subn(rf"({setting} \d+)s;", r"\1ms;", sample)
        assert times == 1
        return changed

    return change


@contextmanager
def gone() -> Iterator[int]:
    """The port of a machine that is gone: it does not even refuse connections."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):  # all that the kernel accepts for it
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()[1]


def _port(server: BaseTestServer) -> int:
    assert server.port is not None
    return server.port


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
async def proxy(backend: Backend, tmp_path: Path) -> AsyncIterator[str]:
    """The address of an nginx in front of the backend."""
    server = TestServer(backend.app)
    await server.start_server()
    async with nginx(tmp_path, _port(server)) as url:
        yield url
    await server.close()


async def test_each_event_passes_when_it_is_written(backend: Backend, proxy: str) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{proxy}/events", headers={"X-Forwarded-For": "9.9.9.9"}) as response,
    ):
        assert await asyncio.wait_for(response.content.readuntil(b"\n\n"), S) == b"data: first\n\n"
        backend.second.set()
        assert await asyncio.wait_for(response.content.readuntil(b"\n\n"), S) == b"data: second\n\n"
    (request,) = backend.requests
    assert request.headers["X-Forwarded-For"] == "127.0.0.1"
    assert request.host == proxy.removeprefix("http://")  # with its port


async def test_nothing_is_kept_for_a_client_that_does_not_read(
    backend: Backend, proxy: str
) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{proxy}/flood"):
        with pytest.raises(TimeoutError):  # within a second nginx would take all of it
            await asyncio.wait_for(backend.flooded.wait(), 1)


async def test_connections_to_the_server_are_kept_and_learn_what_the_client_used(
    backend: Backend, proxy: str
) -> None:
    for _ in range(3):  # clients of their own
        async with aiohttp.ClientSession() as http, http.post(f"{proxy}/take", data=b"x"):
            pass
    first, *others = backend.requests
    assert all(request.protocol is first.protocol for request in others)  # upstream's keepalive
    assert "Connection" not in first.headers
    assert "Upgrade" not in first.headers
    assert first.version == HttpVersion11
    assert first.headers["X-Forwarded-Proto"] == "http"


async def test_nothing_is_compressed_again(backend: Backend, proxy: str) -> None:
    backend.second.set()
    headers = {"Accept-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{proxy}/events", headers=headers) as response,
    ):
        await response.read()
        assert "Content-Encoding" not in response.headers  # the frame around the sample says on


async def test_websockets_pass(proxy: str) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{proxy}/socket") as ws:
        await ws.send_str("Hello")
        message = await asyncio.wait_for(ws.receive(), S)
        assert (message.type, message.data) == (WSMsgType.TEXT, "Hello")


async def test_no_ticket_is_logged(backend: Backend, proxy: str, tmp_path: Path) -> None:
    backend.second.set()
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{proxy}/events?ticket=s3cret") as response,
    ):
        await response.read()
    async with asyncio.timeout(S):
        while not (log := (tmp_path / "access.log").read_text(encoding="utf-8")):
            await asyncio.sleep(0.02)
    assert "GET /events" in log
    assert "s3cret" not in log


async def test_metrics_are_for_this_machine_only(backend: Backend, proxy: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{proxy}/metrics") as response:
        assert response.status == 200
    assert "deny all;" in SAMPLE.read_text(encoding="utf-8")
    (request,) = backend.requests
    assert request.host == proxy.removeprefix("http://")
    assert request.version == HttpVersion11
    assert "Connection" not in request.headers


async def test_a_whole_answer_may_take_longer_than_any_sdk_waits(
    backend: Backend, tmp_path: Path
) -> None:
    change = in_milliseconds("proxy_read_timeout")
    async with (
        TestServer(backend.app) as server,
        nginx(tmp_path, _port(server), change=change) as url,
        aiohttp.ClientSession() as http,
        http.get(f"{url}/slow") as response,
    ):
        assert await response.text() == "a whole answer"  # 700 ms for OpenAI's 600 s


async def test_bodies_are_bounded_as_the_server_bounds_them(proxy: str) -> None:
    async with aiohttp.ClientSession() as http:
        body = bytes(32 * 2**20)
        async with http.post(f"{proxy}/take", data=io.BytesIO(body)) as response:
            assert await response.text() == str(len(body))
        async with http.post(f"{proxy}/take", data=io.BytesIO(body + b"!")) as response:
            assert response.status == 413


async def test_what_may_have_started_an_answer_is_not_sent_again(tmp_path: Path) -> None:
    backends = Backend(), Backend()
    async with (
        TestServer(backends[0].app) as first,
        TestServer(backends[1].app) as second,
        nginx(tmp_path, _port(first), _port(second)) as url,
        aiohttp.ClientSession() as http,
        http.post(f"{url}/break") as response,
    ):
        assert response.status == 502
    assert sum(len(backend.requests) for backend in backends) == 1


async def test_a_machine_that_is_gone_holds_nobody_up(backend: Backend, tmp_path: Path) -> None:
    change = in_milliseconds("proxy_connect_timeout")
    with gone() as elsewhere:
        async with (
            TestServer(backend.app) as server,
            nginx(tmp_path, elsewhere, _port(server), change=change) as url,
            aiohttp.ClientSession() as http,
            asyncio.timeout(S),  # nginx itself would wait for a minute
        ):
            for _ in range(2):  # one is first asked of each
                async with http.post(f"{url}/take", data=b"x") as response:
                    assert await response.text() == "1"


async def test_a_connection_that_nobody_uses_is_closed_by_nginx_and_not_by_the_server(
    backend: Backend, tmp_path: Path
) -> None:
    async with (
        TestServer(backend.app) as server,
        nginx(tmp_path, _port(server), change=in_milliseconds("keepalive_timeout")) as url,
        aiohttp.ClientSession() as http,
        http.post(f"{url}/take", data=b"x"),
        asyncio.timeout(S),
    ):
        while backend.requests[0].protocol.transport is not None:
            await asyncio.sleep(0.02)
