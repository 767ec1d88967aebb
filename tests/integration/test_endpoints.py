"""Every endpoint's JSON, and every error in one shape."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from streaming_api.service import StreamingService
from tests.clients import events, eventually, http, is_end, question, valid, webhook, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import raw

WEBSOCKETS = ["/streaming/websocket", "/streaming/websocket/chat"]


async def get(client: httpx.AsyncClient, path: str) -> Any:  # noqa: ANN401 (JSON)
    """The JSON at a path."""
    reply = await client.get(path)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("application/json")
    return reply.json()


async def test_options_of_the_whole_server_are_answered(server: StreamingService) -> None:
    """``OPTIONS *`` is about no path (RFC 9110, section 9.3.7)."""
    async with raw(server.url) as tcp:
        await tcp.request("OPTIONS", "*")
        reply = await tcp.rest()
    assert reply.startswith(b"HTTP/1.1 204 ")
    assert b"\r\nAllow: DELETE, GET, HEAD, OPTIONS, POST\r\n" in reply


class TestHealth:
    async def test_health_is_exactly_this_and_needs_no_upstream(
        self, start_server: StartServer
    ) -> None:
        server = await start_server()
        before = datetime.now(UTC) - timedelta(milliseconds=1)
        async with http(server.url) as client:
            found = await get(client, "/health")
        stamp = found.pop("timestamp")
        assert list(found.items()) == [
            ("status", "healthy"), ("service", "streaming-api"), ("websocket_enabled", True),
            ("sse_enabled", True),
        ]  # fmt: skip
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
        assert before <= datetime.fromisoformat(stamp) <= datetime.now(UTC)

    async def test_health_says_what_is_switched_off(self, start_server: StartServer) -> None:
        server = await start_server(name="mine", websocket_enabled=False, sse_enabled=False)
        async with http(server.url) as client:
            found = await get(client, "/health")
        assert found["service"] == "mine"
        assert (found["websocket_enabled"], found["sse_enabled"]) == (False, False)

    async def test_health_is_503_while_draining(
        self, server: StreamingService, caller: httpx.AsyncClient
    ) -> None:
        server.connection_manager.leaving = True
        reply = await caller.get("/health")
        assert (reply.status_code, reply.json()["status"]) == (503, "draining")


class TestStatus:
    async def test_the_status_says_what_there_is_and_how_it_is(
        self, server: StreamingService, caller: httpx.AsyncClient
    ) -> None:
        await eventually(lambda: server.context.topics.states().get("gateway") == "up")
        found = await get(caller, "/streaming/status")
        assert found["service"] == "streaming-api"
        assert found["state"] == "serving"
        assert found["access"] == "open"
        assert found["model"] is None
        assert found["uptime_seconds"] >= 0
        assert set(found["capabilities"]) == {
            "chat", "metrics", "alerts", "status", "websocket", "sse", "compression",
        }  # fmt: skip
        assert all(found["capabilities"].values())
        assert found["limits"]["max_connections"] == 1000
        assert found["limits"]["sse_max_connections"] == 500
        assert found["limits"]["message_size_limit"] == 2**20
        assert found["components"]["gateway"]["state"] == "up"
        assert found["components"]["streaming-api"]["state"] == "up"
        assert set(found["components"]["gateway"]) == {"state", "since", "reason", "detail"}
        assert found["answers"] == {"running": 0, "queued": 0}

    async def test_the_status_says_that_there_is_no_model(self, start_server: StartServer) -> None:
        server = await start_server()
        async with http(server.url) as client:
            found = await get(client, "/streaming/status")
        assert found["model"]["state"] == "absent"
        assert found["model"]["reason"]

    async def test_the_status_counts_answers_that_run_and_wait(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, pool_size=2)
        gate = upstream.gated()
        async with websocket(server.url) as socket, http(server.url) as client:
            for number in range(5):
                await socket.start(f"r-{number}")
            await eventually(lambda: server.context.answers.queued == 3)
            found = await get(client, "/streaming/status")
            assert found["answers"] == {"running": 2, "queued": 3}
            gate.open()


class TestConnections:
    async def test_connections_are_counted_and_listed_without_secrets(
        self, server: StreamingService, caller: httpx.AsyncClient
    ) -> None:
        assert await get(caller, "/streaming/connections") == {
            "websocket": {"open": 0, "limit": 1000},
            "sse": {"open": 0, "limit": 500},
            "connections": [],
        }
        secret = {"Authorization": "Bearer sk-secret"}
        async with (
            websocket(server.url, additional_headers=secret) as socket,
            events(server.url, "/streaming/sse?topics=alerts,status&key=sk-secret") as stream,
        ):
            await socket.subscribe("alert")
            await socket.start("r-1", model="hang-midway")
            await socket.until(lambda message: message.get("sequence_id") == 4)
            await stream.receive()
            reply = await caller.get("/streaming/connections")
            assert "sk-secret" not in reply.text.replace("key=sk-secret", "")
            found = reply.json()
        assert (found["websocket"]["open"], found["sse"]["open"]) == (1, 1)
        rows = {row["kind"]: row for row in found["connections"]}
        assert rows["websocket"]["topics"] == ["alerts"]
        assert rows["websocket"]["answers"] == 1
        assert rows["websocket"]["path"] == "/streaming/websocket"
        assert rows["websocket"]["sent_messages"] == 6  # subscribed, snapshot, 4 of the answer
        assert rows["sse"]["topics"] == ["alerts", "status"]
        assert rows["sse"]["sent_messages"] >= 2
        assert rows["sse"]["path"] == "/streaming/sse"
        for row in rows.values():
            assert row["age_seconds"] >= row["idle_seconds"] >= 0
            assert row["lag_messages"] == 0
            assert row["sent_bytes"] > 100

    async def test_connections_that_are_gone_are_not_listed(
        self, server: StreamingService, caller: httpx.AsyncClient
    ) -> None:
        for _ in range(10):
            async with websocket(server.url), events(server.url, "/streaming/sse/status"):
                pass
        await eventually(lambda: not server.connection_manager.connections)
        found = await get(caller, "/streaming/connections")
        assert (found["websocket"]["open"], found["sse"]["open"]) == (0, 0)


class TestFigures:
    async def test_figures_without_traffic_are_null_and_never_a_hundred(
        self, caller: httpx.AsyncClient
    ) -> None:
        found = await get(caller, "/streaming/metrics")
        for name, target in (
            ("websocket_performance", 95),
            ("sse_performance", 90),
            ("connection_stability", 99),
        ):
            assert found[name]["percent"] is None
            assert found[name]["target"] == target
            assert found[name]["reason"]
        assert found["delivery_latency_seconds"]["websocket"]["p99"] is None

    async def test_figures_with_traffic_are_measured(
        self, server: StreamingService, caller: httpx.AsyncClient
    ) -> None:
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            seen = await socket.answer()
        async with events(server.url, "/streaming/sse/chat", body=question()) as stream:
            await stream.rest()
        found = await get(caller, "/streaming/metrics")
        for name in ("websocket_performance", "sse_performance", "connection_stability"):
            assert 0 <= found[name]["percent"] <= 100
            assert found[name]["reason"] is None
        assert found["delivery_latency_seconds"]["websocket"]["count"] == len(seen)
        assert found["answers"]["by_outcome"]["stop"] == 2
        assert found["messages"]["chat"] == 2 * (len(seen) - 1)
        assert found["lagging_viewers"] == 0
        assert found["process"]["open_fds"] > 0


async def alerts_shown(caller: httpx.AsyncClient) -> dict[str, Any]:
    """What who joins the topic is shown."""
    reply = (await caller.get("/streaming/snapshot?topics=alerts")).json()
    (message,) = reply["messages"]
    data: dict[str, Any] = message["data"]
    return data


class TestTheWebhook:
    async def test_the_webhook_takes_what_alertmanager_posts(
        self, server: StreamingService, caller: httpx.AsyncClient
    ) -> None:
        async with events(server.url, "/streaming/sse/alerts") as stream:
            await stream.receive()
            reply = await caller.post("/streaming/alerts", json=webhook("one", "two"))
            assert (reply.status_code, reply.json()) == (200, {"accepted": 2})
            seen = [await stream.receive() for _ in range(2)]
        assert {message["data"]["alert"]["source"] for message in seen} == {"webhook"}

    async def test_the_webhook_takes_what_there_is_of_a_storm_and_says_what_is_missing(
        self, start_server: StartServer
    ) -> None:
        """Above the limit of a command, and more than are kept; the rest is told."""
        server = await start_server(message_size_limit=2**20)
        storm = webhook(*(f"a{number}" for number in range(1_100)))
        for alert in storm["alerts"]:
            alert["annotations"]["description"] = "d" * 800
        async with http(server.url) as client:
            reply = await client.post("/streaming/alerts", json=storm | {"truncatedAlerts": 17})
            assert (reply.status_code, reply.json()) == (200, {"accepted": 1_100, "left_out": 117})
            shown = await alerts_shown(client)
            assert (len(shown["alerts"]), shown["left_out"]) == (1_000, {"webhook": 117})
            status = (await client.get("/streaming/status")).json()["components"]["webhook"]
            assert status["state"] == "up"
            assert "117 alerts are left out" in status["reason"]
            assert (await client.post("/streaming/alerts", json=webhook())).status_code == 200
            status = (await client.get("/streaming/status")).json()["components"]["webhook"]
            assert status["reason"] is None

    async def test_the_webhook_has_a_limit_of_its_own(self, start_server: StartServer) -> None:
        server = await start_server(webhook_size_limit=1_000)
        async with http(server.url) as client:
            reply = await client.post("/streaming/alerts", json=webhook("a" * 1_000))
        assert reply.status_code == 413
        assert "monitoring.webhook_size_limit" in reply.json()["error"]["message"]

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b"{}", b'{"version":"3","alerts":[]}', b'{"version":"4"}', b"\xff"]
    )
    async def test_the_webhook_refuses_what_is_no_webhook(
        self, caller: httpx.AsyncClient, body: bytes
    ) -> None:
        reply = await caller.post("/streaming/alerts", content=body)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "invalid_webhook"
        assert reply.json()["error"]["message"]


class TestTheContract:
    async def test_the_contract_can_be_read_by_machines(self, caller: httpx.AsyncClient) -> None:
        schema = await get(caller, "/streaming/schema")
        assert schema["properties"]["message_type"]["enum"] == [
            "chat_completion", "metrics_update", "alert", "status_update",
        ]  # fmt: skip
        assert (await get(caller, "/streaming/openapi.json"))["openapi"].startswith("3.")
        assert (await get(caller, "/streaming/asyncapi.json"))["asyncapi"].startswith("3.")

    async def test_the_contract_has_a_page_that_runs_nothing_but_its_own(
        self, caller: httpx.AsyncClient
    ) -> None:
        reply = await caller.get("/")
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/html")
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404),
            ("GET", "/streaming", 404),
            ("GET", "/v1", 404),
            ("GET", "/streaming/sse/nothing", 404),
            ("GET", "/streaming/sse/chat/nobody", 404),
            ("GET", "/static/nothing.js", 404),
            ("GET", "/static/../app.py", 404),
            ("GET", "/static/%2e%2e/app.py", 404),
            ("DELETE", "/streaming/chat/nobody", 404),
            ("GET", "/streaming/alerts", 405),
            ("POST", "/health", 405),
            ("PUT", "/v1/chat/completions", 405),
            ("GET", "/streaming/websocket", 426),
            ("GET", "/streaming/websocket/chat", 426),
            ("POST", "/streaming/sse/chat", 400),
            ("POST", "/v1/chat/completions", 400),
            ("POST", "/streaming/alerts", 400),
        ],
    )
    async def test_errors_have_one_shape(
        self, caller: httpx.AsyncClient, method: str, path: str, status: int
    ) -> None:
        reply = await caller.request(method, path)
        assert reply.status_code == status
        assert reply.headers["content-type"].startswith("application/json")
        error = reply.json()["error"]
        assert set(error) == {"type", "code", "message", "param"}
        assert all(isinstance(error[name], str) and error[name] for name in ("type", "code"))
        assert len(error["message"]) > 10
        kinds = {404: "not_found_error"}
        assert error["type"] == kinds.get(status, "invalid_request_error")
        if status == 405:
            assert reply.headers["allow"].partition(",")[0] in error["message"]

    @pytest.mark.parametrize("path", WEBSOCKETS)
    async def test_errors_of_a_plain_get_say_what_is_spoken_there(
        self, caller: httpx.AsyncClient, path: str
    ) -> None:
        reply = await caller.get(path)
        assert reply.status_code == 426
        assert reply.headers["upgrade"] == "websocket"
        assert reply.json()["error"]["code"] == "upgrade_required"
        assert "upgrade" in reply.headers.get("connection", "").lower()

    async def test_errors_on_a_socket_are_messages_too(self, server: StreamingService) -> None:
        async with websocket(server.url) as socket:
            await socket.connection.send("Hello")
            message = valid(await socket.connection.recv())
        assert set(message["data"]["error"]) == {"type", "code", "message", "param"}


async def test_many_faces_at_once_serve_one_answer(
    server: StreamingService, upstream: FakeUpstream, caller: httpx.AsyncClient
) -> None:
    upstream.default = Script(tokens=30, rate=100)
    async with websocket(server.url) as socket:
        await socket.start("r-1")
        asked = asyncio.create_task(
            caller.post("/v1/chat/completions", json=question(stream=True, request_id="r-1"))
        )
        async with events(server.url, "/streaming/sse/chat/r-1") as stream:
            over_sse = await stream.rest()
        over_websocket = await socket.answer()
    text = (await asked).text
    assert over_sse == over_websocket
    assert is_end(over_sse[-1])
    assert text.count("data: {") == len(over_sse) - 1
    assert len(upstream.generations) == 1
