"""conf/nginx.conf in a real nginx: events are not held back, WebSockets pass, no key is logged."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

SAMPLE: Final = Path(__file__).parents[2] / "conf" / "nginx.conf"
NGINX: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
S: Final = 10.0
"""Seconds within which a thing that takes one must have happened, on the slowest machine."""

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is missing: apt-get install nginx")

FRAME: Final = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_types text/event-stream;
    {sample}
}}
"""


class Backend:
    """Stands in for the server: two events, the second when told; an echo; what it was asked."""

    def __init__(self) -> None:
        self.second = asyncio.Event()
        self.requests: list[web.Request] = []
        self.app = web.Application()
        self.app.router.add_get("/events", self.events)
        self.app.router.add_get("/socket", self.socket)
        self.app.router.add_get("/metrics", self.metrics)

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

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text="up 1\n")


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
async def proxy(backend: Backend, tmp_path: Path) -> AsyncIterator[str]:
    """The address of an nginx in front of the backend."""
    server = TestServer(backend.app)
    await server.start_server()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sample = SAMPLE.read_text(encoding="utf-8")
    for old, new in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("127.0.0.1:9096;", f"127.0.0.1:{server.port};"),
        ("/var/log/nginx/streaming-api.log", f"{tmp_path}/access.log"),
    ):
        assert old in sample
        sample = sample.replace(old, new)
    file = tmp_path / "nginx.conf"
    file.write_text(FRAME.format(folder=tmp_path, sample=sample), encoding="utf-8")
    assert NGINX is not None
    nginx = await asyncio.create_subprocess_exec(NGINX, "-e", "stderr", "-c", file)
    try:
        async with asyncio.timeout(S):
            while not (tmp_path / "pid").exists():
                assert nginx.returncode is None, "nginx did not start"
                await asyncio.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        nginx.terminate()
        await nginx.wait()
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
    assert request.host == "127.0.0.1"


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


async def test_metrics_are_for_this_machine_only(proxy: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{proxy}/metrics") as response:
        assert response.status == 200
    assert "deny all;" in SAMPLE.read_text(encoding="utf-8")
