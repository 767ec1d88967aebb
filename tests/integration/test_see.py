"""What an operator sees of answers: the log, traces, figures by model, usage and limits by key."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from streaming_api.config import StreamingConfig
from streaming_api.service import StreamingService
from tests.clients import UNIT, bearer, eventually, http, key, question, websocket
from tests.conftest import StartServer
from tests.fakes.collector import Collector, attributes_of
from tests.fakes.upstream import FakeUpstream, Script
from tests.workers import serving

AUDIT = "streaming_api.audit"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


async def ask(
    url: str, model: str = "fake", *, headers: dict[str, str] | None = None
) -> httpx.Response:
    async with http(url, timeout=4 * UNIT) as client:
        return await client.post("/v1/chat/completions", json=question(model), headers=headers)


class TestTheLog:
    async def test_an_answer_has_one_line_that_says_why(
        self, start_server: StartServer, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        server = await start_server(
            api_gateway_endpoint=upstream.url, api_keys=[key("page", "chat")]
        )
        headers = bearer("page") | TRACEPARENT
        async with http(server.url) as client:
            body = question("rate-limited", request_id="r-1")
            await client.post("/v1/chat/completions", json=body, headers=headers)
        (line,) = [record for record in caplog.records if "answer r-1" in record.getMessage()]
        text = line.getMessage()
        for part in ("of page", "rate-limited", "error (", "status 429", "openai", TRACE):
            assert part in text, text
        assert line.levelno == logging.WARNING
        attributes = line.__dict__["attributes"]
        assert attributes["streaming.key"] == "page"
        assert attributes["http.response.status_code"] == 429
        assert attributes["gen_ai.request.model"] == "rate-limited"
        assert "Hello" not in text + json.dumps(attributes)

    async def test_a_key_that_the_gateway_refuses_is_named_in_log_and_status(
        self, start_server: StartServer, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        upstream.api_key = "right"
        server = await start_server(api_gateway_endpoint=upstream.url, gateway_api_key="wrong")
        async with http(server.url) as client:

            async def reason() -> str:
                status = (await client.get("/streaming/status")).json()
                return str(status["components"]["gateway"]["reason"])

            async with asyncio.timeout(4 * UNIT):
                while "no models: 401 to monitoring.api_gateway_key" not in await reason():
                    await asyncio.sleep(UNIT / 20)
                assert (await ask(server.url)).status_code == 401
                while "is monitoring.api_gateway_key right?" not in await reason():
                    await asyncio.sleep(UNIT / 20)
        [line] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("answer ")]
        assert "status 401" in line
        assert line.endswith(
            ": the upstream refuses the key (monitoring.api_gateway_key, or the client's own)"
        )

    async def test_an_error_of_the_gateway_is_said_in_words_that_are_ours(
        self, start_server: StartServer, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        body = b'{"error": {"message": "I cannot parse Hello"}}'
        upstream.default = Script(status=500, body=body, content_type="application/json")
        server = await start_server(api_gateway_endpoint=upstream.url)
        assert (await ask(server.url)).status_code == 500
        [line] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("answer ")]
        assert line.endswith(": the upstream failed; its own log says why")
        assert "Hello" not in line

    async def test_a_gateway_that_cannot_be_reached_is_said_in_words(
        self, start_server: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = await start_server(api_gateway_endpoint="http://127.0.0.1:9")
        assert (await ask(server.url)).status_code == 502
        [line] = [r.getMessage() for r in caplog.records if r.getMessage().startswith("answer ")]
        assert line.endswith(": Cannot reach the upstream at 127.0.0.1:9: Connection refused")

    async def test_json_lines_carry_the_fields_and_the_trace(self, upstream: FakeUpstream) -> None:
        async with serving(
            API_GATEWAY_ENDPOINT=upstream.url, STREAMING_LOG_FORMAT="auto",
            STREAMING_LOG_LEVEL="DEBUG",
        ) as service:  # fmt: skip
            assert (await ask(service.url, headers=TRACEPARENT)).is_success
            await service.logged(r'"body":"answer \S+ of no key by fake ended')
            lines = [json.loads(line) for line in service.log if line.startswith("{")]
        (end,) = [line for line in lines if " ended: stop" in line["body"]]
        assert (end["severity_text"], end["severity_number"]) == ("INFO", 9)
        assert end["trace_id"] == TRACE
        assert end["resource"]["service.name"] == "streaming-api"
        assert end["attributes"]["gen_ai.response.finish_reasons"] == ["stop"]
        assert end["attributes"]["streaming.usage_source"] in {"reported", "estimated"}
        said = [line["body"] for line in lines if line["severity_text"] == "DEBUG"]
        assert any("asks the upstream" in text for text in said)
        assert any("has its first chunk" in text for text in said)

    async def test_the_log_is_text_where_it_is_asked_for(self) -> None:
        async with serving(STREAMING_LOG_FORMAT="text") as service:
            await service.logged("WARNING streaming_api.serve: No API keys")


class TestTraces:
    @pytest.fixture
    async def collector(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
        async with Collector() as collector:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
            monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
            yield collector

    async def test_an_answer_is_a_span_and_its_call_another(
        self, collector: Collector, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url)
        assert (await ask(server.url, headers=TRACEPARENT | {"tracestate": "a=b"})).is_success
        await eventually(lambda: len(collector.spans) == 2, 4 * UNIT)
        answer, call = collector.spans
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
        assert answer.parent_span_id.hex() == PARENT
        assert call.parent_span_id == answer.span_id
        sent = upstream.generations[0].request.headers
        assert sent["traceparent"] == f"00-{TRACE}-{call.span_id.hex()}-01"
        assert sent["tracestate"] == "a=b"
        assert (answer.name, answer.kind, call.kind) == ("chat fake", 2, 3)
        assert answer.start_time_unix_nano <= call.start_time_unix_nano
        assert call.start_time_unix_nano < answer.events[0].time_unix_nano
        assert answer.events[0].time_unix_nano <= answer.end_time_unix_nano
        assert answer.events[0].name == "first_token"
        attributes = attributes_of(answer.attributes)
        assert attributes["gen_ai.operation.name"] == "chat"
        assert attributes["gen_ai.request.model"] == "fake"
        assert attributes["gen_ai.response.finish_reasons"] == ["stop"]
        assert collector.resources[0]["service.name"] == "streaming-api"
        assert b"Hello" not in collector.raw

    async def test_a_failed_answer_is_a_failed_span_and_a_silence_is_an_event(
        self, collector: Collector, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=2, rate=0.7)
        server = await start_server(api_gateway_endpoint=upstream.url)
        await ask(server.url, "rate-limited")
        await eventually(lambda: len(collector.spans) == 2, 4 * UNIT)
        assert [span.status.code for span in collector.spans] == [2, 2]
        assert len(collector.spans[0].trace_id.hex()) == 32
        assert not collector.spans[0].parent_span_id
        await self.streamed(server)
        await eventually(lambda: len(collector.spans) == 4, 4 * UNIT)
        assert [event.name for event in collector.spans[2].events] == ["first_token", "longest_gap"]

    async def streamed(self, server: StreamingService) -> None:
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            await socket.answer()

    async def test_a_command_names_its_trace_and_a_return_is_an_event(
        self, collector: Collector, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        """Many answers share a socket, whose handshake can name one trace alone."""
        gate = upstream.gated(model="gated")
        server = await start_server(api_gateway_endpoint=upstream.url)
        async with websocket(server.url, additional_headers=TRACEPARENT) as socket:
            other = f"00-{'1' * 32}-{'2' * 16}-01"
            await socket.start("r-1", model="gated", traceparent=other, tracestate="a=b")
            gate.release(2)
            await socket.until(lambda message: message.get("sequence_id") == 2)
            await socket.start("r-2", traceparent="nonsense")
            await socket.answer()
        async with websocket(server.url) as socket:
            await socket.resume("r-1", 2)
            gate.open()
            await socket.answer()
            await socket.start("r-3", traceparent=7)
            refused = await socket.receive()
            assert refused["data"]["error"]["param"] == "traceparent"
        await eventually(lambda: len(collector.spans) == 4, 4 * UNIT)
        one = next(s for s in collector.spans if s.trace_id.hex() == "1" * 32 and s.kind == 2)
        assert one.parent_span_id.hex() == "2" * 16
        assert [event.name for event in one.events] == ["first_token", "resume"]
        begun, came_back = (event.time_unix_nano for event in one.events)
        assert begun <= came_back <= one.end_time_unix_nano
        assert {s.trace_id.hex() for s in collector.spans} == {"1" * 32, TRACE}
        sent = [generation.request for generation in upstream.generations]
        assert not any("traceparent" in request.json() for request in sent)
        assert sent[0].headers["tracestate"] == "a=b"

    async def test_spans_that_are_left_are_sent_at_a_stop(
        self,
        collector: Collector,
        start_server: StartServer,
        upstream: FakeUpstream,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        server = await start_server(api_gateway_endpoint=upstream.url)
        assert (await ask(server.url)).is_success
        await server.stop()
        assert len(collector.spans) == 2

    async def test_no_tracing_is_imported_where_nobody_asks_for_it(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import sys, streaming_api.app; print('opentelemetry' in sys.modules)",
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert output == b"False\n"


class TestFigures:
    async def test_answers_are_counted_by_model_with_exemplars(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url)
        await eventually(lambda: server.context.telemetry.answers._models)
        (known, *_) = sorted(server.context.telemetry.answers._models)
        await ask(server.url, known, headers=TRACEPARENT)
        await ask(server.url, "a-model-of-nobody's")
        async with http(server.url) as client:
            text = (
                await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
            ).text
        lines = text.splitlines()
        never = [
            f'gen_ai_server_request_duration_seconds_count{{gen_ai_operation_name="chat",'
            f'gen_ai_response_model="{model}",outcome="{outcome}"}} 0.0'
            for model, outcome in ((known, "error"), (known, "incomplete"), ("other", "error"))
        ]
        assert set(never) <= set(lines), "an increase from 1 on is none"
        for metric in (
            "gen_ai_server_time_to_first_token_seconds",
            "gen_ai_server_request_duration_seconds",
            "gen_ai_client_token_usage",
        ):
            counts = [line for line in lines if line.startswith(f"{metric}_count")]
            assert any(f'gen_ai_response_model="{known}"' in line for line in counts), metric
            assert not any("nobody" in line for line in counts)
        assert any(f'trace_id="{TRACE}"' in line for line in lines)
        assert 'streaming_upstream_responses_total{status="2xx"} 2.0' in lines
        assert any(line.startswith("streaming_build_info{") for line in lines)
        assert "streaming_queue_wait_seconds_count 2.0" in lines


class TestKeys:
    async def test_usage_says_who_has_used_what(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        keys = [key("page", "chat", tokens_per_day=10**6), key("ops", "admin"), key("idle", "chat")]
        server = await start_server(api_gateway_endpoint=upstream.url, api_keys=keys)
        await ask(server.url, headers=bearer("page"))
        await ask(server.url, "rate-limited", headers=bearer("page"))
        async with http(server.url) as client:
            assert (await client.get("/streaming/usage", headers=bearer("page"))).status_code == 403
            report = (await client.get("/streaming/usage", headers=bearer("ops"))).json()
        rows = {row["key"]: row for row in report["keys"]}
        assert sorted(rows) == ["idle", "ops", "page"]
        page = rows["page"]
        assert (page["answers"], page["failed"], page["running"]) == (2, 1, 0)
        assert page["output_tokens"] > 0
        assert page["today"]["output_tokens"] == page["output_tokens"]
        assert page["limits"] == {"tokens_per_day": 10**6}
        assert rows["idle"]["answers"] == 0

    async def test_a_key_has_limits_of_its_own(
        self, start_server: StartServer, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        keys = [
            key("minute", "chat", tokens_per_minute=1),
            key("one", "chat", answers=1),
            key("model", "chat", models=["fake"]),
            key("over", "chat", expires="2020-01-31"),
            key("lasting", "chat", expires="2999-01-31T12:00:00Z"),
        ]
        server = await start_server(api_gateway_endpoint=upstream.url, api_keys=keys)
        first = await ask(server.url, headers=bearer("minute"))
        assert (first.status_code, first.headers["x-ratelimit-limit-tokens"]) == (200, "1")
        assert first.headers["x-ratelimit-remaining-tokens"] in {"0", "1"}
        second = await ask(server.url, headers=bearer("minute"))
        assert second.status_code == 429
        assert second.json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(second.headers["retry-after"]) <= 60
        assert second.headers["x-ratelimit-remaining-tokens"] == "0"
        assert second.headers["x-ratelimit-reset-tokens"].endswith("s")

        upstream.scripts["endless"] = Script(endless=True, rate=20)
        async with websocket(server.url, additional_headers=bearer("one")) as socket:
            await socket.start("r-1", model="endless")
            await socket.receive()
            refused = await ask(server.url, headers=bearer("one"))
            assert refused.status_code == 429
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            await socket.cancel("r-1")
            await socket.answer()
        other = await ask(server.url, "other", headers=bearer("model"))
        assert (other.status_code, other.json()["error"]["code"]) == (403, "model_not_allowed")
        assert (await ask(server.url, headers=bearer("model"))).is_success
        over = await ask(server.url, headers=bearer("over"))
        assert (over.status_code, over.json()["error"]["code"]) == (401, "expired_api_key")
        assert (await ask(server.url, headers=bearer("lasting"))).is_success
        server.context.manager.admission.log_refusals()
        assert "(its tokens_per_minute or tokens_per_day): 1 rate_limit_exceeded of minute" in (
            caplog.text
        )
        assert "1 too_many_answers of one" in caplog.text
        assert "1 model_not_allowed of model" in caplog.text

    async def test_an_upstreams_own_limit_is_no_refusal_of_ours(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url)
        assert (await ask(server.url, "rate-limited")).json()["error"]["code"] == (
            "rate_limit_exceeded"
        )
        assert not any(server.context.telemetry.refusals.values())

    async def test_connections_end_when_their_key_expires(self, start_server: StartServer) -> None:
        keys = [key("brief", "watch", expires="2999-01-31"), key("lasting", "watch")]
        server = await start_server(api_keys=keys, cleanup_interval=1)
        manager = server.context.manager
        async with (
            websocket(server.url, additional_headers=bearer("brief")) as socket,
            websocket(server.url, additional_headers=bearer("lasting")),
        ):
            manager._sweep_expired(datetime(2999, 1, 30, tzinfo=UTC))
            assert len(list(manager.present())) == 2
            manager._sweep_expired(datetime(2999, 2, 1, tzinfo=UTC))
            assert await socket.closed() == 1008
            assert [c.client.owner for c in manager.present()] == ["lasting"]

    def test_limits_that_mean_nothing_are_refused(self) -> None:
        for limits in ({"answers": -1}, {"tokens_per_day": "1"}, {"expires": "soon"}):
            with pytest.raises(ValueError, match=next(iter(limits))):
                StreamingConfig(api_keys=[key("x", "chat", **limits)])  # type: ignore[arg-type]

    async def test_what_concerns_others_is_written_down(
        self, start_server: StartServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        keys = [key("page", "watch", "chat", "alerts"), key("wall", "watch")]
        server = await start_server(api_keys=keys)
        alert = {"status": "firing", "labels": {"a": "b"}, "startsAt": "2026-01-31T12:00:00Z"}
        async with http(server.url) as client:
            await client.post("/streaming/tickets", headers=bearer("page"))
            body = {"version": "4", "alerts": [alert]}
            await client.post("/streaming/alerts", headers=bearer("page"), json=body)
            for name in ("nobody", "nobody", "wall"):
                await client.post("/v1/chat/completions", headers=bearer(name), json=question())
            await client.get("/streaming/status")
        server.context.manager.admission.log_refusals()
        said = [r.getMessage() for r in caplog.records if r.name == AUDIT]
        assert "ticket issued to page at 127.0.0.1" in said
        assert "1 alerts posted by page from 127.0.0.1" in said
        refused = "\n".join(text for text in said if text.startswith("refused"))
        for part in ("invalid_api_key", "missing_scope", "missing_api_key"):
            assert re.search(rf"\b[12] {part} from 127\.0\.0\.1", refused), refused
        assert bearer("page")["Authorization"] not in caplog.text
        assert "nobody" not in caplog.text

    @pytest.mark.parametrize("wire", ["websocket", "sse", "openai", "responses", "ui"])
    async def test_a_cancel_is_written_down_with_who_and_from_where(
        self,
        start_server: StartServer,
        upstream: FakeUpstream,
        caplog: pytest.LogCaptureFixture,
        wire: str,
    ) -> None:
        """Of an answer that runs, once, whichever device it was and whatever it speaks."""
        caplog.set_level(logging.INFO, AUDIT)
        upstream.scripts["endless"] = Script(endless=True, rate=20)
        server = await start_server(
            api_gateway_endpoint=upstream.url, api_keys=[key("page", "chat")]
        )
        async with (
            websocket(server.url, additional_headers=bearer("page")) as device,
            websocket(server.url, additional_headers=bearer("page")) as other,
            http(server.url, timeout=4 * UNIT) as client,
        ):
            client.headers = httpx.Headers(bearer("page"))
            await device.start("r-1", model="endless")
            await device.receive()
            if wire == "websocket":
                cancel = {"message_type": "chat_completion", "action": "cancel"}
                await other.send(**cancel, request_id="r-1")
            elif wire == "responses":
                body = {"model": "endless", "input": "Hello", "background": True}
                made = (await client.post("/v1/responses", json=body)).json()["id"]
                await client.post(f"/v1/responses/{made}/cancel")
                await client.post(f"/v1/responses/{made}/cancel")
            elif wire == "ui":
                said = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}
                body = {"id": "c", "model": "endless", "messages": [said]}
                async with client.stream("POST", "/api/chat", json=body):
                    await client.delete("/api/chat/c")
            else:
                path = {"sse": "/streaming/chat/r-1", "openai": "/v1/chat/completions/r-1"}[wire]
                await client.delete(path)
                await client.delete(path)
            if wire not in {"responses", "ui"}:
                await device.answer()
        [line] = [record.getMessage() for record in caplog.records if record.name == AUDIT]
        assert re.fullmatch(r"answer \S+ cancelled by page from 127\.0\.0\.1 \(\w+\)", line)
