"""Server-Sent Events: topics and answers as any client of event streams sees them."""

from __future__ import annotations

import asyncio
import json

import pytest

from streaming_api.service import StreamingService
from tests.clients import (
    Message,
    content,
    events,
    eventually,
    fire,
    http,
    name_of,
    question,
    valid,
    websocket,
)
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script
from tests.raw import dechunked, messages_of, raw

TYPES = {"metrics": "metrics_update", "alerts": "alert", "status": "status_update"}
SSE = "/streaming/sse/"


async def curl(*arguments: str) -> tuple[int, bytes]:
    """Run curl; its exit status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        "curl", "-sN", "--max-time", "5", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output


class TestATopic:
    @pytest.mark.parametrize("topic", TYPES)
    async def test_a_topic_begins_with_a_snapshot(
        self, server: StreamingService, topic: str
    ) -> None:
        async with events(server.url, SSE + topic) as stream:
            headers = stream.response.headers
            first = await stream.receive()
        assert headers["content-type"].startswith("text/event-stream")
        assert headers["cache-control"] == "no-cache"
        assert headers["x-accel-buffering"] == "no"
        assert (first["message_type"], first["stream_id"]) == (TYPES[topic], topic)
        assert first["data"]["event"] == "snapshot"

    async def test_a_topic_says_when_to_come_again_first(self, start_server: StartServer) -> None:
        server = await start_server(sse_retry_timeout=1234)
        async with raw(server.url) as tcp:
            await tcp.request("GET", SSE + "status")
            await tcp.until(b"\r\n\r\n")
            assert (await tcp.until(b"event: ")).startswith(b"c\r\nretry: 1234\n")

    async def test_a_topic_goes_on_with_changes_and_resumes_after_the_last_one_seen(
        self, server: StreamingService
    ) -> None:
        async with events(server.url, SSE + "alerts") as stream:
            await stream.receive()
            await fire(server.url, "one")
            seen = await stream.receive()
            assert name_of(seen) == "one"
        await fire(server.url, "two")
        for path, headers in (
            (SSE + "alerts", {"Last-Event-ID": seen["cursor"]}),
            (SSE + "alerts?cursor=" + seen["cursor"], {}),
        ):
            async with events(server.url, path, headers=headers) as stream:
                assert name_of(await stream.receive()) == "two"

    async def test_a_client_that_has_seen_everything_is_sent_the_head_at_once(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(sse_keep_alive_interval=3600)
        async with events(server.url, SSE + "alerts") as stream:
            seen = await stream.receive()
        async with raw(server.url) as tcp:
            await tcp.request("GET", f"{SSE}alerts?cursor={seen['cursor']}")
            assert (await tcp.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")

    async def test_a_topic_of_which_the_newest_state_is_enough_jumps_to_the_snapshot(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(topic_retention_messages=1, poll_interval=0.02)
        metrics = server.context.topics.channel.streams["metrics"]
        async with events(server.url, SSE + "metrics") as stream:
            cursor = (await stream.receive())["cursor"]
        old = int(cursor.partition(":")[2])
        await eventually(lambda: metrics.evicted > old)
        async with events(server.url, SSE + "metrics", headers={"Last-Event-ID": cursor}) as stream:
            first = await stream.receive()
        assert first["data"]["event"] == "snapshot"
        assert first["sequence_id"] > old


class TestSeveralTopics:
    async def test_several_topics_share_one_connection_and_one_cursor(
        self, server: StreamingService
    ) -> None:
        async with events(server.url, "/streaming/sse?topics=alerts,status") as stream:
            first = [await stream.receive() for _ in range(2)]
            assert {message["stream_id"] for message in first} == {"alerts", "status"}
            await fire(server.url, "one")
            seen = (await stream.until(lambda m: m["data"]["event"] == "firing"))[-1]
        await fire(server.url, "two")
        server.context.topics.status.set("streaming-api", "down", "Only a test.", urgent=True)
        headers = {"Last-Event-ID": seen["cursor"]}
        path = "/streaming/sse?topics=alerts,status"
        async with events(server.url, path, headers=headers) as stream:
            missed = [await stream.receive() for _ in range(2)]
        assert [message["stream_id"] for message in missed] == ["alerts", "status"]
        numbers = [message["sequence_id"] for message in missed]
        assert numbers == sorted(numbers)

    async def test_all_topics_are_shown_if_none_is_named(self, server: StreamingService) -> None:
        async with events(server.url, "/streaming/sse") as stream:
            first = [await stream.receive() for _ in range(3)]
        assert {message["stream_id"] for message in first} == set(TYPES)

    @pytest.mark.parametrize("topics", ["nonsense", "alerts,nonsense", "", "alerts,,"])
    async def test_topics_that_do_not_exist_are_404(
        self, server: StreamingService, topics: str
    ) -> None:
        async with http() as client:
            reply = await client.get(f"{server.url}/streaming/sse", params={"topics": topics})
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "unknown_topic"


class TestAnAnswer:
    async def test_an_answer_is_events_up_to_its_end_and_then_the_response_ends(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        body = question(request_id="r-1")
        async with events(server.url, SSE + "chat", body=body) as stream:
            seen = await stream.rest()
        assert content(seen) == upstream.default.text()
        assert [message["sequence_id"] for message in seen] == list(range(1, len(seen) + 1))
        assert seen[-1]["data"]["object"] == "chat.completion.end"
        assert {message["request_id"] for message in seen} == {"r-1"}

    async def test_an_answer_sends_a_heartbeat_before_the_first_token(
        self, start_server: StartServer, upstream: FakeUpstream
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url, sse_keep_alive_interval=0.05)
        gate = upstream.gated(Script(role=False))
        async with raw(server.url) as tcp:
            await tcp.request("POST", SSE + "chat", question())
            await tcp.until(b"\r\n\r\n")
            before = await tcp.until(b": keep-alive\n")
            assert b"data:" not in before
            gate.open()
            rest = before + await tcp.rest()
        assert content(messages_of(dechunked(rest))) == upstream.default.text()

    async def test_an_answer_can_be_watched_by_many(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(tokens=20, rate=100)
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            first = await socket.receive()

            async def watch() -> list[object]:
                async with events(server.url, SSE + "chat/r-1") as stream:
                    return list(await stream.rest())

            answers = await asyncio.gather(*(watch() for _ in range(10)))
            seen = [first, *await socket.answer()]
        assert all(answer == seen for answer in answers)

    async def test_an_answer_of_a_client_that_half_closes_is_left(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(hang_after=1)
        async with raw(server.url) as tcp:
            await tcp.request("POST", SSE + "chat", question(on_disconnect="cancel"))
            await tcp.until(b"t0 ")
            tcp.half_close()
            await (await upstream.generation()).wait_closed(1)
        await eventually(lambda: server.connection_manager.open["sse"] == 0)

    async def test_an_answer_in_http_1_0_has_no_chunks(self, server: StreamingService) -> None:
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            seen = await socket.answer()
        async with raw(server.url) as tcp:
            await tcp.send(b"GET /streaming/sse/chat/r-1 HTTP/1.0\r\nHost: localhost\r\n\r\n")
            head, _, body = (await tcp.rest()).partition(b"\r\n\r\n")
        assert b"200 OK" in head
        assert b"chunked" not in head.lower()
        assert messages_of(body) == seen
        assert body.startswith(b"retry: ")

    async def test_an_answer_compressed_is_the_same(
        self, server: StreamingService, upstream: FakeUpstream
    ) -> None:
        upstream.default = Script(
            tokens=("short ", "x" * 5_000, "\u2028 ", "y" * 100_000), rate=100
        )
        body = question(request_id="r-1")
        gzip, identity = {"Accept-Encoding": "gzip"}, {"Accept-Encoding": "identity"}
        async with events(server.url, SSE + "chat", body=body, headers=gzip) as stream:
            assert stream.response.headers["content-encoding"] == "gzip"
            seen = await stream.rest()
        async with events(server.url, SSE + "chat/r-1", headers=identity) as stream:
            assert "content-encoding" not in stream.response.headers
            assert await stream.rest() == seen
        assert content(seen) == upstream.default.text()


class TestCurl:
    @pytest.mark.parametrize("extra", [(), ("--compressed",), ("--http1.0",)])
    async def test_curl_shows_an_answer_to_its_end(
        self, server: StreamingService, upstream: FakeUpstream, extra: tuple[str, ...]
    ) -> None:
        upstream.default = Script(tokens=("t0 ", "x" * 3_000), rate=50)
        status, output = await curl(*extra, "-d", json.dumps(question()), server.url + SSE + "chat")
        assert status == 0  # also: the body was complete, its checksum right
        assert content(messages_of(output)) == upstream.default.text()

    async def test_curl_shows_a_snapshot_at_once_and_changes_after_it(
        self, server: StreamingService
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            "curl", "-sN", "-H", "Accept: text/event-stream", server.url + SSE + "alerts",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            found: list[Message] = []
            async with asyncio.timeout(5):
                while len(found) < 2:
                    line = await process.stdout.readline()
                    if line.startswith(b"data: "):
                        found.append(valid(line.removeprefix(b"data: ")))
                        if len(found) == 1:
                            await fire(server.url, "one")
        finally:
            process.kill()
            await process.wait()
        assert [message["data"]["event"] for message in found] == ["snapshot", "firing"]

    async def test_curl_gets_a_refusal_as_json(self, server: StreamingService) -> None:
        _, output = await curl(server.url + SSE + "chat/nobody")
        assert json.loads(output)["error"]["code"] == "stream_not_found"


class TestSwitchedOff:
    async def test_event_streams_are_404_and_say_where_else(
        self, start_server: StartServer
    ) -> None:
        server = await start_server(sse_enabled=False)
        async with http(server.url) as client:
            for path in ("status", "alerts"):
                reply = await client.get(SSE + path)
                assert reply.status_code == 404
                assert reply.json()["error"]["code"] == "sse_disabled"
            reply = await client.post(SSE + "chat", json=question())
            assert reply.json()["error"]["code"] == "sse_disabled"

    @pytest.mark.parametrize("topic", TYPES)
    async def test_a_topic_is_404_and_not_among_all(
        self, start_server: StartServer, topic: str
    ) -> None:
        server = await start_server(**{f"streaming_{topic}_enabled": False})
        async with http() as client:
            reply = await client.get(server.url + SSE + topic)
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == f"{topic}_disabled"
        async with events(server.url, "/streaming/sse") as stream:
            first = [await stream.receive() for _ in range(2)]
        assert {message["stream_id"] for message in first} == set(TYPES) - {topic}
        async with websocket(server.url) as socket:
            await socket.send(message_type=TYPES[topic])
            notice = await socket.receive()
            assert notice["data"]["error"]["code"] == f"{topic}_disabled"

    async def test_chat_is_an_error_on_every_face(self, start_server: StartServer) -> None:
        server = await start_server(streaming_chat_enabled=False)
        async with http(server.url) as client:
            for path in (SSE + "chat", "/v1/chat/completions"):
                reply = await client.post(path, json=question())
                assert (reply.status_code, reply.json()["error"]["code"]) == (404, "chat_disabled")
            assert (await client.get("/v1/models")).status_code == 404
        async with websocket(server.url) as socket:
            await socket.start("r-1")
            assert (await socket.receive())["data"]["error"]["code"] == "chat_disabled"

    async def test_websockets_are_404_and_say_where_else(self, start_server: StartServer) -> None:
        server = await start_server(websocket_enabled=False)
        async with raw(server.url) as tcp:
            assert (await tcp.upgrade()).startswith("HTTP/1.1 404 ")
            assert b'"code":"websocket_disabled"' in await tcp.until(b"}}")
