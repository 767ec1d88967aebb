"""Whatever the upstream does, the client learns it: on every face, never a false `stop`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import httpx
import openai
import pytest

from streaming_api.service import StreamingService
from tests.clients import Message, content, events, http, question, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import NAMED, FakeUpstream
from tests.sdk import sdk

SILENCE = 0.4
"""Seconds of an upstream's silence after which its answer ends."""


@attrs.frozen
class Case:
    """How an answer must end.

    Attributes:
        reason: `finish_reason`.
        code: of the error; None without one.
        status: the upstream's own, where it gave one.
        tokens: how many arrive before.
    """

    reason: str
    code: str | None = None
    status: int | None = None
    tokens: int = 0


FAULTS = {
    "no-finish-reason": Case("incomplete", "upstream_incomplete", tokens=10),
    "stops-without-end": Case("incomplete", "upstream_incomplete", tokens=10),
    "cut-fin": Case("incomplete", "upstream_disconnected", tokens=3),
    "cut-rst": Case("incomplete", "upstream_disconnected", tokens=3),
    "cut-end": Case("incomplete", "upstream_incomplete", tokens=3),
    "error-midway": Case("error", "oom", tokens=3),
    "hang-before-headers": Case("error", "upstream_timeout"),
    "hang-before-first-token": Case("error", "upstream_timeout"),
    "hang-midway": Case("error", "upstream_timeout", tokens=3),
    "not-json": Case("error", "upstream_invalid_response"),
    "html-502": Case("error", "upstream_http_error", 502),
    "error-500": Case("error", "crashed", 500),
    "unauthorized": Case("error", "invalid_api_key", 401),
    "rate-limited": Case("error", "rate_limit_exceeded", 429),
    "redirect": Case("error", "upstream_redirect", 307),
    "wrong-type": Case("error", "upstream_invalid_response", 200),
}
BEFORE_ANY_TOKEN = [name for name, case in FAULTS.items() if not case.tokens]
GOOD = {
    "ten-tokens": "stop",
    "reasoning": "stop",
    "tool-calls": "tool_calls",
    "parallel-calls": "tool_calls",
    "structured": "stop",
    "refusal": "stop",
    "logprobs": "stop",
    "two-choices": "stop",
    "no-done": "stop",
    "crlf": "stop",
    "cr": "stop",
    "one-byte": "stop",
    "random-cuts": "stop",
    "multiline": "stop",
    "separators": "stop",
    "huge-line": "stop",
}


@pytest.fixture
async def server(start_server: StartServer, upstream: FakeUpstream) -> StreamingService:
    """A server that is soon tired of waiting."""
    return await start_server(api_gateway_endpoint=upstream.url, connection_timeout=SILENCE)


def test_every_script_has_its_expectation() -> None:
    others = {"slow", "endless", "flood", "tool-loop"}
    assert NAMED.keys() - others == FAULTS.keys() | GOOD.keys()


Face = Callable[[StreamingService, str], Awaitable[list[Message]]]


async def over_websocket(server: StreamingService, model: str) -> list[Message]:
    async with websocket(server.url, "/streaming/websocket/chat") as socket:
        await socket.start("r-1", model=model)
        seen = await socket.answer()
        await socket.start("r-2", model="ten-tokens")  # the connection lives on
        assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"
        return seen


async def over_sse(server: StreamingService, model: str) -> list[Message]:
    async with events(server.url, "/streaming/sse/chat", body=question(model)) as stream:
        assert stream.response.status_code == 200
        return await stream.rest()


async def test_when_to_try_again_is_passed_on(server: StreamingService) -> None:
    end = (await over_websocket(server, "rate-limited"))[-1]
    assert end["data"]["error"]["retry_after"] == 7
    async with httpx.AsyncClient(base_url=server.url) as client:
        reply = await client.post("/v1/chat/completions", json=question("rate-limited"))
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize("ask", [over_websocket, over_sse], ids=["websocket", "sse"])
@pytest.mark.parametrize("model", FAULTS)
async def test_a_fault_is_reported_in_the_end_message(
    server: StreamingService, model: str, ask: Face
) -> None:
    case = FAULTS[model]
    seen = await ask(server, model)
    end = seen[-1]["data"]
    assert end["object"] == "chat.completion.end"
    assert end["finish_reason"] == case.reason
    assert end["error"]["code"] == case.code
    assert end["error"].get("status") == case.status
    assert end["error"]["message"]
    assert content(seen) == "".join(f"t{number} " for number in range(case.tokens))
    if case.tokens:
        assert end["usage_source"] in {"estimated", "reported"}
        assert end["usage"]["completion_tokens"] >= case.tokens


@pytest.mark.parametrize("ask", [over_websocket, over_sse], ids=["websocket", "sse"])
@pytest.mark.parametrize("model", GOOD)
async def test_an_unusual_but_sound_answer_arrives_whole(
    server: StreamingService, model: str, ask: Face
) -> None:
    seen = await ask(server, model)
    assert seen[-1]["data"]["finish_reason"] == GOOD[model]
    assert "error" not in seen[-1]["data"]
    script = NAMED[model]
    texts = [
        choice["delta"].get("content") or ""
        for message in seen
        for choice in message["data"].get("choices", ())
        if choice["index"] == 0
    ]
    assert "".join(texts) == script.text()


