"""The WebSocket itself: handshake, compression, topics with cursors, and how it ends."""

from __future__ import annotations

import asyncio

import pytest

from streaming_api.service import StreamingService
from tests.clients import content, eventually, fire, name_of, question, websocket
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import CLOSE, PING, raw

HANDSHAKE = (
    "GET /streaming/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
PATHS = ["/streaming/websocket", "/streaming/websocket/chat"]


class TestTheHandshake:
    @pytest.mark.parametrize("path", PATHS)
    async def test_the_handshake_is_what_rfc_6455_says(
        self, server: StreamingService, path: str
    ) -> None:
        async with raw(server.url) as tcp:
            head = await tcp.upgrade(path)
        assert head.startswith("HTTP/1.1 101 Switching Protocols\r\n")
        assert "Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n" in head
        assert "Sec-WebSocket-Extensions" not in head
        assert "Sec-WebSocket-Protocol" not in head

    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            (("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), 426, "unsupported_version"),
            (("Sec-WebSocket-Version: 13\r\n", ""), 426, "unsupported_version"),
            (("AAAAAAAAAAAAAAAAAAAAAA==", "c2hvcnQ="), 400, "invalid_key"),
            (("AAAAAAAAAAAAAAAAAAAAAA==", "not base64!"), 400, "invalid_key"),
            (("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", ""), 400, "invalid_key"),
            (("Connection: Upgrade\r\n", ""), 426, "upgrade_required"),
            (("Host: localhost\r\n", "Host: localhost\r\nContent-Length: 2\r\n"), 400, None),
        ],
    )
    async def test_a_handshake_with_something_wrong_is_refused(
        self, server: StreamingService, change: tuple[str, str], status: int, code: str | None
    ) -> None:
        request = HANDSHAKE
        assert change[0] in request
        async with raw(server.url) as tcp:
            await tcp.send(request.replace(*change).encode() + b"{}" * ("Length" in change[1]))
            head = (await tcp.until(b"\r\n\r\n")).decode()
            assert head.startswith(f"HTTP/1.1 {status} ")
            if code is not None:
                assert f'"code":"{code}"'.encode() in await tcp.until(b"}}")


class TestCompression:
    async def test_compression_is_negotiated_by_websockets_as_it_comes(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        texts = tuple(f"t{number} " + "x" * 2_000 for number in range(20))
        upstream.default = Script(tokens=(*texts, "short"))
        async with websocket(server.url) as socket:
            names = [extension.name for extension in socket.connection.protocol.extensions]
            assert names == ["permessage-deflate"]
            await socket.start("r-1")
            seen = await socket.answer()
            await eventually(lambda: server.connection_manager.connections)
            (connection,) = server.connection_manager.present()
            assert connection.sent()[1] < 21_000  # bytes of 42,000 that were said
        assert content(seen) == upstream.default.text()

    @pytest.mark.parametrize("switch", ["compression_enabled", "websocket_compression"])
    async def test_compression_can_be_switched_off(
        self, start_server: StartServer, switch: str
    ) -> None:
        server = await start_server(**{switch: False})
        async with websocket(server.url) as socket:
            assert not socket.connection.protocol.extensions

    async def test_compression_of_one_viewer_is_nothing_to_the_other(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=tuple("y" * 3_000 for _ in range(5)), rate=50)
        async with websocket(server.url) as small, websocket(server.url, compression=None) as plain:
            await small.start("r-1")
            await plain.start("r-1")
            assert await small.answer() == await plain.answer()


class TestTopics:
    @pytest.mark.parametrize(
        ("message_type", "topic", "key"),
        [
            ("metrics_update", "metrics", "values"),
            ("alert", "alerts", "alerts"),
            ("status_update", "status", "components"),
        ],
    )
    async def test_topics_begin_with_a_notice_and_a_snapshot(
        self, server: StreamingService, message_type: str, topic: str, key: str
    ) -> None:
        async with websocket(server.url) as socket:
            await socket.send(message_type=message_type)
            notice, snapshot = await socket.receive(), await socket.receive()
            assert notice["data"] == {"event": "subscribed", "topic": topic}
            assert (notice["message_type"], notice["stream_id"]) == (message_type, topic)
            assert (snapshot["message_type"], snapshot["stream_id"]) == (message_type, topic)
            assert snapshot["data"]["event"] == "snapshot"
            assert key in snapshot["data"]
            assert snapshot["cursor"]

    async def test_topics_go_on_with_changes_until_one_unsubscribes(
        self, server: StreamingService
    ) -> None:
        async with websocket(server.url) as socket:
            await socket.subscribe("alert")
            await fire(server.url, "one")
            change = await socket.receive()
            assert (change["data"]["event"], name_of(change)) == ("firing", "one")
            await socket.send(message_type="alert", action="unsubscribe")
            assert (await socket.receive())["data"]["event"] == "unsubscribed"
            await fire(server.url, "two")
            await socket.send(message_type="alert")
            assert (await socket.receive())["data"]["event"] == "subscribed"
            snapshot = await socket.receive()
            names = {alert["labels"]["alertname"] for alert in snapshot["data"]["alerts"]}
            assert names >= {"one", "two"}

    async def test_topics_subscribed_twice_double_nothing(self, server: StreamingService) -> None:
        async with websocket(server.url) as socket:
            await socket.subscribe("alert")
            await socket.subscribe("alert")
            await fire(server.url, "one", "two")
            assert [name_of(await socket.receive()) for _ in range(2)] == ["one", "two"]

    async def test_topics_resume_strictly_after_a_cursor(self, server: StreamingService) -> None:
        async with websocket(server.url) as socket:
            await socket.subscribe("alert")
            await fire(server.url, "one")
            cursor = (await socket.receive())["cursor"]
        await fire(server.url, "two")
        await fire(server.url, "two", status="resolved")
        async with websocket(server.url) as socket:
            await socket.send(message_type="alert", cursor=cursor)
            assert (await socket.receive())["data"]["event"] == "subscribed"
            missed = [await socket.receive() for _ in range(2)]
            assert [message["data"]["event"] for message in missed] == ["firing", "resolved"]
            assert {name_of(message) for message in missed} == {"two"}

    async def test_topics_report_what_is_no_longer_kept_before_what_is(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(topic_retention_messages=3)
        async with websocket(server.url) as socket:
            await socket.subscribe("alert")
            await fire(server.url, "first")
            cursor = (await socket.receive())["cursor"]
        for number in range(6):
            await fire(server.url, f"a{number}")
        async with websocket(server.url) as socket:
            await socket.send(message_type="alert", cursor=cursor)
            assert (await socket.receive())["data"]["event"] == "subscribed"
            notice = await socket.receive()
            kept = [await socket.receive() for _ in range(3)]
        assert notice["data"]["reason"] == "evicted"
        assert notice["data"]["from"] == int(cursor.partition(":")[2]) + 1
        assert notice["data"]["to"] < kept[0]["sequence_id"]
        assert [name_of(message) for message in kept] == ["a3", "a4", "a5"]

    async def test_topics_come_to_everybody_in_the_same_order(
        self, server: StreamingService
    ) -> None:
        async def one() -> list[str]:
            async with websocket(server.url) as socket:
                await socket.subscribe("alert")
                ready.release()
                return [name_of(await socket.receive()) for _ in range(10)]

        ready = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(one()) for _ in range(20)]
        for _ in tasks:
            await ready.acquire()
        for number in range(10):
            await fire(server.url, f"a{number}")
        expected = [f"a{number}" for number in range(10)]
        assert await asyncio.gather(*tasks) == [expected] * 20


class TestTheEnd:
    async def test_a_close_is_answered_with_its_own_code(self, server: StreamingService) -> None:
        async with websocket(server.url) as socket:
            await socket.connection.close(4321, "bye")
            assert socket.connection.close_code == 4321
        await eventually(lambda: server.connection_manager.open["websocket"] == 0)

    async def test_a_client_that_half_closes_frees_its_answer(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(hang_after=1)
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.command(message_type="chat_completion", **question(on_disconnect="cancel"))
            generation = await upstream.generation()
            tcp.half_close()
            await tcp.rest()  # the server has closed, too
            await generation.wait_closed(1)
        await eventually(lambda: server.connection_manager.open["websocket"] == 0)

    async def test_a_broken_connection_is_noticed(self, server: StreamingService) -> None:
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            await eventually(lambda: server.connection_manager.open["websocket"] == 1)
            tcp.reset()
            await eventually(lambda: server.connection_manager.open["websocket"] == 0)

    async def test_a_ping_in_the_middle_of_a_message_is_answered(
        self, server: StreamingService
    ) -> None:
        async with raw(server.url) as tcp:
            await tcp.upgrade()
            await tcp.send(b"\x01\x81\x00\x00\x00\x00{")  # not final
            await tcp.send_frame(b"are you there", PING)
            assert await tcp.frame() == (0xA, b"are you there")
            await tcp.send(b"\x80\x81\x00\x00\x00\x00}")
            await tcp.frame()  # the error about {}
            await tcp.send_frame((1000).to_bytes(2, "big"), CLOSE)
            assert await tcp.messages_and_close() == ([], 1000)
            assert await tcp.rest() == b""
