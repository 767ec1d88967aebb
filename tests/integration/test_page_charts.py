"""The first screen by pointer and keyboard; the address, the tab and the wall."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser import PATIENCE, browser, needs_chromium, open_page, open_served

if TYPE_CHECKING:
    from streaming_api.service import StreamingService
    from tests.conftest import StartServer

__all__ = ["browser"]

pytestmark = needs_chromium


@pytest.fixture
async def server(start_server: StartServer) -> StreamingService:
    """A server that has run for an hour, by its own account."""
    server = await start_server()
    history = server.context.topics.history
    now = history._wall()
    history._wall = lambda: now - 3_500
    for second in range(3_400):
        history._clock = lambda second=second: float(second)  # type: ignore[misc]
        history._wall = lambda second=second: now - 3_450 + second  # type: ignore[misc]
        if not 1_000 <= second < 1_200:  # nobody sampled for a while
            history.sample({"tokens_per_second": second % 60, "connections_websocket": 1.0})
    return server


async def plot_box(page: Page) -> tuple[float, float, float]:
    """Left, right and the middle height of the first chart's plot."""
    box = await page.locator("#chart-tokens svg.plot").bounding_box()
    assert box is not None
    return box["x"] + 60, box["x"] + box["width"] - 10, box["y"] + box["height"] / 2


async def test_the_last_hour_is_there_on_opening_with_its_gap(
    browser: Browser, server: StreamingService
) -> None:
    page = await open_page(browser, server.url, path="/?range=60")
    path = page.locator("#chart-tokens path.line")
    await expect(path).to_have_attribute("d", re.compile("^M[^M]*M"))
    await expect(page.locator("#chart-tokens rect.gap").first).to_be_visible()
    await expect(page.locator("#range-60")).to_have_attribute("aria-pressed", "true")


