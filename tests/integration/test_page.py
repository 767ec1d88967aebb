"""The live page in a real Chromium, against the real application and a fake upstream."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import pytest
from playwright.async_api import Browser, expect

from tests.browser import (
    Cable,
    ask,
    browser,
    enter_key,
    needs_chromium,
    open_chat,
    open_page,
    open_served,
    readout,
)
from tests.clients import key, webhook
from tests.fakes.upstream import Script

if TYPE_CHECKING:
    from tests.conftest import StartServer
    from tests.fakes.upstream import FakeUpstream

__all__ = ["browser"]

pytestmark = needs_chromium


@pytest.fixture
async def url(start_server: StartServer, upstream: FakeUpstream) -> str:
    """The application, with the fake upstream behind it."""
    server = await start_server(
        api_gateway_endpoint=upstream.url, custom_metrics_endpoint=upstream.url, poll_interval=0.2
    )
    return server.url


def messages_of(upstream: FakeUpstream) -> object:
    """The messages of the last request that reached the model server."""
    return upstream.generations[-1].request.json()["messages"]


async def test_figures_change_and_nothing_breaks_the_content_security_policy(
    browser: Browser, url: str
) -> None:
    """Figures follow the server, and the console has nothing to complain about."""
    complaints: list[str] = []
    page = await browser.new_page()
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(url)
    await expect(page.locator("#verdict-text")).to_have_text("All well")
    await expect(page.locator("#data-age")).to_have_text("live")
    open_now = readout(page, "connections", "WebSocket")
    await expect(open_now).to_have_text("1")
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/streaming/websocket"):
        await expect(open_now).to_have_text("2")
    await expect(open_now).to_have_text("1")
    await page.get_by_role("link", name="Chat").click()
    await ask(page, "hello", "ten-tokens")
    await expect(page.locator(".ending")).to_contain_text("10 tokens")
    await page.get_by_role("link", name="Series").click()
    row = page.locator("#series tr", has_text="fake_tokens_total")
    await expect(row.locator("td.value")).to_have_text(re.compile(r"^10|/s$"))
    await row.get_by_role("button").click()
    await page.locator("#series-search").fill("nothing is called this")
    await expect(page.locator("#series")).to_contain_text("No series matches this search.")
    await page.get_by_role("link", name="Overview").click()
    await expect(page.locator("#charts")).to_contain_text("fake_tokens_total")
    assert "fake_tokens_total" in page.url
    await expect(page.locator("#parts .part").first).to_be_visible()
    assert complaints == []


async def test_an_answer_appears_as_it_is_written_and_the_next_question_knows_it(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    """Tokens are shown one by one, and the conversation goes along with the second question."""
    gate = upstream.gated(model="gated")
    page = await open_chat(browser, url)
    await ask(page, "first <b>question</b>", "gated")
    answer = page.locator(".answered .text")
    gate.release(3)
    await expect(answer).to_have_text("t0 t1 t2 ")
    await expect(page.locator("#chat-stop")).to_be_visible()
    gate.open()
    await expect(answer).to_have_text(Script().text())
    await expect(page.locator(".ending")).to_contain_text("10 tokens")
    await ask(page, "second", "ten-tokens")
    await expect(page.locator(".ending")).to_have_count(2)
    await expect(page.locator(".ending").last).to_contain_text("10 tokens")
    assert messages_of(upstream) == [
        {"role": "user", "content": "first <b>question</b>"},
        {"role": "assistant", "content": Script().text()},
        {"role": "user", "content": "second"},
    ]


async def test_shift_enter_starts_a_new_line_and_enter_sends(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    """The composer sends what was typed, lines and all."""
    page = await open_chat(browser, url)
    await page.locator("#model").select_option("ten-tokens")
    box = page.locator("#question")
    await box.fill("")
    await box.press_sequentially("one")
    await box.press("Shift+Enter")
    await box.press_sequentially("two")
    assert upstream.started == 0
    await box.press("Enter")
    await expect(page.locator(".asked .text")).to_have_text("one\ntwo")
    await expect(page.locator(".ending")).to_contain_text("10 tokens")
    assert messages_of(upstream) == [{"role": "user", "content": "one\ntwo"}]


async def test_stop_ends_the_answer_here_and_at_the_model_server(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    """An answer that would never end is stopped, says so, and leaves nothing running."""
    page = await open_chat(browser, url)
    await ask(page, "go on for ever", "endless")
    await expect(page.locator(".answered .text")).to_contain_text("t3 ")
    await page.locator("#chat-stop").click()
    await expect(page.locator(".ending")).to_contain_text("You stopped this answer.")
    await upstream.until(lambda: upstream.running == 0)
    await expect(page.locator("#chat-send")).to_be_visible()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("stops-without-end", "incomplete"),
        ("cut-rst", "incomplete"),
        ("error-500", "The answer failed: The model crashed."),
        ("tool-calls", "The model asked for a tool"),
    ],
)
async def test_an_answer_that_ends_badly_says_how(
    browser: Browser, url: str, model: str, sentence: str
) -> None:
    """No ending looks like a good one that is not."""
    page = await open_chat(browser, url)
    await ask(page, "hello", model)
    await expect(page.locator(".ending strong")).to_contain_text(sentence)


async def test_a_lost_connection_is_shown_and_the_answer_goes_on_without_loss(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    """Cut in mid-answer: a banner, old data marked as old, then all of the text, once."""
    gate = upstream.gated(Script(tokens=60), model="gated")
    async with Cable(url) as cable:
        page = await open_chat(browser, cable.url)
        await ask(page, "hello", "gated")
        gate.release(20)
        answer = page.locator(".answered .text")
        await expect(answer).to_contain_text("t19 ")
        cable.pull_out()
        await expect(page.locator("#verdict-text")).to_contain_text("No news for")
        await expect(page.locator("#banner")).to_contain_text(re.compile("(lost|reached).*Trying"))
        gate.release(20)
        await expect(page.locator("#data-age")).to_contain_text("old")
        await cable.plug_in()
        await expect(page.locator("#verdict-text")).not_to_contain_text("No news")
        await expect(page.locator("#banner")).to_be_hidden()
        await expect(page.locator("#data-age")).to_have_text("live")
        gate.open()
        await expect(page.locator(".ending")).to_contain_text("60 tokens")
        assert await answer.text_content() == Script(tokens=60).text()
    assert upstream.started == 1


async def test_an_answer_goes_on_after_the_page_is_reloaded(
    browser: Browser, url: str, upstream: FakeUpstream
) -> None:
    """A reload loses neither the conversation nor the answer under way."""
    gate = upstream.gated(model="gated")
    page = await open_chat(browser, url)
    await ask(page, "hello", "gated")
    gate.release(4)
    await expect(page.locator(".answered .text")).to_contain_text("t3 ")
    await page.reload()
    gate.open()
    await expect(page.locator(".ending")).to_contain_text("10 tokens")
    assert await page.locator(".answered .text").text_content() == Script().text()
    assert upstream.started == 1


async def test_markup_in_an_alert_is_text(browser: Browser, url: str) -> None:
    """What an alert says is shown letter by letter, and its link only leads to http."""
    markup = "<img src=x onerror=\"document.title='taken'\">"
    body = webhook(markup) | {"externalURL": "http://127.0.0.1:9093"}
    body["alerts"][0] |= {
        "labels": {"alertname": markup, "severity": "critical", "team": "<b>x</b>"},
        "annotations": {"summary": "<script>document.title='taken'</script>"},
        "generatorURL": "javascript:document.title='taken'",
    }
    page = await open_served(browser, url)
    title = await page.title()
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/streaming/alerts", json=body) as response,
    ):
        assert response.ok
    shown = page.locator("#alerts .alert")
    await expect(shown).to_contain_text(markup)
    await expect(shown).to_contain_text("<script>document.title='taken'</script>")
    await expect(shown).to_contain_text("team=<b>x</b>")
    await expect(page.locator("#alerts-counts")).to_have_text("1 critical")
    assert await shown.locator("img, script, b").count() == 0
    links = await shown.locator("a").evaluate_all("all => all.map(({href}) => href)")
    assert [urlsplit(link).netloc for link in links] == ["127.0.0.1:9093"]
    assert await page.title() == f"(1!) {title}"


@pytest.mark.parametrize(
    ("address", "links"), [("javascript:alert(1)", 0), ("http://prometheus:9090/graph", 1)]
)
async def test_an_alert_links_to_http_only(
    browser: Browser, url: str, address: str, links: int
) -> None:
    """The page trusts no address, whatever the server let through."""
    page = await open_served(browser, url)
    await expect(page.locator("#alerts-empty")).to_have_text("Nothing is firing.")
    alert = {
        "fingerprint": "f",
        "state": "firing",
        "source": "webhook",
        "labels": {"alertname": "Linked"},
        "annotations": {},
        "starts_at": "2026-01-31T12:00:00Z",
        "ends_at": None,
        "generator_url": address,
    }
    await page.evaluate(
        "async alert => (await import(document.querySelector('[href$=\"/state.js\"]').href)).fold("
        "{message_type: 'alert', timestamp: alert.starts_at, data: {event: 'firing', alert}})",
        alert,
    )
    await expect(page.locator("#alerts .alert")).to_contain_text("Linked")
    assert await page.locator("#alerts .alert a").count() == links


async def test_the_page_asks_for_a_key_and_uses_it(
    browser: Browser, start_server: StartServer, upstream: FakeUpstream
) -> None:
    """A wrong key is refused in words; the right one opens everything, the chat included."""
    keys = [key("sk-live-page-test", "chat", "watch", "admin")]
    server = await start_server(api_gateway_endpoint=upstream.url, api_keys=keys)
    page = await open_page(browser, server.url)
    await enter_key(page, "wrong")
    await expect(page.locator("#key-problem")).to_contain_text("key")
    await enter_key(page, "sk-live-page-test")
    await expect(page.locator("#verdict-text")).to_have_text("All well")
    await expect(page.locator("#key-panel")).to_be_hidden()
    await page.get_by_role("link", name="Chat").click()
    await ask(page, "hello", "ten-tokens")
    await expect(page.locator(".ending")).to_contain_text("10 tokens")


async def test_an_open_server_is_said_to_be_open(browser: Browser, url: str) -> None:
    """Without keys the page says who may use it."""
    page = await open_served(browser, url)
    await expect(page.locator("#access-note")).to_contain_text("anyone who reaches this port")


async def test_the_page_fits_a_small_telephone(browser: Browser, url: str) -> None:
    """Nothing is wider than 320 pixels, in any view."""
    for path in ("/", "/#chat", "/#series", "/?view=wall"):
        page = await open_served(browser, url, width=320, path=path)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320, path
