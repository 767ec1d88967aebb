"""The pictures of the live page in the documents: taken in Chromium, of a server under load.

``python -m tests.pictures`` takes six minutes: the charts show the last five. The load is 14
clients that keep asking a fake model server; two alerts come as Alertmanager would send them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp
import uvloop
from playwright.async_api import Browser, async_playwright, expect

from streaming_api.config import StreamingConfig
from streaming_api.service import StreamingService
from tests.browser import ARGUMENTS, CHROMIUM, ask
from tests.fakes.upstream import FakeUpstream, Script

DOCS: Final = Path(__file__).parents[1] / "docs"
CLIENTS: Final = 14
REPLY: Final = """\
### Streaming with Python

Use the **OpenAI SDK** and change only `base_url`:

```python
from openai import OpenAI

client = OpenAI(base_url="http://localhost:9096/v1")
for chunk in client.chat.completions.create(model="m", messages=[...], stream=True):
    print(chunk.choices[0].delta.content, end="")
```

| Wire | Goes on after a cut | Path |
|:--|:-:|:--|
| WebSocket | yes | `/streaming/websocket` |
| Event stream | yes | `/streaming/sse/chat` |

1. Start the *server*
2. Open the page
   - then the chat
   - and ask
"""
HOT: Final = {
    "labels": {"alertname": "GpuHot", "severity": "warning", "instance": "gpu-2"},
    "annotations": {
        "summary": "gpu-2 has been above 90 °C for ten minutes.",
        "runbook_url": "http://runbooks.example/gpu-hot",
    },
}
RESTARTED: Final = {
    "labels": {"alertname": "PodRestarting", "severity": "info", "pod": "llm-7f9c"},
    "annotations": {"summary": "llm-7f9c restarted twice."},
}
PICTURES: Final = (
    ("page", "/", 1440, 900, "light"),
    ("page/dark", "/", 1920, 1080, "dark"),
    ("page/phone", "/", 390, 844, "light"),
    ("page/series", "/#series", 1280, 800, "light"),
    ("page/wall", "/?view=wall", 1920, 1080, "dark"),
    ("page/wall-4k", "/?view=wall", 3840, 2160, "light"),
    ("page/chat", "/#chat", 1280, 800, "light"),
    ("page/chat-phone", "/#chat", 390, 844, "dark"),
)
"""Name, path, width, height, theme."""


def scripts(dice: random.Random) -> dict[str, Script]:
    """What the models say: some are slow, one fails, one writes the reply of the chat's picture."""
    models = {f"model-{n}": Script(tokens=60 + 30 * n, rate=25.0 + 8 * n) for n in range(6)}
    failing = Script(tokens=30, rate=30, cut_after=dice.randint(5, 25))
    reply = Script(tokens=tuple(re.findall(r"\S+\s*|\s+", REPLY)), reasoning=20, rate=200)
    return {"assistant": reply, **models, "failing": failing}


async def keep_asking(url: str, number: int) -> None:
    """Ask one model after another, with time to read; every other client over WebSocket."""
    dice = random.Random(number)
    async with aiohttp.ClientSession() as session:
        while True:
            model = "failing" if dice.random() < 0.04 else f"model-{dice.randrange(6)}"
            question = {"model": model, "messages": [{"role": "user", "content": "Go on."}]}
            if number % 2:
                async with session.post(f"{url}/streaming/sse/chat", json=question) as reply:
                    await reply.read()
            else:
                async with session.ws_connect(f"{url}/streaming/websocket") as socket:
                    command = {"message_type": "chat_completion", "action": "start"}
                    await socket.send_json(command | question)
                    async for message in socket:
                        if "chat.completion.end" in message.data:
                            break
            await asyncio.sleep(dice.random() * 1.5)


async def fire(url: str, *alerts: dict[str, dict[str, str]]) -> None:
    """Send alerts that fire from now on."""
    firing = {"status": "firing", "startsAt": datetime.now(UTC).isoformat()}
    manager = "http://alertmanager.example"
    body = {"version": "4", "externalURL": manager, "alerts": [each | firing for each in alerts]}
    async with aiohttp.ClientSession() as session:
        (await session.post(f"{url}/streaming/alerts", json=body)).raise_for_status()


async def take(browser: Browser, url: str) -> None:
    """Take all pictures."""
    for name, path, width, height, theme in PICTURES:
        context = await browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if theme == "dark" else "light",
        )
        page = await context.new_page()
        await page.goto(url + path)
        await expect(page.locator("#data-age")).to_have_text("live")
        if "chat" in path:
            await ask(page, "How do I stream an answer with Python?", "assistant")
            await expect(page.locator(".ending")).to_contain_text("tokens/s")
        if "series" in path:
            await expect(page.locator("#series tr").nth(12)).to_be_visible()
            await page.locator("#series-search").blur()
            await asyncio.sleep(30)  # until the small lines have a shape
        await page.screenshot(path=DOCS / f"{name}.png")
        await context.close()


async def main(seconds: float) -> None:
    """Let it run for so long, and take the pictures."""
    dice = random.Random(7)
    async with FakeUpstream() as upstream, asyncio.TaskGroup() as group:
        upstream.keeps_records = False
        upstream.scripts = scripts(dice)
        config = StreamingConfig(
            host="127.0.0.1",
            port=0,
            embedded_model="none",
            api_gateway_endpoint=upstream.url,
            custom_metrics_endpoint=upstream.url,
        )
        async with StreamingService(config) as service, async_playwright() as playwright:
            load = [
                group.create_task(keep_asking(service.url, number)) for number in range(CLIENTS)
            ]
            await asyncio.sleep(seconds * 0.4)
            await fire(service.url, HOT, RESTARTED)
            await asyncio.sleep(seconds * 0.6)
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            await take(browser, service.url)
            await browser.close()
            for each in load:
                each.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=330.0, help="how long it runs before")
    uvloop.run(main(parser.parse_args().seconds))
