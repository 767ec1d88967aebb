"""The live page as different people meet it: on paper, by telephone, by ear, without a key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import aiohttp
from playwright.async_api import Browser, Page, expect

from tests.browser import (
    Cable,
    ask,
    browser,
    enter_key,
    needs_chromium,
    open_chat,
    open_page,
    open_served,
)
from tests.clients import key
from tests.fakes.prometheus import free_port
from tests.fakes.upstream import Script

if TYPE_CHECKING:
    from tests.conftest import StartServer
    from tests.fakes.upstream import FakeUpstream

__all__ = ["browser"]

pytestmark = needs_chromium

ARABIC = ("النهر يجري إلى `flow()` ثم:\n\n", "1. العرض\n", "2. العمق\n")


async def post_alerts(url: str, *labels: dict[str, str]) -> None:
    """Tell the server of alerts, as an Alertmanager does."""
    common = {"status": "firing", "annotations": {}, "startsAt": "2026-01-31T12:00:00Z"}
    alerts = [common | {"labels": each} for each in labels]
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/streaming/alerts", json={"version": "4", "alerts": alerts}) as reply,
    ):
        assert reply.ok


async def style(page: Page, selector: str, name: str) -> str:
    """A property of the first such element, as the browser computed it."""
    found = await page.locator(selector).first.evaluate(
        "(node, name) => getComputedStyle(node)[name]", name
    )
    assert isinstance(found, str)
    return found


async def test_on_a_telephone_what_is_old_is_grey_too(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server()
    await post_alerts(server.url, {"alertname": "Broken", "severity": "critical"})
    async with Cable(server.url) as cable:
        page = await open_served(browser, cable.url, width=360)
        await expect(page.locator("#alerts .alert")).to_be_visible()
        assert await style(page, ".panel.alerts", "filter") == "none"
        cable.pull_out()
        await expect(page.locator("#verdict-text")).to_contain_text("No news for")
        assert await style(page, ".panel.alerts", "filter") == "grayscale(1)"


async def test_a_screen_reader_is_told_what_is_and_not_each_second_how_long(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server(api_gateway_endpoint=f"http://127.0.0.1:{free_port()}")
    page = await open_served(browser, server.url)
    said = page.locator("#verdict [role=status]")
    await expect(said).to_have_text("No answers: the gateway is down")
    await expect(page.locator("#verdict-text")).to_have_text(re.compile(r"down, for \d+ s$"))
    await server.stop()
    await expect(said).to_have_text("No news")


async def test_the_skip_link_stays_in_its_view(browser: Browser, start_server: StartServer) -> None:
    server = await start_server()
    page = await open_chat(browser, server.url)
    await expect(page.locator("#chat-log")).to_be_visible()
    await page.locator(".skip").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await expect(page.locator("#chat-log")).to_be_visible()


async def test_the_pause_button_keeps_the_focus(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server()
    page = await open_served(browser, server.url)
    await page.locator("#pause").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#live")).to_be_focused()
    await expect(page.locator("#pause")).to_be_hidden()
    await page.keyboard.press("Enter")
    await expect(page.locator("#pause")).to_be_focused()


async def test_on_paper_it_is_black_on_white_and_whole(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server()
    page = await open_served(browser, server.url)
    await page.emulate_media(media="print", color_scheme="dark")
    assert await style(page, "body", "color") == "rgb(27, 35, 45)"
    assert await style(page, "#events", "maxHeight") == "none"
    await expect(page.locator("#pause")).to_be_hidden()
    await expect(page.locator(".views")).to_be_hidden()
    await expect(page.locator("#verdict-text")).to_be_visible()


async def test_in_forced_colours_and_high_contrast_state_is_told_without_colour(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url)
    page = await open_served(browser, server.url)
    faint = await style(page, ".since", "color")
    await page.emulate_media(contrast="more")
    assert await style(page, ".since", "color") != faint
    assert await style(page, ".since", "color") == await style(page, "body", "color")
    await page.emulate_media(forced_colors="active", contrast="no-preference")
    assert await style(page, ".plot path.line.bad", "strokeDasharray") != "none"
    assert await style(page, ".views a[aria-current]", "outlineStyle") == "solid"


async def test_a_server_without_figures_draws_no_empty_charts(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server(streaming_metrics_enabled=False, streaming_chat_enabled=False)
    page = await open_page(browser, server.url)
    await expect(page.locator("#window")).to_contain_text("Metrics are turned off")
    await expect(page.locator("#charts")).to_be_hidden()
    await expect(page.locator("#pause")).to_be_hidden()
    await expect(page.locator("#chat-toggle")).to_be_hidden()
    await page.get_by_role("link", name="Chat").click()
    await expect(page.locator("#chat-state")).to_contain_text("Chat is turned off")
    await expect(page.locator("#chat-log")).to_be_hidden()


async def test_who_may_see_nothing_is_shown_no_empty_charts(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server(api_keys=[key("chatter", "chat")])
    page = await open_page(browser, server.url)
    await expect(page.locator("#verdict-text")).to_have_text("This server asks for a key")
    await expect(page.locator("#charts")).to_be_hidden()
    await enter_key(page, "chatter")
    await expect(page.locator("#verdict-detail")).to_contain_text("The chat is open.")
    await expect(page.locator("#charts")).to_be_hidden()
    await page.get_by_role("link", name="Series").click()
    await expect(page.locator("#series")).to_contain_text("series are not shown to it")


async def test_a_model_that_loaded_before_the_chat_was_opened_can_be_asked(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server()
    model = server.context.upstream.model
    assert model is not None
    model._state = "loading"
    page = await open_served(browser, server.url)
    model._state = "ready"
    await page.get_by_role("link", name="Chat").click()
    await page.locator("#question").fill("hello")
    await expect(page.locator("#chat-send")).to_be_enabled()
    await expect(page.locator("#chat-state")).to_have_text("")


async def test_a_page_that_was_opened_in_a_drain_is_well_again_after_it(
    browser: Browser, start_server: StartServer
) -> None:
    first = await start_server()
    first.context.topics.report_draining()
    first.context.manager.leaving = True
    page = await open_served(browser, first.url)
    await expect(page.locator("#verdict-text")).to_have_text("This server is stopping")
    await first.stop()
    await start_server(port=int(first.url.rpartition(":")[2]))
    await expect(page.locator("#verdict-text")).not_to_contain_text(re.compile("No news|stopping"))


async def test_a_page_knows_what_the_server_offers_after_its_restart(
    browser: Browser, start_server: StartServer
) -> None:
    first = await start_server(streaming_chat_enabled=False)
    page = await open_served(browser, first.url)
    await expect(page.locator("#chat-toggle")).to_be_hidden()
    await first.stop()
    await start_server(port=int(first.url.rpartition(":")[2]))
    await expect(page.locator("#chat-toggle")).to_be_visible()


async def test_right_to_left_answers_keep_their_numbers_and_code_its_order(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream
) -> None:
    upstream.scripts["arabic"] = Script(tokens=ARABIC)
    server = await start_server(api_gateway_endpoint=upstream.url)
    page = await open_chat(browser, server.url)
    await ask(page, "ما هو النهر؟", "arabic")
    await expect(page.locator(".prose li")).to_have_count(2)
    assert await style(page, ".prose ol", "direction") == "rtl"
    assert float((await style(page, ".prose ol", "paddingRight")).removesuffix("px")) > 10
    assert await style(page, ".prose p code", "direction") == "ltr"


async def test_the_chat_fits_its_screen_with_a_banner_and_on_a_telephone(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream
) -> None:
    server = await start_server(api_gateway_endpoint=upstream.url)
    fits = "document.documentElement.scrollHeight <= innerHeight"
    async with Cable(server.url) as cable:
        page = await open_chat(browser, cable.url)
        phone = await open_chat(browser, cable.url, width=360)
        await expect(phone.locator("#model option")).not_to_have_count(1)
        model = await phone.locator("#model").bounding_box()
        assert model is not None
        assert model["width"] > 150
        cable.pull_out()
        for each in (page, phone):
            await expect(each.locator("#banner")).to_be_visible()
            assert await each.evaluate(fits)


async def test_the_filter_is_for_many_alerts_and_counts_what_it_leaves(
    browser: Browser, start_server: StartServer
) -> None:
    server = await start_server()
    await post_alerts(server.url, {"alertname": "One"})
    page = await open_served(browser, server.url, path="/?view=wall", width=360)
    chart = await page.locator("#chart-tokens").bounding_box()
    assert chart is not None
    assert chart["width"] > 250
    page = await open_served(browser, server.url)
    await expect(page.locator("#alerts .alert")).to_contain_text("One")
    await expect(page.locator("#alerts-filter")).to_be_hidden()
    await post_alerts(server.url, *({"alertname": f"A{number}"} for number in range(6)))
    await page.locator("#alerts-filter").fill("a3")
    await expect(page.locator("#alerts .alert")).to_have_count(1)
    await page.locator("#alerts-filter").fill("nothing like it")
    await expect(page.locator("#alerts-empty")).to_have_text("No alert matches this filter.")
    await page.locator("#alerts-filter").fill("")
    await expect(page.locator("#alerts .alert")).to_have_count(7)
