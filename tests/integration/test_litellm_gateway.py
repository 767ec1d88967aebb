"""A LiteLLM proxy as the gateway, this server in front, the fake upstream behind, on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest

from tests.clients import UNIT, http
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream
from tests.responses import valid_response

PROXY: Final = Path(__file__).parents[2] / ".clients/litellm/bin/litellm"
START_SECONDS: Final = 90.0
KEY: Final = "sk-of-the-proxy"
TEN: Final = "".join(f"t{number} " for number in range(10))
MODELS: Final = ("fake", "tool-calls", "rate-limited", "error-midway", "endless")

pytestmark = pytest.mark.skipif(not PROXY.exists(), reason="needs: tests/other_clients/install")


def configuration(upstream: str) -> str:
    """What the proxy relays; it tries nothing again, so that each request is seen once."""
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": f"{upstream}/v1",
                "api_key": "none",
                "max_retries": 0,
            },
        }
        for name in MODELS
    ]
    return json.dumps(
        {
            "model_list": models,
            "router_settings": {"num_retries": 0, "disable_cooldowns": True},
            "general_settings": {"disable_spend_logs": True},
        }
    )


@asynccontextmanager
async def litellm_proxy(upstream: str, folder: Path) -> AsyncIterator[str]:
    """A proxy that fetches nothing from anywhere; its address."""
    config = folder / "config.yaml"
    config.write_text(configuration(upstream))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    process = await asyncio.create_subprocess_exec(
        str(PROXY), *where, "--num_workers", "1", "--telemetry", "False",
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LITELLM_MASTER_KEY": KEY,
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "DISABLE_ADMIN_UI": "True",
            "NO_DOCS": "True",
            "HTTPS_PROXY": "http://127.0.0.1:9",
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        async with http(url) as caller, asyncio.timeout(START_SECONDS):
            while not await is_alive(caller):
                assert process.returncode is None, "the proxy did not start"
                await asyncio.sleep(0.1)
        yield url
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def is_alive(caller: httpx.AsyncClient) -> bool:
    try:
        return (await caller.get("/health/liveliness")).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_litellm_proxy_serves_as_gateway(
    start_server: StartServer, upstream: FakeUpstream, tmp_path: Path
) -> None:
    async with litellm_proxy(upstream.url, tmp_path) as proxy:
        server = await start_server(api_gateway_endpoint=proxy, gateway_api_key=KEY)
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=2 * UNIT
        ) as client:
            await models_are_listed(client)
            await chats_are_whole_and_streamed(client)
            await calls_come_through(client)
            await responses_are_valid(client)
            await errors_keep_their_status(client)
            await an_error_midway_is_told(client)
            await embeddings_are_passed_on(client)
            await who_leaves_is_gone_behind_the_proxy_too(client, upstream)


async def models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert {model.id async for model in client.models.list()} == set(MODELS)


async def chats_are_whole_and_streamed(client: openai.AsyncOpenAI) -> None:
    asked: Any = [{"role": "user", "content": "Hello"}]
    raw = await client.chat.completions.with_raw_response.create(model="fake", messages=asked)
    assert raw.parse().choices[0].message.content == TEN
    assert "x-litellm-version" in raw.headers
    stream = await client.chat.completions.create(
        model="fake", messages=asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == TEN
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 10


async def calls_come_through(client: openai.AsyncOpenAI) -> None:
    function = {"name": "add", "parameters": {"type": "object", "properties": {}}}
    tools: Any = [{"type": "function", "function": function}]
    asked: Any = [{"role": "user", "content": "?"}]
    async with client.chat.completions.stream(
        model="tool-calls", messages=asked, tools=tools
    ) as stream:
        completion = await stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert [(call.function.name, call.function.arguments) for call in calls] == [("add", '{"a":1}')]


async def responses_are_valid(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="fake", input="Hello")
    valid_response(response.model_dump(exclude_unset=True))
    assert (response.output_text, response.status) == (TEN, "completed")


async def errors_keep_their_status(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as refused:
        await client.responses.create(model="rate-limited", input="Hello")
    assert "Slow down." in refused.value.message
    with pytest.raises(openai.BadRequestError) as unknown:
        await client.responses.create(model="nobody-knows", input="Hello")
    assert "nobody-knows" in unknown.value.message


async def an_error_midway_is_told(client: openai.AsyncOpenAI) -> None:
    events = [
        event
        async for event in await client.responses.create(
            model="error-midway", input="Hello", stream=True
        )
    ]
    assert events[-1].type == "response.failed"
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == "t0 t1 t2 "


async def embeddings_are_passed_on(client: openai.AsyncOpenAI) -> None:
    reply = await client.embeddings.create(model="fake", input="x", encoding_format="float")
    assert reply.data[0].embedding == [0.25, 0.5]


async def who_leaves_is_gone_behind_the_proxy_too(
    client: openai.AsyncOpenAI, upstream: FakeUpstream
) -> None:
    before = len(upstream.generations)
    asked: Any = [{"role": "user", "content": "Hello"}]
    stream = await client.chat.completions.create(model="endless", messages=asked, stream=True)
    await anext(aiter(stream))
    await stream.close()
    await (await upstream.generation(before)).wait_closed()