class TestOpenAIsOwnFace:
    @pytest.mark.parametrize("model", GOOD)
    async def test_openais_wire_passes_a_sound_answer_on(
        self, server: StreamingService, model: str
    ) -> None:
        async with sdk(server, attempts=1) as client:
            parts, reason = [], None
            async for chunk in await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Hello"}], stream=True
            ):
                for choice in chunk.choices:
                    if choice.index == 0:
                        parts.append(choice.delta.content or "")
                        reason = choice.finish_reason or reason
        assert "".join(parts) == NAMED[model].text()
        assert reason == GOOD[model]

    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    @pytest.mark.parametrize("model", BEFORE_ANY_TOKEN)
    async def test_openais_wire_answers_a_fault_before_the_first_token_with_its_status(
        self, server: StreamingService, model: str, *, stream: bool
    ) -> None:
        if model == "hang-before-first-token" and not stream:
            model = "hang-before-headers"  # without a stream they are the same
        case = FAULTS[model]
        reply = await post(server, model, stream=stream)
        expected = case.status if (case.status or 0) >= 400 else 502
        assert reply.status_code == expected, reply.text
        error = reply.json()["error"]
        assert set(error) == {"type", "code", "message", "param"}
        assert error["code"] == case.code
        assert error["message"]

    @pytest.mark.parametrize(
        "model",
        [name for name, case in FAULTS.items() if case.tokens and name != "no-finish-reason"],
    )
    async def test_openais_wire_reports_a_fault_midway_in_the_stream_and_never_says_done(
        self, server: StreamingService, model: str
    ) -> None:
        case = FAULTS[model]
        reply = await post(server, model, stream=True)
        assert reply.status_code == 200
        *chunks, last = [line for line in reply.text.split("\n") if line.startswith("data: ")]
        assert "[DONE]" not in reply.text
        assert case.code is not None
        assert f'"code":"{case.code}"' in last
        assert sum('"content":"t' in chunk for chunk in chunks) == case.tokens
        assert '"finish_reason":"stop"' not in "".join(chunks)

    async def test_openais_wire_passes_the_upstreams_done_on_where_it_gave_no_reason(
        self, server: StreamingService
    ) -> None:
        """An SDK that asks such an upstream itself raises nothing."""
        reply = await post(server, "no-finish-reason", stream=True)
        assert reply.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in reply.text
        assert reply.text.count('"content":"t') == 10

    @pytest.mark.parametrize("model", ["cut-fin", "cut-rst"])
    async def test_openais_wire_answers_a_whole_answer_that_was_cut_with_an_error(
        self, server: StreamingService, model: str
    ) -> None:
        reply = await post(server, model, stream=False)
        assert reply.status_code == 502
        assert reply.json()["error"]["code"] == "upstream_disconnected"

    async def test_openais_wire_gives_the_sdk_its_own_exceptions(
        self, server: StreamingService
    ) -> None:
        async with sdk(server, attempts=1) as client:
            for model, kind, words in (
                ("unauthorized", openai.AuthenticationError, "Incorrect API key provided."),
                ("rate-limited", openai.RateLimitError, "Slow down."),
                ("error-500", openai.InternalServerError, "The model crashed."),
            ):
                for stream in (True, False):
                    with pytest.raises(kind) as raised:
                        await client.chat.completions.create(
                            model=model,
                            messages=[{"role": "user", "content": "Hello"}],
                            stream=stream,
                        )
                    assert raised.value.status_code == FAULTS[model].status
                    assert raised.value.code == FAULTS[model].code
                    assert words in raised.value.message

    async def test_openais_wire_gives_the_sdk_an_exception_midway(
        self, server: StreamingService
    ) -> None:
        async with sdk(server, attempts=1) as client:
            parts = []
            stream = await client.chat.completions.create(
                model="error-midway", messages=[{"role": "user", "content": "Hello"}], stream=True
            )
            with pytest.raises(openai.APIError, match="Out of memory"):  # noqa: PT012 (one loop)
                async for chunk in stream:
                    parts += [choice.delta.content or "" for choice in chunk.choices]
        assert "".join(parts) == "t0 t1 t2 "


async def post(server: StreamingService, model: str, *, stream: bool) -> httpx.Response:
    async with http() as client:
        return await client.post(
            f"{server.url}/v1/chat/completions", json=question(model, stream=stream)
        )


class TestAnUpstreamThatIsNotThere:
    async def test_an_upstream_that_is_not_there_is_reported_on_every_face(
        self, start_server: StartServer
    ) -> None:
        async with FakeUpstream() as gone:
            url = gone.url
        server = await start_server(api_gateway_endpoint=url)
        end = (await over_sse(server, "fake"))[-1]["data"]
        assert (end["finish_reason"], end["error"]["code"]) == ("error", "upstream_unreachable")
        for stream in (True, False):
            reply = await post(server, "fake", stream=stream)
            assert reply.status_code == 502
            assert reply.json()["error"]["code"] == "upstream_unreachable"
        async with http() as client:
            reply = await client.get(f"{server.url}/v1/models")
        assert reply.status_code == 502
        assert reply.json()["error"]["code"] == "upstream_unreachable"

    async def test_an_upstream_that_is_not_there_is_not_needed_for_anything_else(
        self, start_server: StartServer
    ) -> None:
        server = await start_server()
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            end = (await socket.answer())[-1]["data"]
            assert end["finish_reason"] == "error"
            assert end["error"]["message"]
            await socket.subscribe("status_update")