async def test_one_line_follows_the_pointer_across_all_charts(
    browser: Browser, server: StreamingService
) -> None:
    page = await open_served(browser, server.url, path="/?range=60")
    left, right, middle = await plot_box(page)
    await page.mouse.move((left + right) / 2, middle)
    shown = page.locator("svg.plot line.pointer:not([style*=none])")  # a line has no box
    await expect(shown).to_have_count(6)
    await expect(page.locator("#window")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d"))


async def test_dragging_zooms_all_charts_and_the_address_says_so(
    browser: Browser, server: StreamingService
) -> None:
    page = await open_served(browser, server.url, path="/?range=60")
    left, right, middle = await plot_box(page)
    await page.mouse.move(left + (right - left) * 0.4, middle)
    await page.mouse.down()
    await page.mouse.move(left + (right - left) * 0.6, middle, steps=4)
    await page.mouse.up()
    await expect(page.locator("#live")).to_be_visible()
    await expect(page).to_have_url(re.compile(r"from=\d+&to=\d+"))
    shared = page.url
    await page.mouse.move(5, 5)
    range_text = await page.locator("#window").inner_text()
    other = await browser.new_page()
    await other.goto(shared)
    await expect(other.locator("#window")).to_have_text(range_text)
    await page.keyboard.press("Escape")
    await expect(page.locator("#live")).to_be_hidden()


async def test_space_pauses_and_goes_on(browser: Browser, server: StreamingService) -> None:
    page = await open_served(browser, server.url)
    await page.keyboard.press("Space")
    await expect(page.locator("#window")).to_contain_text("Paused at")
    path = page.locator("#chart-connections path.line").last
    before = await path.get_attribute("d")
    await page.wait_for_timeout(1_500)
    assert await path.get_attribute("d") == before
    await expect(page.locator("#data-age")).to_have_text(re.compile("^live|ago"))
    await page.keyboard.press("Space")
    await expect(page.locator("#window")).to_have_text("")


async def test_a_chart_is_read_with_the_keyboard(
    browser: Browser, server: StreamingService
) -> None:
    page = await open_served(browser, server.url, path="/?range=60")
    chart = page.locator("#chart-tokens")
    await chart.focus()
    await page.keyboard.press("Home")
    for _ in range(40):
        await page.keyboard.press("ArrowRight")
    await expect(chart).to_have_attribute("aria-label", re.compile(r"tokens/s [\d.]+"))
    await expect(page.locator("#window")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d"))


async def test_the_wall_has_no_chat_never_pauses_and_fits_its_screen(
    browser: Browser, server: StreamingService
) -> None:
    for width, height in ((1280, 720), (1920, 1080), (3840, 2160)):
        page = await browser.new_page(viewport={"width": width, "height": height})
        await page.goto(f"{server.url}/?view=wall")
        await expect(page.locator("#verdict-text")).to_have_text("All well")
        await expect(page.locator("#chat-toggle")).to_be_hidden()
        await page.keyboard.press("Space")
        await expect(page.locator("#window")).to_have_text("")
        assert await page.evaluate(
            "document.documentElement.scrollHeight <= innerHeight"
            " && document.documentElement.scrollWidth <= innerWidth"
        )
        size = await page.locator("#verdict-text").evaluate(
            "node => Number.parseFloat(getComputedStyle(node).fontSize)"
        )
        assert size >= width / 32


async def test_the_tab_says_how_it_is(browser: Browser, server: StreamingService) -> None:
    page = await open_served(browser, server.url)
    icon = page.locator("#icon")
    await expect(icon).to_have_attribute("href", re.compile("2f9e63"))
    alert = {
        "status": "firing",
        "labels": {"alertname": "Broken", "severity": "warning"},
        "annotations": {},
        "startsAt": "2026-01-31T12:00:00Z",
    }
    async with aiohttp.ClientSession() as session:
        for status, title, colour in (
            ("firing", "(1!) streaming-api", "d08a00"),
            ("resolved", "streaming-api", "2f9e63"),
        ):
            range_text = alert | {"status": status, "endsAt": "2026-01-31T13:00:00Z"}
            body = {"version": "4", "alerts": [range_text]}
            async with session.post(f"{server.url}/streaming/alerts", json=body) as reply:
                assert reply.ok
            await expect(page).to_have_title(title)
            await expect(icon).to_have_attribute("href", re.compile(colour))


async def test_resolved_alerts_and_the_diary_are_there_for_who_comes_later(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server()
    now = datetime.now(UTC).isoformat()
    alert = {
        "status": "firing",
        "labels": {"alertname": "Passed", "severity": "warning"},
        "annotations": {"summary": "It went by.", "runbook_url": "http://runbooks/passed"},
        "startsAt": now,
        "endsAt": now,
    }
    async with aiohttp.ClientSession() as session:
        for status in ("firing", "resolved"):
            body = {"version": "4", "alerts": [alert | {"status": status}]}
            async with session.post(f"{server.url}/streaming/alerts", json=body) as reply:
                assert reply.ok
    page = await open_served(browser, server.url)
    await expect(page.locator("#alerts-resolved summary")).to_contain_text("1 alert resolved")
    await page.locator("#alerts-resolved summary").click()
    link = page.locator("#alerts-resolved").get_by_role("link", name="Runbook")
    await expect(link).to_have_attribute("href", "http://runbooks/passed")
    events = page.locator("#events")
    await expect(events).to_contain_text("Passed fires")
    await expect(events).to_contain_text("Passed is resolved")
    await expect(page.locator("#verdict-text")).to_have_text("All well")


async def test_a_page_that_was_asleep_draws_the_gap(
    browser: Browser, start_server: StartServer
) -> None:
    """A server that is held up for some seconds has not sampled: no line goes across."""
    server = await start_server()
    page = await open_served(browser, server.url)
    history = server.context.topics.history
    async with asyncio.timeout(PATIENCE):
        while len(history._in_order(history._times)) < 3:
            await asyncio.sleep(0.1)
    history._sampled -= 5
    history._times[(history._rows - 1) % len(history._times)] -= 5
    path = page.locator("#chart-connections path.line").last
    await expect(path).to_have_attribute("d", re.compile("^M.*M"))
