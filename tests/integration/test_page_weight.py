"""What the live page weighs: requests, bytes, time to the first figures, subscribers, nodes."""

from __future__ import annotations

import asyncio
import math
import random
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
import pytest
from playwright.async_api import Browser, Route, expect

from tests.browser import PATIENCE, ask, browser, needs_chromium, open_chat, open_served
from tests.clients import eventually
from tests.fakes.upstream import Script

if TYPE_CHECKING:
    from streaming_api.service import StreamingService
    from tests.conftest import StartServer
    from tests.fakes.upstream import FakeUpstream

__all__ = ["browser"]

pytestmark = needs_chromium

LATENCY_MS: Final = 300
CONNECTIONS: Final = 6
"""That a browser opens to one host under HTTP/1.1."""
FIRST_PAINT_MS: Final = 1_200
MOST_REQUESTS: Final = 12
MOST_BYTES: Final = 45_000
MOST_SUBSCRIBERS: Final = 5


@pytest.fixture
async def url(start_server: StartServer, upstream: FakeUpstream) -> str:
    server = await start_server(api_gateway_endpoint=upstream.url, poll_interval=0.2)
    return server.url


def remember_an_hour(server: StreamingService) -> None:
    """Let the server have run under load for an hour, by its own account."""
    history = server.context.topics.history
    clock, wall = history._clock, history._wall
    now = wall()
    dice = random.Random(1)
    for second in range(3_600):
        history._clock = lambda second=second: float(second)  # type: ignore[misc]
        history._wall = lambda second=second: now - 3_600 + second  # type: ignore[misc]
        noise = {
            "tokens_per_second": dice.gauss(480, 40),
            "answers_running": float(dice.randint(8, 14)),
            "first_token_p50_seconds": 0.0004 + (second // 7 % 9) / 1e5,
            "first_token_p95_seconds": 0.002 + (second // 3 % 99) / 1e5,
            "answers_stop": 215.0 + (second // 2 % 11),
            "answers_error": float(second // 5 % 30),
            "connections_websocket": float(dice.randint(9, 15)),
            "event_loop_lag_seconds": dice.random() / 50,
            "resident_memory_bytes": 1.5e8 + second * 1e4,
            "cpu_seconds": second / 10,
        }
        history.sample({**history.figures(), **noise})
    history._clock, history._wall, history._sampled = clock, wall, clock()


async def test_the_first_visit_is_twelve_requests_and_45_kilobytes(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream
) -> None:
    """Also of a server that has something to show."""
    server = await start_server(api_gateway_endpoint=upstream.url, poll_interval=0.2)
    remember_an_hour(server)
    url = server.url
    page = await browser.new_page()
    session = await page.context.new_cdp_session(page)
    await session.send("Network.enable")
    asked: list[str] = []
    received: list[float] = []
    session.on("Network.requestWillBeSent", lambda event: asked.append(event["request"]["url"]))
    session.on("Network.webSocketCreated", lambda event: asked.append(event["url"]))
    session.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    await page.goto(url)
    await expect(page.locator("#data-age")).to_have_text("live")
    await page.wait_for_load_state("networkidle")
    asked = [address for address in asked if not address.startswith("data:")]
    assert len(asked) <= MOST_REQUESTS, asked
    assert sum(received) <= MOST_BYTES, sum(received)


async def test_a_second_visit_asks_for_the_document_and_the_socket(
    browser: Browser, url: str
) -> None:
    page = await open_served(browser, url)
    session = await page.context.new_cdp_session(page)
    await session.send("Network.enable")
    answered: list[tuple[str, bool]] = []
    session.on(
        "Network.responseReceived",
        lambda event: answered.append(
            (event["response"]["url"], event["response"].get("fromDiskCache", False))
        ),
    )
    from_memory: list[str] = []
    session.on(
        "Network.requestServedFromCache", lambda event: from_memory.append(event["requestId"])
    )
    await page.goto("about:blank")
    await page.goto(url)
    await expect(page.locator("#data-age")).to_have_text("live")
    fresh = [address for address, cached in answered if "/static/" in address and not cached]
    assert len(fresh) <= len(from_memory), fresh


async def test_the_first_figures_take_three_round_trips(
    browser: Browser, start_server: StartServer
) -> None:
    """They are drawn from the document and what it names: with 300 ms a round, in 1.2 s.

    Nothing that a script asks for is needed, so nothing follows upon the files.
    """
    server = await start_server()
    async with asyncio.timeout(PATIENCE):
        while b'"times":[]' in server.context.topics.history.snapshot():
            await asyncio.sleep(0.1)
    async with aiohttp.ClientSession() as client, client.get(server.url) as reply:
        document = await reply.text()
    named: set[str] = set()
    page = await browser.new_page()

    async def serve_what_is_named(route: Route) -> None:
        path = urlsplit(route.request.url).path.removeprefix("/")
        if path and f'"{path}"' not in document:
            await route.abort()
            return
        named.update({path} - {""})
        await route.continue_()

    await page.route("**/*", serve_what_is_named)
    await page.route_web_socket(re.compile("/streaming/"), lambda socket: socket.close())
    await page.goto(server.url)
    await expect(page.locator("#charts path.line[d^=M]").first).to_be_attached()
    rounds = 1 + math.ceil(len(named) / CONNECTIONS)
    assert rounds * LATENCY_MS < FIRST_PAINT_MS, named


async def test_modules_are_compressed_and_kept_for_ever(url: str) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.get(url) as reply:
            assert reply.headers["Content-Encoding"] == "deflate" or (
                reply.headers["Content-Encoding"] == "gzip"
            )
        async with aiohttp.ClientSession() as plain, plain.get(url) as reply:
            document = await reply.text()
        found = re.search(r'src="(static/[0-9a-f]{16}/main\.js)"', document)
        assert found is not None
        async with session.get(f"{url}/{found[1]}", headers={"Accept-Encoding": "gzip"}) as reply:
            assert reply.headers["Content-Encoding"] == "gzip"
            assert "immutable" in reply.headers["Cache-Control"]
            assert reply.content_type in {"text/javascript", "application/javascript"}
        other = found[1].replace(found[1].split("/")[1], "0" * 16)
        async with session.get(f"{url}/{other}") as reply:
            assert "immutable" not in reply.headers["Cache-Control"]


async def test_an_open_page_is_few_subscribers(browser: Browser, start_server: StartServer) -> None:
    server = await start_server()
    page = await open_served(browser, server.url)
    await eventually(lambda: any(c.viewers for c in server.context.manager.present()))
    [connection] = server.context.manager.present()
    assert len(connection.viewers) <= MOST_SUBSCRIBERS
    await page.get_by_role("link", name="Series").click()
    await expect(page.locator("#series tr").first).to_be_visible()
    assert len(connection.viewers) <= MOST_SUBSCRIBERS
    await page.get_by_role("link", name="Overview").click()
    await eventually(lambda: all("metrics" not in viewer.watched for viewer in connection.viewers))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(
    browser: Browser, url: str, upstream: FakeUpstream, scheme: str
) -> None:
    """Every view, in both themes, with something in it."""
    written = ("# A\n\n", "b `c` [d](http://e.org)\n\n", "```\nx\n```\n\n", "|a|b|\n|-|-|\n|1|2|\n")
    upstream.scripts["markdown"] = Script(tokens=written, reasoning=2)
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text()
    alert = {
        "status": "firing",
        "labels": {"alertname": "Broken", "severity": "critical", "team": "x"},
        "annotations": {"summary": "It is broken.", "runbook_url": "http://runbooks/broken"},
        "startsAt": "2026-01-31T12:00:00Z",
    }
    async with aiohttp.ClientSession() as session:
        body = {"version": "4", "externalURL": "http://127.0.0.1:9093", "alerts": [alert]}
        async with session.post(f"{url}/streaming/alerts", json=body) as reply:
            assert reply.ok
    context = await browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
    page = await context.new_page()
    for path in ("/", "/#chat", "/#series", "/?view=wall"):
        await page.goto("about:blank")
        await page.goto(url + path)
        await expect(page.locator("#data-age")).to_have_text("live")
        if "chat" in path:
            await ask(page, "hello", "markdown")
            await expect(page.locator(".ending")).to_contain_text("tokens")
        await page.evaluate(axe)
        found = await page.evaluate("async () => (await axe.run()).violations")
        event = [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found]
        assert event == [], path


async def test_nodes_stay_bounded_in_a_long_answer(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    """20,000 tokens arrive whole, and make no node each."""
    tokens = tuple(f"w{number} " if number % 12 else "\n\n" for number in range(20_000))
    upstream.scripts["long"] = Script(tokens=tokens)
    page = await open_chat(browser, url)
    await ask(page, "go on", "long")
    await expect(page.locator(".ending strong, .ending .cost").first).to_be_visible(timeout=120_000)
    shown = await page.locator(".answered .text").inner_text()
    assert shown.split() == "".join(tokens).split()
    nodes = await page.evaluate("document.querySelectorAll('*').length")
    assert nodes < 20_000 / 12 + 1_500


async def test_a_thousand_alerts_and_five_thousand_series_are_shown_in_part(
    browser: Browser, url: str, start_server: StartServer
) -> None:
    del url
    server = await start_server()
    topics = server.context.topics
    topics.metrics.update("exposition", {f"many_{n}": float(n) for n in range(5_000)})
    alerts = [
        {
            "status": "firing",
            "labels": {"alertname": f"A{number % 100}", "severity": "warning", "n": str(number)},
            "annotations": {"summary": f"Number {number}."},
            "startsAt": "2026-01-31T12:00:00Z",
        }
        for number in range(1_000)
    ]
    async with aiohttp.ClientSession() as session:
        body = {"version": "4", "alerts": alerts}
        async with session.post(f"{server.url}/streaming/alerts", json=body) as reply:
            assert reply.ok
    page = await open_served(browser, server.url)
    await expect(page.locator("#alerts-counts")).to_have_text("1,000 warning")
    assert await page.title() == "(1000!) streaming-api"
    await page.locator("#alerts-filter").fill("n=777")
    await expect(page.locator("#alerts .alert")).to_contain_text("Number 777.")
    await page.get_by_role("link", name="Series").click()
    await expect(page.locator("#series")).to_contain_text("5,000 series")
    await expect(page.locator("#series tbody").filter(has_text="tokens_per_second")).to_be_visible()
    await page.locator("#series-search").fill("many_4999")
    await expect(page.locator("#series td.value")).to_have_text("4,999")
    assert await page.evaluate("document.querySelectorAll('*').length") < 5_000
