"""Policy, on the real application: keys, scopes, tickets, pages, names, TLS, rates, proxies."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import ssl
from pathlib import Path
from typing import Final

import httpx
import pytest
import websockets

from streaming_api import service as service_module
from streaming_api.access import policy as doors_module
from streaming_api.cli import main
from streaming_api.config import ApiKey, load
from streaming_api.config.types import Scope
from streaming_api.ops.dump import describe
from streaming_api.service import StreamingService
from streaming_api.serving import tls
from streaming_api.web import http_protocol
from tests.certificates import make_certificate
from tests.clients import Socket, events, eventually, question, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Gate
from tests.raw import raw

SECRETS: Final = {
    "chatter": "sk-chatter-9c1b",
    "other": "sk-other-77aa",
    "watcher": "sk-watcher-5d0e",
    "alertmanager": "sk-alertmanager-31f8",
}
SCOPES: Final[dict[str, tuple[Scope, ...]]] = {
    "chatter": ("chat", "watch"),
    "other": ("chat", "watch"),
    "watcher": ("watch",),
    "alertmanager": ("alerts",),
}


def key(name: str, secret: str, *scopes: Scope) -> ApiKey:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return ApiKey(name=name, sha256=digest, scopes=frozenset(scopes))


KEYS: Final = tuple(key(name, secret, *SCOPES[name]) for name, secret in SECRETS.items())


def bearer(name: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {SECRETS[name]}"}


def subprotocol(name: str) -> str:
    """What carries a key where no header can be set."""
    encoded = base64.urlsafe_b64encode(SECRETS[name].encode()).decode().rstrip("=")
    return f"streaming-api.bearer.{encoded}"


def http(**headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=5, headers=headers)


async def get(url: str, name: str | None = None, **headers: str) -> httpx.Response:
    """One GET, with a key if one is named."""
    async with http(**headers) as client:
        return await client.get(url, headers={} if name is None else bearer(name))


def code_of(reply: httpx.Response) -> str:
    return str(reply.json()["error"]["code"])


async def refused(server: StreamingService, path: str, **options: object) -> int:
    """The status that a handshake is refused with."""
    with pytest.raises(websockets.InvalidStatus) as reply_to:
        async with websocket(server.url, path, **options):
            pass
    return reply_to.value.response.status_code


@pytest.fixture
async def guarded(start_server: StartServer, upstream: FakeUpstream) -> StreamingService:
    """A server with keys."""
    return await start_server(api_gateway_endpoint=upstream.url, api_keys=KEYS)


class TestAKey:
    @pytest.mark.parametrize(
        ("headers", "code"),
        [
            ({}, "missing_api_key"),
            ({"Authorization": "Bearer wrong"}, "invalid_api_key"),
            ({"Authorization": "Bearer \xff"}, "invalid_api_key"),
            ({"Authorization": "Basic Y2hhdHRlcjp4"}, "missing_api_key"),
            ({"Authorization": "Bearer"}, "missing_api_key"),
            ({"Authorization": f"Bearer {KEYS[0].sha256}"}, "invalid_api_key"),
        ],
    )
    async def test_a_key_is_needed_and_a_wrong_one_is_401(
        self, guarded: StreamingService, headers: dict[str, str], code: str
    ) -> None:
        raw_headers = [(n.encode(), v.encode("latin-1")) for n, v in headers.items()]
        async with http() as client:
            reply = await client.get(f"{guarded.url}/streaming/status", headers=raw_headers)
        assert reply.status_code == 401
        assert code_of(reply) == code
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
        assert reply.headers["Connection"] == "close"
        assert guarded.context.telemetry.refusals["credential"] == 1

    @pytest.mark.parametrize(
        "path",
        ["/streaming/status", "/streaming/connections?rows=0", "/streaming/metrics", "/metrics",
         "/streaming/sse/metrics", "/streaming/sse", "/v1/models", "/streaming/sse/chat/r-1"],
    )  # fmt: skip
    async def test_a_key_is_needed_for_everything_that_shows_something(
        self, guarded: StreamingService, path: str
    ) -> None:
        assert (await get(guarded.url + path)).status_code == 401

    @pytest.mark.parametrize("path", ["/", "/health", "/static/main.js", "/streaming/schema"])
    async def test_a_key_is_not_needed_for_what_shows_nothing(
        self, guarded: StreamingService, path: str
    ) -> None:
        assert (await get(guarded.url + path)).status_code == 200

    async def test_a_key_opens_what_its_scopes_name_and_nothing_else(
        self, guarded: StreamingService
    ) -> None:
        url = guarded.url
        assert (await get(f"{url}/streaming/status", "watcher")).status_code == 200
        assert (await get(f"{url}/v1/models", "chatter")).status_code == 200
        for path, name in (("/v1/models", "watcher"), ("/streaming/status", "alertmanager")):
            reply = await get(url + path, name)
            assert (reply.status_code, code_of(reply)) == (403, "missing_scope")
        async with http() as client:
            for name, status in (("chatter", 403), ("alertmanager", 400)):
                reply = await client.post(f"{url}/streaming/alerts", json={}, headers=bearer(name))
                assert reply.status_code == status

    async def test_a_key_limits_the_commands_on_a_socket_to_its_scopes(
        self, guarded: StreamingService
    ) -> None:
        async with websocket(guarded.url, additional_headers=bearer("watcher")) as socket:
            await socket.start("r-1")
            assert (await socket.receive())["data"]["error"]["code"] == "missing_scope"
            await socket.send(message_type="status_update")
            assert (await socket.receive())["data"]["event"] == "subscribed"
        async with websocket(guarded.url, additional_headers=bearer("alertmanager")) as socket:
            await socket.send(message_type="status_update")
            assert (await socket.receive())["data"]["error"]["code"] == "missing_scope"

    async def test_a_key_is_needed_before_the_upgrade(self, guarded: StreamingService) -> None:
        for path in ("/streaming/websocket", "/streaming/websocket/chat"):
            assert await refused(guarded, path) == 401
            wrong = {"Authorization": "Bearer wrong"}
            assert await refused(guarded, path, additional_headers=wrong) == 401
        assert guarded.connection_manager.open["websocket"] == 0

    async def test_a_key_comes_as_a_subprotocol_from_a_browser_and_is_not_echoed(
        self, guarded: StreamingService
    ) -> None:
        offered = [subprotocol("chatter"), "streaming-api.v1"]
        async with websocket(guarded.url, subprotocols=offered) as socket:
            assert socket.connection.subprotocol == "streaming-api.v1"
            assert "bearer" not in str(socket.connection.response.headers)  # type: ignore[union-attr]
            await socket.start("r-1")
            assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"

    @pytest.mark.parametrize("key", ["", "%%%", "d3Jvbmc", "_w", "A" * 4000])
    async def test_a_key_that_is_wrong_is_401_as_a_subprotocol_too(
        self, guarded: StreamingService, key: str
    ) -> None:
        handshake = (
            "GET /streaming/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Sec-WebSocket-Protocol: streaming-api.v1, streaming-api.bearer.{key}\r\n\r\n"
        )
        async with raw(guarded.url) as tcp:
            await tcp.send(handshake.encode())
            assert (await tcp.rest()).startswith(b"HTTP/1.1 401 ")

    async def test_a_key_is_not_sent_to_the_gateway(
        self, guarded: StreamingService, upstream: FakeUpstream
    ) -> None:
        async with websocket(guarded.url, additional_headers=bearer("chatter")) as socket:
            await socket.start("r-1")
            await socket.answer()
        assert all("authorization" not in request.headers for request in upstream.requests)

    async def test_a_key_can_come_from_a_systemd_credential(
        self, start_server: StartServer, tmp_path: Path
    ) -> None:
        digest = hashlib.sha256(b"sk-from-a-file").hexdigest()
        (tmp_path / "api_keys").write_text(f"- name: ci\n  sha256: {digest}\n  scopes: [watch]\n")
        loaded = load(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).config
        server = await start_server(api_keys=loaded.api_keys)
        url = f"{server.url}/streaming/status"
        assert (await get(url)).status_code == 401
        good = await get(url, Authorization="Bearer sk-from-a-file")
        assert (good.status_code, good.json()["access"]) == (200, "keys")

    async def test_a_key_with_admin_alone_shows_the_connections(
        self, start_server: StartServer
    ) -> None:
        scopes: tuple[Scope, ...] = ("admin", "watch", "chat")
        server = await start_server(api_keys=[key(name, name, name) for name in scopes])
        statuses = {
            (name, rows): (await get(f"{server.url}/streaming/connections{rows}",
                                     Authorization=f"Bearer {name}")).status_code
            for name in scopes for rows in ("", "?rows=0")
        }  # fmt: skip
        assert statuses == {
            ("admin", ""): 200, ("admin", "?rows=0"): 200,
            ("watch", ""): 403, ("watch", "?rows=0"): 200,
            ("chat", ""): 403, ("chat", "?rows=0"): 403,
        }  # fmt: skip


class TestNoKeys:
    async def test_a_server_without_keys_says_so(self, server: StreamingService) -> None:
        assert (await get(f"{server.url}/streaming/status")).json()["access"] == "open"

    def test_a_server_that_requires_keys_does_not_start_without_them(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STREAMING_REQUIRE_KEYS", "true")
            assert main(["serve", "--port", "0"]) == 2
        assert "require_keys" in capsys.readouterr().err


class TestAnAnswer:
    @pytest.fixture
    def gate(self, upstream: FakeUpstream) -> Gate:
        return upstream.gated(model="gated")

    async def test_an_answer_of_another_key_is_as_unknown_as_one_that_never_was(
        self, guarded: StreamingService, gate: Gate
    ) -> None:
        """Resuming, watching and cancelling: the replies differ in the name alone."""
        async with websocket(guarded.url, additional_headers=bearer("chatter")) as mine:
            await mine.start("r-1", model="gated")
            gate.release()
            await mine.receive()
            async with websocket(guarded.url, additional_headers=bearer("other")) as foreign:
                for action in ("resume", "cancel"):
                    assert await reply_to(foreign, action, "r-1") == await reply_to(
                        foreign, action, "r-0"
                    )
            async with http(**bearer("other")) as client:
                for method, path in (
                    ("GET", "/streaming/sse/chat/{}"),
                    ("DELETE", "/streaming/chat/{}"),
                ):
                    replies = [
                        await client.request(method, guarded.url + path.format(name))
                        for name in ("r-1", "r-0")
                    ]
                    assert [reply.status_code for reply in replies] == [404, 404]
                    first, second = (reply.text.replace("r-0", "r-1") for reply in replies)
                    assert first == second
            gate.open()
            assert (await mine.answer())[-1]["data"]["finish_reason"] == "stop"

    async def test_a_name_means_another_answer_with_another_key(
        self, guarded: StreamingService, upstream: FakeUpstream, gate: Gate
    ) -> None:
        async with (
            websocket(guarded.url, additional_headers=bearer("chatter")) as one,
            websocket(guarded.url, additional_headers=bearer("other")) as two,
        ):
            for socket in (one, two):
                await socket.start("r-1", model="gated")
            await upstream.generation(1)
            gate.open()
            for socket in (one, two):
                assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"

    async def test_an_answer_is_watched_by_another_client_with_the_same_key(
        self, guarded: StreamingService
    ) -> None:
        async with websocket(guarded.url, additional_headers=bearer("chatter")) as socket:
            await socket.start("r-1")
            seen = await socket.answer()
        path = "/streaming/sse/chat/r-1"
        async with events(guarded.url, path, headers=bearer("chatter")) as stream:
            assert await stream.rest() == seen

    async def test_too_many_answers_of_one_key_are_429_and_others_go_on(
        self, start_server: StartServer, upstream: FakeUpstream, gate: Gate
    ) -> None:
        server = await start_server(
            api_gateway_endpoint=upstream.url, api_keys=KEYS, answers_per_key=1
        )
        async with websocket(server.url, additional_headers=bearer("chatter")) as socket:
            await socket.start("r-1", model="gated")
            await upstream.generation()
            async with http() as client:
                for name, status in (("chatter", 429), ("other", 200)):
                    url = f"{server.url}/v1/chat/completions"
                    reply = await client.post(url, json=question(), headers=bearer(name))
                    assert reply.status_code == status
                    assert (reply.headers.get("Retry-After") is not None) == (status == 429)
            gate.open()
            await socket.answer()


async def reply_to(socket: Socket, action: str, request_id: str) -> dict[str, object]:
    """What a command is answered with, but for the name."""
    await socket.send(message_type="chat_completion", action=action, request_id=request_id)
    message = await socket.receive()
    text = json.dumps(message["data"]).replace(request_id, "ID")
    return {"code": message["data"]["error"]["code"], "text": text}


class TestATicket:
    async def test_a_ticket_opens_once_what_its_key_opens(self, guarded: StreamingService) -> None:
        ticket = await new_ticket(guarded, "watcher")
        async with websocket(guarded.url, f"/streaming/websocket?ticket={ticket}") as socket:
            await socket.send(message_type="status_update")
            assert (await socket.receive())["data"]["event"] == "subscribed"
            await socket.start("r-1")
            assert (await socket.until(lambda m: "error" in m["data"]))[-1]
        assert await refused(guarded, f"/streaming/websocket?ticket={ticket}") == 401

    async def test_a_ticket_opens_an_event_stream_too(self, guarded: StreamingService) -> None:
        ticket = await new_ticket(guarded, "watcher")
        async with events(guarded.url, f"/streaming/sse/status?ticket={ticket}") as stream:
            await stream.receive()
        reply = await get(f"{guarded.url}/streaming/sse/status?ticket={ticket}")
        assert (reply.status_code, code_of(reply)) == (401, "invalid_ticket")

    async def test_a_ticket_is_good_for_thirty_seconds(
        self, guarded: StreamingService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert doors_module.TICKET_SECONDS == 30
        monkeypatch.setattr(doors_module, "TICKET_SECONDS", -0.001)
        ticket = await new_ticket(guarded, "watcher")
        assert await refused(guarded, f"/streaming/websocket?ticket={ticket}") == 401

    async def test_a_ticket_is_not_given_to_nobody(self, guarded: StreamingService) -> None:
        async with http() as client:
            reply = await client.post(f"{guarded.url}/streaming/tickets")
        assert reply.status_code == 401

    async def test_a_ticket_does_not_buy_another(self, guarded: StreamingService) -> None:
        ticket = await new_ticket(guarded, "watcher")
        async with http() as client:
            reply = await client.post(f"{guarded.url}/streaming/tickets?ticket={ticket}")
        assert (reply.status_code, code_of(reply)) == (403, "ticket_by_ticket")

    async def test_a_ticket_that_was_made_up_is_401(self, guarded: StreamingService) -> None:
        for made_up in ("", "x", "A" * 32, "%00"):
            assert await refused(guarded, f"/streaming/websocket?ticket={made_up}") == 401

    async def test_tickets_cannot_be_had_without_end(self, start_server: StartServer) -> None:
        server = await start_server(api_keys=KEYS, commands_per_second=1)
        async with http(**bearer("watcher")) as client:
            replies = [await client.post(f"{server.url}/streaming/tickets") for _ in range(4)]
        assert replies[0].status_code == 201
        assert replies[-1].status_code == 429


async def new_ticket(server: StreamingService, name: str) -> str:
    async with http() as client:
        reply = await client.post(f"{server.url}/streaming/tickets", headers=bearer(name))
    assert (reply.status_code, reply.json()["expires_in_seconds"]) == (201, 30)
    return str(reply.json()["ticket"])


class TestTheLog:
    async def test_the_log_never_holds_a_key_a_ticket_or_what_was_said(
        self, guarded: StreamingService, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        ticket = await new_ticket(guarded, "watcher")
        async with websocket(guarded.url, f"/streaming/websocket?ticket={ticket}") as socket:
            await socket.send(message_type="status_update")
            await socket.receive()
        offered = ["streaming-api.v1", subprotocol("chatter")]
        async with websocket(guarded.url, subprotocols=offered) as socket:
            await socket.start("r-1", messages=[{"role": "user", "content": "my-secret-question"}])
            await socket.answer()
            await socket.connection.send("my-secret-nonsense")
            await socket.receive()
        await refused(guarded, f"/streaming/websocket?ticket={ticket}")
        await refused(guarded, "/streaming/websocket?ticket=sk-guess")
        await get(f"{guarded.url}/streaming/status", Authorization="Bearer sk-guess")
        async with raw(guarded.url) as tcp:  # not HTTP, with a key in it
            await tcp.send(b"GET /health HTTP/1.1\r\nAuthorization: Bearer sk-guess\x01\r\n\r\n")
            assert b"sk-guess" not in await tcp.rest()
        await eventually(lambda: not guarded.connection_manager.connections)
        await guarded.stop()
        secrets = (*SECRETS.values(), subprotocol("chatter")[21:], ticket, "sk-guess", "my-secret")
        ours = [
            r for r in caplog.records if not r.name.startswith(("websockets", "httpx", "httpcore"))
        ]
        text = "\n".join(caplog.handler.format(record) for record in ours)
        assert "ended: client" in text
        for secret in (*secrets, "t0 t1"):
            assert secret not in text

    async def test_the_log_names_an_answer_once_at_its_end(
        self, guarded: StreamingService, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "streaming_api")
        for model, name in (("ten-tokens", "r-good"), ("error-500", "r-bad")):
            path = "/streaming/sse/chat"
            async with http(**bearer("chatter")) as client:
                await client.post(guarded.url + path, json=question(model, request_id=name))
                await client.get(f"{guarded.url}{path}/{name}")
        await eventually(lambda: not guarded.connection_manager.connections)
        logging.getLogger("streaming_api").warning("%s", describe(guarded.context))
        good = [line for line in caplog.messages if "r-good" in line]
        bad = [line for line in caplog.messages if "r-bad" in line]
        assert len(good) == len(bad) == 1
        assert good[0].startswith("answer r-good of chatter by ten-tokens ended: stop after ")
        assert "error (" in bad[0]
        assert "status 500" in bad[0]
        paths = [line for line in caplog.messages if "/streaming/sse/chat" in line]
        assert sum("/streaming/sse/chat/{request_id} of" in line for line in paths) == 2

    async def test_the_log_has_one_line_for_each_end_of_an_answer_with_its_reason(
        self, server: StreamingService, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with websocket(server.url, "/streaming/websocket?ticket=x") as socket:
            await socket.start("r-1")
            await socket.answer()
        await eventually(lambda: not server.connection_manager.connections)
        lines = [message for message in caplog.messages if message.startswith("websocket")]
        assert len(lines) == 1
        assert "websocket 1 /streaming/websocket of 127.0.0.1 ended: client after" in lines[0]


class TestPagesAndNames:
    async def test_pages_of_the_server_itself_come_in(self, server: StreamingService) -> None:
        for origin in (server.url, server.url.replace("127.0.0.1", "localhost")):
            host = origin.removeprefix("http://")
            headers = {"Origin": origin, "Host": host}
            assert (await get(f"{server.url}/streaming/status", **headers)).status_code == 200

    async def test_pages_and_names_that_are_allowed_come_in(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(
            allowed_origins=["https://chat.example.org"], allowed_hosts=["api.example.org"]
        )
        url = f"{server.url}/streaming/status"
        assert (await get(url, Origin="https://chat.example.org")).status_code == 200
        assert (await get(url, Host="API.example.org.:443")).status_code == 200
        for headers in (
            {"Origin": "http://chat.example.org"},
            {"Origin": "https://chat.example.org.evil.example"},
            {"Origin": "https://chat.example.org:444"},
            {"Host": "api.example.org.evil.example"},
            {"Host": "localhost@evil.example"},
            {"Host": "[::1]evil.example"},
        ):
            assert (await get(url, **headers)).status_code == 403, headers

    async def test_a_page_behind_the_tls_of_a_proxy_is_the_same_page(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(allowed_hosts=["chat.example.org"])
        headers = {"Origin": "https://chat.example.org", "Host": "chat.example.org"}
        assert (await get(f"{server.url}/streaming/status", **headers)).status_code == 200

    @pytest.mark.parametrize(
        "path", ["/", "/health", "/metrics", "/streaming/schema", "/streaming/sse/metrics"]
    )
    async def test_foreign_pages_and_names_get_nothing_at_all(
        self, server: StreamingService, path: str
    ) -> None:
        reply = await get(server.url + path, Host="evil.example")
        assert (reply.status_code, code_of(reply)) == (403, "host_not_allowed")
        reply = await get(server.url + path, Origin="http://evil.example")
        assert (reply.status_code, code_of(reply)) == (403, "origin_not_allowed")
        assert server.context.telemetry.refusals["host"] == 1
        assert server.context.telemetry.refusals["origin"] == 1

    async def test_foreign_names_cannot_hide_behind_a_target_that_is_a_url(
        self, server: StreamingService
    ) -> None:
        async with raw(server.url) as tcp:
            await tcp.send(b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await tcp.rest()).startswith(b"HTTP/1.1 403 ")


class TestRates:
    async def test_new_connections_above_their_rate_are_refused_with_retry_after(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(connections_per_minute=6)
        async with events(server.url, "/streaming/sse/status") as stream:
            await stream.receive()
            reply = await get(f"{server.url}/streaming/sse/status")
            assert (reply.status_code, code_of(reply)) == (429, "rate")
            assert 1 <= int(reply.headers["Retry-After"]) <= 10
            assert await refused(server, "/streaming/websocket") == 429
        assert server.context.telemetry.refusals["rate"] == 2

    async def test_the_rate_of_new_connections_holds_for_a_key_from_several_addresses(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(
            connections_per_minute=6, api_keys=KEYS, trusted_proxies=["127.0.0.0/8"]
        )
        for address, name, status in (
            ("10.0.0.1", "chatter", 200),
            ("10.0.0.2", "chatter", 429),
            ("10.0.0.3", "other", 200),
        ):
            async with (
                http(**{"X-Forwarded-For": address}) as client,
                client.stream(
                    "GET", f"{server.url}/streaming/sse/status", headers=bearer(name)
                ) as reply,
            ):
                assert reply.status_code == status

    async def test_commands_above_their_rate_are_refused_with_retry_after(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, commands_per_second=1)
        async with http() as client:
            replies = [
                await client.post(f"{server.url}/v1/chat/completions", json=question("ten-tokens"))
                for _ in range(4)
            ]
        assert replies[0].status_code == 200
        assert (replies[-1].status_code, code_of(replies[-1])) == (429, "too_many_commands")
        assert replies[-1].headers["Retry-After"] == "1"


class TestAProxy:
    @pytest.mark.parametrize(
        ("forwarded", "address"),
        [
            ("10.1.1.1", "10.1.1.1"),
            ("10.1.1.1, 10.2.2.2", "10.2.2.2"),  # only the trusted one's word counts
            ("10.1.1.1, 127.0.0.9", "10.1.1.1"),
            ("10.1.1.1, nonsense", "127.0.0.1"),
            ("10.1.1.1, ::1%x", "127.0.0.1"),
            ("", "127.0.0.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("10.1.1.1:4711", "10.1.1.1"),  # Azure Application Gateway
            ("[2001:db8::1]:4711, 127.0.0.9:1", "2001:db8::1"),
        ],
    )
    async def test_a_proxy_that_is_trusted_says_who_the_client_is(
        self, start_server: StartServer, forwarded: str, address: str
    ) -> None:
        server = await start_server(trusted_proxies=["127.0.0.0/8"])
        async with websocket(server.url, additional_headers={"X-Forwarded-For": forwarded}):
            await eventually(lambda: server.connection_manager.connections)
            (connection,) = server.connection_manager.present()
            assert connection.client.address == address

    async def test_a_proxy_that_is_not_is_just_a_client(self, server: StreamingService) -> None:
        async with websocket(server.url, additional_headers={"X-Forwarded-For": "10.1.1.1"}):
            await eventually(lambda: server.connection_manager.connections)
            (connection,) = server.connection_manager.present()
            assert connection.client.address == "127.0.0.1"

    async def test_a_proxy_with_ipv6_clients_has_one_limit_for_each_customer(
        self, start_server: StartServer
    ) -> None:
        """A customer has 2^64 addresses: what is limited is their network."""
        server = await start_server(trusted_proxies=["127.0.0.1"], max_connections_per_ip=1)
        first = {"X-Forwarded-For": "2001:db8:0:1::1"}
        same = {"X-Forwarded-For": "2001:db8:0:1:ffff::2"}
        another = {"X-Forwarded-For": "2001:db8:0:2::1"}
        async with websocket(server.url, additional_headers=first):
            assert await refused(server, "/streaming/websocket", additional_headers=same) == 503
            async with websocket(server.url, additional_headers=another):
                pass


class TestAnUnauthenticatedSocket:
    async def test_an_unauthenticated_socket_that_says_nothing_is_closed(
        self, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert http_protocol.HEAD_SECONDS == 10
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
        server = await start_server(api_keys=KEYS)
        async with raw(server.url) as silent, raw(server.url) as wrong:
            await wrong.request("GET", "/streaming/status", None, "Connection: keep-alive")
            assert (await wrong.rest()).startswith(b"HTTP/1.1 401 ")
            assert await silent.rest() == b""


class TestTLS:
    async def test_tls_serves_everything_and_loads_a_certificate_that_changes(
        self, start_server: StartServer, upstream: FakeUpstream, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(tls, "RELOAD_SECONDS", 0.02)
        certificate, key = make_certificate(tmp_path, "one")
        server = await start_server(
            api_gateway_endpoint=upstream.url, tls_certificate=certificate, tls_key=key
        )
        assert server.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with websocket(server.url, ssl=trusting) as socket:
            await socket.start("r-1")
            assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"
            async with events(server.url, "/streaming/sse/status") as stream:
                await stream.receive()
            certificate.write_text("half-written")
            await asyncio.sleep(0.1)  # it may look as often as it likes: the old one goes on
            async with websocket(server.url, ssl=trusting):
                pass
            make_certificate(tmp_path, "two")
            renewed = ssl.create_default_context(cafile=str(certificate))
            await eventually_trusted(server, renewed)
            with pytest.raises(ssl.SSLCertVerificationError):
                async with websocket(server.url, ssl=trusting):
                    pass
            await socket.start("r-2")  # connections from before go on
            assert (await socket.answer())[-1]["data"]["finish_reason"] == "stop"

    async def test_tls_does_not_wait_for_a_handshake_that_does_not_come(
        self, start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert service_module.HANDSHAKE_SECONDS == 10
        monkeypatch.setattr(service_module, "HANDSHAKE_SECONDS", 0.3)
        certificate, key = make_certificate(tmp_path, "one")
        server = await start_server(tls_certificate=certificate, tls_key=key)
        async with raw(server.url) as silent, raw(server.url) as dribbling:
            await dribbling.send(b"\x16\x03\x01")
            assert await silent.rest() == b""
            assert await dribbling.rest() == b""

    async def test_tls_speaks_no_plain_http(
        self, start_server: StartServer, tmp_path: Path
    ) -> None:
        certificate, key = make_certificate(tmp_path, "one")
        server = await start_server(tls_certificate=certificate, tls_key=key)
        async with raw(server.url) as plain:
            await plain.request("GET", "/health")
            assert b"200" not in await plain.rest()


async def eventually_trusted(server: StreamingService, context: ssl.SSLContext) -> None:
    """Until the server shows the certificate that this context trusts."""
    async with asyncio.timeout(5):
        while True:
            try:
                async with websocket(server.url, ssl=context):
                    return
            except ssl.SSLCertVerificationError:
                await asyncio.sleep(0.02)
