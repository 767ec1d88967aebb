"""Pages of other origins: those in ``allowed_origins`` may read every reply, in a real browser."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, async_playwright

from streaming_api.config import ApiKey
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import raw

ORIGIN: Final = "https://app.example.org"
CHROMIUM: Final = shutil.which("chromium")
ARGUMENTS: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
QUESTION: Final = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
GARBAGE: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"
    b"Content-Length: 3\r\n\r\nabc"
)
"""A body that is not what its headers say."""
REPLIES: Final = [
    ("GET", "/health", 200),
    ("GET", "/nowhere", 404),
    ("PUT", "/health", 405),
    ("GET", "/streaming/sse/status", 200),
    ("HEAD", "/streaming/sse/status", 200),
    ("GET", "/streaming/websocket", 426),
    ("POST", "/v1/chat/completions", 200),
]
IN_THE_PAGE: Final = """async ({url, key}) => {
    const post = (key, stream) => fetch(`${url}/v1/chat/completions`, {
        method: "POST", body: JSON.stringify({model: "m", stream,
            messages: [{role: "user", content: "Hello"}]}),
        headers: {"Content-Type": "application/json", Authorization: `Bearer ${key}`,
                  "X-Stainless-Lang": "js"}});
    const streamed = await post(key, true);
    const refused = await post("wrong", false);
    const issued = () => fetch(`${url}/streaming/tickets`, {
        method: "POST", headers: {Authorization: `Bearer ${key}`}}).then(reply => reply.json());
    const events = new EventSource(
        `${url}/streaming/sse/status?ticket=${(await issued()).ticket}`);
    const event = await new Promise((told, failed) => {
        events.addEventListener("status_update", message => told(message.type));
        events.onerror = () => failed(new Error("EventSource"));
    });
    events.close();
    const socket = new WebSocket(
        `${url.replace("http", "ws")}/streaming/websocket?ticket=${(await issued()).ticket}`);
    const opened = await new Promise((told, failed) => {
        socket.onopen = () => told(true);
        socket.onerror = () => failed(new Error("WebSocket"));
    });
    return {
        health: (await (await fetch(`${url}/health`)).json()).status,
        streamed: (await streamed.text()).includes("[DONE]"),
        request_id: streamed.headers.get("X-Request-Id") !== null,
        gateways: streamed.headers.get("x-litellm-call-id"),
        refused: [refused.status, (await refused.json()).error.code],
        event, opened};
}"""


@pytest.mark.parametrize(("method", "path", "status"), REPLIES)
async def test_every_reply_to_an_allowed_page_says_that_it_may_be_read(
    start_server: StartServer, upstream: FakeUpstream, method: str, path: str, status: int
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url, allowed_origins=(ORIGIN,))
    async with aiohttp.ClientSession() as http:
        for stream in (False, True):
            body = QUESTION | {"stream": stream} if method == "POST" else None
            headers = {"Origin": ORIGIN}
            url = server.url + path
            async with http.request(method, url, json=body, headers=headers) as reply:
                assert reply.status == status
                assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
                assert "Origin" in reply.headers["Vary"].split(", ")
                assert "X-Request-Id" in reply.headers["Access-Control-Expose-Headers"]
                assert "Access-Control-Allow-Credentials" not in reply.headers
        async with http.request(method, url, json=body) as reply:
            assert reply.status == status
            assert "Access-Control-Allow-Origin" not in reply.headers
            assert "Origin" in reply.headers["Vary"].split(", ")
        headers = {"Origin": "https://elsewhere.example"}
        async with http.request(method, url, json=body, headers=headers) as reply:
            assert reply.status == 403
            assert "Access-Control-Allow-Origin" not in reply.headers


async def test_a_preflight_needs_no_key(start_server: StartServer) -> None:
    key = ApiKey(
        name="k", sha256=hashlib.sha256(b"secret").hexdigest(), scopes=frozenset({"chat", "watch"})
    )
    server = await start_server(allowed_origins=(ORIGIN,), api_keys=(key,))
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    url = f"{server.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as http:
        async with http.options(url, headers=asked) as reply:
            assert reply.status == 204
            assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "POST" in reply.headers["Access-Control-Allow-Methods"].split(", ")
            assert "Authorization" in reply.headers["Access-Control-Allow-Headers"]
        async with http.options(url, headers=asked | {"Origin": "https://other.example"}) as reply:
            assert reply.status == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/files", 404), ("POST", "/nothing", 404), ("DELETE", "/v1/models/fake", 405)],
)
async def test_a_page_can_read_why_something_is_not_there(
    start_server: StartServer, method: str, path: str, status: int
) -> None:
    server = await start_server(allowed_origins=(ORIGIN,))
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": method}
    async with aiohttp.ClientSession() as http:
        async with http.options(server.url + path, headers=asked) as reply:
            assert reply.status == 204
            assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert method in reply.headers["Access-Control-Allow-Methods"].split(", ")
        async with http.request(method, server.url + path, headers={"Origin": ORIGIN}) as reply:
            assert reply.status == status
            assert (await reply.json())["error"]["message"]
        asked["Access-Control-Request-Method"] = "NONSENSE"
        async with http.options(server.url + path, headers=asked) as reply:
            assert "NONSENSE" not in reply.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nA b\r\n\r\n",
        b"\0\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: wonders\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        GARBAGE,
    ],
)
async def test_what_is_no_http_gets_the_headers_of_every_reply(
    start_server: StartServer, upstream: FakeUpstream, data: bytes
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url)
    async with raw(server.url) as tcp:
        await tcp.send(data)
        head = (await tcp.until(b"\r\n\r\n")).decode()
    assert head.startswith(("HTTP/1.1 4", "HTTP/1.0 4"))
    assert "Server: streaming-api\r\n" in head
    assert head.count("Server:") == 1
    assert "X-Content-Type-Options: nosniff\r\n" in head


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A page of another origin, in Chromium."""

    async def empty(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", empty)
    async with TestServer(app) as elsewhere, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        opened = await browser.new_page()
        await opened.goto(str(elsewhere.make_url("/")))
        yield opened
        await browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
async def test_a_page_of_an_allowed_origin_in_a_browser(
    start_server: StartServer, upstream: FakeUpstream, page: Page
) -> None:
    origin = page.url.rstrip("/")
    key = ApiKey(
        name="k", sha256=hashlib.sha256(b"secret").hexdigest(), scopes=frozenset({"chat", "watch"})
    )
    common = {"api_gateway_endpoint": upstream.url, "api_keys": (key,)}
    server = await start_server(**common, allowed_origins=(origin,))
    upstream.default = Script(headers=(("x-litellm-call-id", "c-1"),))
    seen = await page.evaluate(IN_THE_PAGE, {"url": server.url, "key": "secret"})
    assert seen == {
        "health": "healthy",
        "streamed": True,
        "request_id": True,
        "gateways": "c-1",
        "refused": [401, "invalid_api_key"],
        "event": "status_update",
        "opened": True,
    }
    server = await start_server(**common)
    failed = await page.evaluate("url => fetch(url).catch(error => String(error))", server.url)
    assert "TypeError" in failed
