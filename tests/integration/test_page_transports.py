"""The live page where things are in the way: proxies, limits, and servers that go."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
from playwright.async_api import Browser, expect

from tests.browser import (
    Cable,
    ask,
    browser,
    enter_key,
    needs_chromium,
    open_page,
    open_served,
    readout,
)
from tests.clients import bearer, fire, key
from tests.fakes.prometheus import RealAlertmanager, RealPrometheus, free_port, silence
from tests.nginx import running

if TYPE_CHECKING:
    from tests.conftest import StartServer
    from tests.fakes.upstream import FakeUpstream

__all__ = ["browser"]

pytestmark = needs_chromium

CONFIGURATION: Final = """
    access_log off;
    map $http_upgrade $upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port};
        location {path} {{
            proxy_pass {target}/;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_set_header Host $http_host;
            {more}
        }}
    }}
"""
UPGRADE: Final = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $upgrade;"
NO_UPGRADE: Final = "proxy_set_header Connection '';"


@asynccontextmanager
async def nginx(folder: Path, target: str, path: str, more: str) -> AsyncIterator[str]:
    """A real nginx in front of the server."""
    port = free_port()
    configuration = CONFIGURATION.format(port=port, path=path, target=target, more=more)
    async with running(folder, configuration):
        yield f"http://127.0.0.1:{port}{path}"


async def test_everything_works_under_a_path_of_a_proxy(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream, tmp_path: Path
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url)
    async with nginx(tmp_path, server.url, "/tools/llm/", UPGRADE) as url:
        page = await open_served(browser, url, path="#chat")
        await ask(page, "hello", "ten-tokens")
        await expect(page.locator(".ending")).to_contain_text("10 tokens")
        await page.get_by_role("link", name="Series").click()
        await expect(page.locator("#series tr").first).to_be_visible()
        links = await page.locator("footer a").evaluate_all("all => all.map(({href}) => href)")
        async with aiohttp.ClientSession() as session:
            for link in links:
                async with session.get(link) as reply:
                    assert reply.status == 200, link


async def test_a_proxy_that_lets_no_websocket_pass_is_named_and_all_of_it_works(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream, tmp_path: Path
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url)
    async with nginx(tmp_path, server.url, "/", NO_UPGRADE) as url:
        page = await open_page(browser, url, path="#chat")
        await expect(page.locator("#data-age")).to_contain_text("over event streams")
        await ask(page, "hello", "ten-tokens")
        await expect(page.locator(".ending")).to_contain_text("10 tokens")
        await expect(page.locator("#verdict-text")).to_have_text("All well")


async def test_without_websockets_figures_are_live_and_an_answer_can_be_stopped(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url, websocket_enabled=False)
    page = await open_page(browser, server.url, path="/#chat")
    await expect(page.locator("#data-age")).to_contain_text("over event streams")
    await ask(page, "hello", "endless")
    await expect(page.locator(".answered .text")).to_contain_text("t3 ")
    await page.locator("#question").press("Escape")
    await expect(page.locator(".ending")).to_contain_text("You stopped this answer.")
    await upstream.until(lambda: upstream.running == 0)


async def test_with_neither_sockets_nor_streams_it_asks_again_and_again(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server(websocket_enabled=False, sse_enabled=False)
    page = await open_page(browser, server.url)
    await expect(page.locator("#data-age")).to_contain_text("asked for every 2 s")
    await fire(server.url, "Polled")
    await expect(page.locator("#alerts")).to_contain_text("Polled")


async def test_without_websockets_more_tabs_are_live_than_a_browser_has_connections_for_streams(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server(websocket_enabled=False)
    context = await browser.new_context()
    pages = [await context.new_page() for _ in range(4)]
    for page in pages:
        await page.goto(server.url)
        await expect(page.locator("#data-age")).to_contain_text("live, over event streams")


async def test_without_metrics_it_is_connected_and_says_so(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server(streaming_metrics_enabled=False)
    page = await open_page(browser, server.url)
    await expect(page.locator("#data-age")).to_have_text("connected")
    await expect(page.locator("#window")).to_contain_text("Metrics are turned off")
    await expect(page.locator("#verdict-text")).to_have_text("All well")


async def test_a_server_that_is_full_is_said_to_be_full_and_still_shown(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server(max_connections=1)
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/streaming/websocket"),
    ):
        page = await open_page(browser, server.url)
        await expect(page.locator("#data-age")).to_contain_text("over event streams")
        await expect(page.locator("#banner")).to_contain_text("All 1 WebSocket connections")
        await expect(readout(page, "connections", "WebSocket")).to_have_text("1")


async def test_the_last_slots_are_for_keys_with_admin(start_server: StartServer) -> None:
    server = await start_server(
        max_connections=40, api_keys=(key("user", "watch"), key("boss", "watch", "admin"))
    )
    async with aiohttp.ClientSession() as session:
        url = f"{server.url}/streaming/websocket"
        open_sockets = []
        refused = 0
        for _ in range(40):
            try:
                open_sockets.append(await session.ws_connect(url, headers=bearer("user")))
            except aiohttp.WSServerHandshakeError as error:
                refused += error.status == 503
        assert 0 < refused < 10
        admin = await session.ws_connect(url, headers=bearer("boss"))
        for socket in [*open_sockets, admin]:
            await socket.close()


async def test_a_restart_keeps_what_led_to_it_behind_a_gap_and_a_mark(
    browser: Browser, start_server: StartServer
) -> None:
    first = await start_server()
    port = int(first.url.rpartition(":")[2])
    page = await open_served(browser, first.url)
    await expect(page.locator("#chart-connections path.line").last).to_have_attribute(
        "d", re.compile("^M.*L")
    )
    await first.stop()
    await expect(page.locator("#verdict-text")).to_contain_text("No news for")
    await expect(page.locator("#chart-connections rect.gap").first).to_be_visible()
    await start_server(port=port)
    await expect(page.locator("#data-age")).to_have_text("live")
    path = page.locator("#chart-connections path.line").last
    await expect(path).to_have_attribute("d", re.compile("^M.*M"))
    await expect(page.locator("#events")).to_contain_text("This page lost its connection")
    starts = page.locator("#events li", has_text="streaming-api started")
    await expect(starts).to_have_count(2)


async def test_a_half_open_network_is_noticed_within_seconds(
    browser: Browser, start_server: StartServer
) -> None:
    """Nothing arrives any more, and nothing says so: the figures are late, and that is told."""
    server = await start_server()
    async with Cable(server.url) as cable:
        page = await open_served(browser, cable.url)
        cable.hold()
        await expect(page.locator("#verdict-text")).to_contain_text("No news for")
        assert await page.title() == "(?) streaming-api"
        cable.release()
        await expect(page.locator("#data-age")).to_have_text("live")


async def test_draining_is_the_verdict(browser: Browser, start_server: StartServer) -> None:
    server = await start_server()
    page = await open_served(browser, server.url)
    server.context.topics.report_draining()
    await expect(page.locator("#verdict-text")).to_have_text("This server is stopping")


async def test_a_gateway_that_is_down_is_the_verdict(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server(api_gateway_endpoint=f"http://127.0.0.1:{free_port()}")
    page = await open_served(browser, server.url)
    await expect(page.locator("#verdict-text")).to_contain_text("No answers: the gateway is down")
    await expect(page.locator("#verdict")).to_have_attribute("data-tone", "bad")
    icon = await page.locator("#icon").get_attribute("href")
    assert icon is not None
    assert "d23b30" in icon


async def test_an_alert_that_comes_three_ways_is_one_and_a_silence_takes_it_out(
    browser: Browser, start_server: StartServer, tmp_path: Path
) -> None:
    """Real Prometheus, real Alertmanager; then Prometheus is gone, and what it told is old."""
    port = free_port()
    hook = f"http://127.0.0.1:{port}/streaming/alerts"
    async with RealAlertmanager(tmp_path / "manager", webhook=hook) as manager:
        peers = [f"127.0.0.1:{manager.port}"]
        async with RealPrometheus(tmp_path / "server", alertmanagers=peers) as real:
            server = await start_server(
                port=port,
                poll_interval=0.2,
                metrics_server_endpoint=real.url,
                alertmanager_endpoint=manager.url,
            )
            page = await open_served(browser, server.url)
            row = page.locator("#alerts .alert", has_text="AlwaysFiring")
            told = "from alertmanager, webhook, prometheus"
            await expect(row).to_contain_text(told, timeout=60_000)
            await expect(row).to_have_count(1)
            await expect(page.locator("#alerts-counts")).to_contain_text("1 critical")
            await silence(manager, "AlwaysFiring")
            quiet = page.locator("#alerts-quiet summary")
            await expect(quiet).to_contain_text("1 alert silenced")
            await expect(page.locator("#verdict-text")).to_have_text("All well")
        await expect(page.locator("#verdict-text")).to_contain_text("Prometheus is down")
        await expect(page.locator("#data-old")).to_contain_text("Prometheus")


async def test_a_key_that_may_only_watch_is_offered_no_box(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream
) -> None:
    keys = (key("watcher", "watch"), key("chatter", "chat"))
    server = await start_server(api_gateway_endpoint=upstream.url, api_keys=keys)
    page = await open_page(browser, server.url, path="/#chat")
    await enter_key(page, "watcher")
    await expect(page.locator("#chat-state")).to_contain_text("This key may watch, and not chat.")
    await expect(page.locator("#question")).to_be_hidden()


async def test_a_key_that_may_only_chat_is_asked_nothing_else(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream
) -> None:
    keys = (key("watcher", "watch"), key("chatter", "chat"))
    server = await start_server(api_gateway_endpoint=upstream.url, api_keys=keys)
    page = await open_page(browser, server.url, path="/#chat")
    refused: list[str] = []
    page.on("response", lambda reply: refused.extend([reply.url] * (reply.status == 403)))
    await enter_key(page, "chatter")
    await ask(page, "hello", "ten-tokens")
    await expect(page.locator(".ending")).to_contain_text("10 tokens")
    await expect(page.locator("#verdict-text")).to_have_text("This key may chat, and not watch")
    assert len(refused) <= 2, refused


async def test_ten_tabs_are_live(browser: Browser, start_server: StartServer) -> None:
    """More than the six connections that a browser gives a host over HTTP/1.1."""
    server = await start_server()
    context = await browser.new_context()
    pages = [await context.new_page() for _ in range(10)]
    for page in pages:
        await page.goto(server.url)
    for page in pages:
        await page.bring_to_front()
        await expect(page.locator("#data-age")).to_have_text("live")
    await expect(readout(pages[0], "connections", "WebSocket")).to_have_text("10")


async def test_an_answer_is_opened_on_another_device_and_retry_after_counts_down(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url)
    gate = upstream.gated(model="gated")
    page = await open_served(browser, server.url, path="/#chat")
    await ask(page, "hello", "gated")
    gate.release(3)
    await expect(page.locator(".answered .text")).to_have_text("t0 t1 t2 ")
    [answer] = server.context.answers.running
    context = await browser.new_context()
    other = await context.new_page()
    await other.goto(f"{server.url}/#answer/{answer.request_id}")
    await expect(other.locator(".answered .text")).to_have_text("t0 t1 t2 ")
    gate.open()
    for each in (page, other):
        await expect(each.locator(".ending")).to_contain_text("10 tokens")
    await ask(page, "again please", "rate-limited")
    await expect(page.locator("#chat-state")).to_contain_text(re.compile(r"try again in \d+ s"))
    await expect(page.locator("#chat-state")).to_have_attribute("aria-live", "off")
    await expect(page.locator("#question")).to_have_value("again please")
    await page.reload()
    await expect(page.locator("#question")).to_have_value("again please")
    await expect(page.locator("#model")).to_have_value("rate-limited")
