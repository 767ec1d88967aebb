"""The gateway upstream against a fake upstream on a real socket: what arrives, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from streaming_api.upstreams import gateway as gateway_module
from streaming_api.upstreams import http1
from streaming_api.upstreams.answer import AnswerReader
from streaming_api.upstreams.connect import unreachable
from streaming_api.upstreams.endpoint import Endpoint
from streaming_api.upstreams.exchange import Exchange
from streaming_api.upstreams.gateway import ExchangeResult, OpenAIClient, UpstreamError
from streaming_api.upstreams.reply_errors import UpstreamFault
from tests.certificates import server_tls
from tests.fakes.script import Writer
from tests.fakes.upstream import BEFORE_HEADERS, FakeUpstream, Gate, Script

PATIENCE = 10.0
AT_ONCE = 1.0  # seconds within which the upstream has to see that nobody reads any more
USAGE: dict[str, object] = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@pytest.fixture
async def gateway(upstream: FakeUpstream) -> AsyncIterator[OpenAIClient]:
    """Ask the upstream; at the end nothing may be connected any more."""
    asked = OpenAIClient(upstream.url)
    yield asked
    await upstream.until(lambda: upstream.connections == 0)
    await asked.close()


@attrs.define
class Answer:
    """What one exchange brought."""

    reads: list[list[bytes]] = attrs.field(factory=list)
    ending: ExchangeResult = attrs.field(init=False)

    @property
    def chunks(self) -> list[bytes]:
        """Every chunk in order."""
        return [chunk for read in self.reads for chunk in read]

    @property
    def text(self) -> str:
        """The text of the first choice, of chunks or of the whole answer."""
        choices = [json.loads(chunk)["choices"] for chunk in self.chunks]
        parts = [c.get("delta") or c.get("message") or {} for cs in choices for c in cs[:1]]
        return "".join(part.get("content") or "" for part in parts)

    @property
    def error(self) -> UpstreamFault:
        """The error that there must be."""
        assert self.ending.error is not None
        return self.ending.error


def request(model: str = "plain", *, stream: bool = True) -> bytes:
    """Return a chat request as the caller of the gateway prepares it."""
    fields: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": stream,
    }
    if stream:
        fields["stream_options"] = {"include_usage": True}
    return json.dumps(fields).encode()


async def ask(
    gateway: OpenAIClient, model: str = "plain", *, stream: bool = True, usage_asked: bool = True
) -> Answer:
    """Run one exchange to its end."""
    answer = Answer()
    exchange = gateway.exchange(
        request(model, stream=stream), answer.reads.append, stream=stream, usage_asked=usage_asked
    )
    async with asyncio.timeout(PATIENCE):
        answer.ending = (await exchange.run()).result
    return answer


@contextlib.asynccontextmanager
async def running(exchange: Exchange[AnswerReader]) -> AsyncIterator[asyncio.Task[AnswerReader]]:
    """Run an exchange beside the test, and cancel it at the end."""
    task = asyncio.create_task(exchange.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestAnAnswer:
    """What arrives of a good answer."""

    async def test_an_answer_arrives_whole_once_and_in_order(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Every token, the upstream's finish reason and usage, from one generation."""
        upstream.scripts["plain"] = Script(tokens=500)
        answer = await ask(gateway)
        assert answer.text == Script(tokens=500).text()
        usage = USAGE | {"completion_tokens": 500, "total_tokens": 507}
        assert answer.ending == ExchangeResult("stop", usage, None, 500, done=True)
        assert len(upstream.generations) == 1

    async def test_an_answer_is_the_upstreams_bytes_unchanged(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """No field is added, dropped or written anew."""
        odd = b'{ "choices" : [{"index":0,"delta":{"content":"\\u00e4"},"x":1.50}],"new":[ ] }'
        upstream.scripts["plain"] = Script(wire=OK + b"\r\ndata: " + odd + b"\n\ndata: [DONE]\n\n")
        assert (await ask(gateway)).chunks == [odd]

    @pytest.mark.parametrize(
        "script",
        [
            Script(split=1),
            Script(newline=b"\r\n"),
            Script(newline=b"\r\n", split=1),
            Script(newline=b"\r", comments=True),
            Script(newline=b"\r", comments=True, split=1),
            Script(multiline=True),
            Script(multiline=True, newline=b"\r\n", split=1, named=True),
            Script(spaced=False, mark=True, split=2),
            Script(chunked=False),
            Script(chunked=False, split=3, comments=True),
            Script(tokens=("a\u2028b", "c\x85d", "e\x0bf", "g\x1dh", "🙂"), split=1),
            *(
                Script(seed=seed, newline=b"\r\n", tokens=("ä", "🙂\u2028") * 9)
                for seed in range(8)
            ),
        ],
        ids=repr,
    )
    async def test_an_answer_is_the_same_however_it_is_written_and_cut(
        self, upstream: FakeUpstream, gateway: OpenAIClient, script: Script
    ) -> None:
        """Channel ends, comments, several data lines, and reads that end anywhere."""
        upstream.scripts["plain"] = script
        answer = await ask(gateway)
        assert answer.text == script.text()
        assert answer.ending.error is None
        assert answer.ending.finish_reason == "stop"
        assert not any(b"\n" in chunk or b"\r" in chunk for chunk in answer.chunks)

    async def test_an_answer_of_ten_megabytes_in_one_line_arrives(
        self, gateway: OpenAIClient
    ) -> None:
        """It is below the bound, so it is only a long token."""
        answer = await ask(gateway, "huge-line")
        assert answer.text == "x" * 10_000_000
        assert answer.ending.finish_reason == "stop"

    async def test_an_answer_is_pushed_once_a_read(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """What the kernel hands over together goes on together."""
        event = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        wire = OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20
        upstream.scripts["plain"] = Script(wire=wire)
        answer = Answer()
        arrived = asyncio.Event()

        def note(chunks: list[bytes]) -> None:
            answer.reads.append(chunks)
            arrived.set()

        async with running(gateway.exchange(request(), note, stream=True)):
            await asyncio.wait_for(arrived.wait(), PATIENCE)
            assert [len(read) for read in answer.reads] == [20]

    async def test_an_answer_arrives_token_by_token(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Each is there before the next one is made."""
        gate = upstream.gated(Script(role=False), model="plain")
        arrivals: asyncio.Queue[list[bytes]] = asyncio.Queue()
        async with running(gateway.exchange(request(), arrivals.put_nowait, stream=True)) as task:
            for number in range(10):
                gate.release()
                chunks = await asyncio.wait_for(arrivals.get(), PATIENCE)
                assert Answer([chunks[:1]]).text == f"t{number} "
            assert (await task).finish_reason == "stop"

    async def test_an_answer_may_hold_reasoning_tool_calls_and_several_choices(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Each counts as content; the finish reason is the upstream's own."""
        reasoning = await ask(gateway, "reasoning")
        assert reasoning.ending.content_chunks == 13
        tools = await ask(gateway, "tool-calls")
        assert (tools.ending.finish_reason, tools.ending.content_chunks) == ("tool_calls", 3)
        choices = await ask(gateway, "two-choices")
        assert (choices.ending.finish_reason, choices.ending.content_chunks) == ("stop", 20)
        assert len(upstream.generations) == 3

    async def test_an_answer_holds_no_chunk_of_usage_that_was_not_asked_for(
        self, gateway: OpenAIClient
    ) -> None:
        """It is noted for the ending, and withheld."""
        asked = await ask(gateway)
        not_asked = await ask(gateway, usage_asked=False)
        assert len(not_asked.chunks) == len(asked.chunks) - 1
        assert not any(b'"usage"' in chunk for chunk in not_asked.chunks)
        assert not_asked.ending == asked.ending

    async def test_an_answer_ends_at_done_whatever_comes_after(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Neither text nor nonsense after the end is part of the answer."""
        upstream.scripts["plain"] = Script(chunked=False, after=b"data: nonsense\n\n\xff\xff\n\n")
        answer = await ask(gateway)
        assert answer.ending.error is None
        assert answer.text == Script().text()

    async def test_an_answer_goes_on_after_a_finish_reason_where_content_does(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """The reason was no end, so what cannot be read after that is a fault of the answer's."""
        late = b'data: {"choices":[{"index":0,"delta":{"content":"late"}}]}\n\ndata: {"half\n\n'
        upstream.scripts["plain"] = Script(chunked=False, done=False, after=late)
        answer = await ask(gateway)
        assert answer.text == Script().text() + "late"
        assert answer.error.code == "upstream_invalid_response"
        assert answer.ending.finish_reason is None
        assert answer.ending.usage is not None

    async def test_an_answer_does_not_wait_for_an_upstream_that_never_closes(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """The ending comes with `[DONE]`; the connection is closed soon after."""
        wire = OK + b"\r\ndata: [DONE]\n\n"
        upstream.scripts["plain"] = Script(wire=wire)
        assert (await ask(gateway)).ending == ExchangeResult(None, None, None, 0, done=True)
        await (await upstream.generation()).wait_closed(AT_ONCE)

    async def test_an_answer_is_not_cut_short_for_the_upstream(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An upstream that ends its body a little after `[DONE]` sees no early close."""
        monkeypatch.setattr(http1, "LINGER", 60.0)
        has_ended = asyncio.Event()
        was_left_early: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(request()))
            writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\ne\r\ndata: [DONE]\n\n")
            await has_ended.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            left_early = reader.at_eof() or reader.exception() is not None
            writer.write(b"\r\n0\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await reader.read()
                writer.close()
                await writer.wait_closed()
            was_left_early.set_result(left_early)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            await ask(OpenAIClient(f"http://127.0.0.1:{port}"))
            has_ended.set()
            assert not await asyncio.wait_for(was_left_early, PATIENCE)


class TestAnHonestEnding:
    """How a bad end is reported."""

    @pytest.mark.parametrize(
        ("model", "finish_reason", "code", "tokens"),
        [
            ("no-done", "stop", None, 10),
            ("no-finish-reason", None, None, 10),
            ("stops-without-end", None, None, 10),
            ("cut-end", None, None, 3),
            ("cut-fin", None, "upstream_disconnected", 3),
            ("cut-rst", None, "upstream_disconnected", 3),
        ],
    )
    async def test_a_stop_without_finish_reason_is_never_a_finish(
        self,
        gateway: OpenAIClient,
        model: str,
        finish_reason: str | None,
        code: str | None,
        tokens: int,
    ) -> None:
        """And a cut in the middle of a message is an error."""
        answer = await ask(gateway, model)
        assert answer.ending.finish_reason == finish_reason
        error = answer.ending.error
        assert (error and error.code) == code
        assert answer.text == "".join(f"t{number} " for number in range(tokens))
        assert answer.ending.content_chunks == tokens

    async def test_an_end_of_file_that_ends_the_body_is_no_error(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Without length and chunks, the end of the connection is the end of the body."""
        upstream.scripts["plain"] = Script(chunked=False, finish_reason=None, done=False)
        assert (await ask(gateway)).ending == ExchangeResult(None, USAGE, None, 10)

    async def test_a_reset_is_an_error_also_where_the_end_of_file_would_not_be(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """A broken connection ends no body in good order."""
        upstream.scripts["plain"] = Script(chunked=False, cut_after=3, cut="rst")
        assert (await ask(gateway)).error.code == "upstream_disconnected"

    async def test_a_cut_after_the_finish_reason_is_no_error(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Everything was said, only `[DONE]` is missing."""
        finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
        upstream.scripts["plain"] = Script(wire=OK + b"Content-Length: 999\r\n\r\n" + finish)
        arrived = asyncio.Event()
        exchange = gateway.exchange(request(), lambda _: arrived.set(), stream=True)
        async with running(exchange) as task:
            await asyncio.wait_for(arrived.wait(), PATIENCE)
            await upstream.stop()
            assert (await task).result == ExchangeResult("length", None, None, 0)

    async def test_two_choices_of_which_one_was_cut_are_not_finished(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """A finish reason stands for the whole answer or for none of it."""
        events = (
            b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
            b'data: {"choices":[{"index":1,"delta":{"content":"b"}}]}\n\n'
            b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        )
        upstream.scripts["plain"] = Script(body=events, content_type="text/event-stream")
        answer = await ask(gateway)
        assert answer.ending.finish_reason is None

    async def test_an_error_in_the_stream_is_reported_in_its_own_words(
        self, gateway: OpenAIClient
    ) -> None:
        """After the tokens that came before it."""
        answer = await ask(gateway, "error-midway")
        assert answer.text == "t0 t1 t2 "
        assert (answer.error.code, answer.error.message) == ("oom", "Out of memory.")

    @pytest.mark.parametrize(
        ("event", "code", "message"),
        [
            (b'event: error\ndata: {"message":"boom","code":500}', "500", "boom"),
            (b"event: error\ndata: out of luck", "upstream_error_event", "out of luck"),
            (b'data: {"error":"just words"}', None, "just words"),
            (b'data: {"error":{"message":"m","type":"t","param":"p","code":null}}', None, "m"),
            (b'data: {"object":"error","message":"old","code":40303}', "40303", "old"),
        ],
    )
    async def test_an_error_event_of_any_shape_is_an_error(
        self,
        upstream: FakeUpstream,
        gateway: OpenAIClient,
        event: bytes,
        code: str | None,
        message: str,
    ) -> None:
        """OpenAI's, Ollama's, vLLM's, and plain words."""
        upstream.scripts["plain"] = Script(wire=OK + b"\r\n" + event + b"\n\n")
        answer = await ask(gateway)
        assert (answer.error.code, answer.error.message) == (code, message)

    @pytest.mark.parametrize(
        ("model", "status", "code", "words"),
        [
            ("error-500", 500, "crashed", "The model crashed."),
            ("unauthorized", 401, "invalid_api_key", "Incorrect API key provided."),
            ("rate-limited", 429, "rate_limit_exceeded", "Slow down."),
            ("html-502", 502, "upstream_http_error", "502 Bad Gateway with an HTML page"),
            ("redirect", None, "upstream_redirect", "points to http://example.invalid/v1."),
            ("wrong-type", None, "upstream_invalid_response", "'text/html'"),
        ],
    )
    @pytest.mark.parametrize("stream", [True, False])
    async def test_a_refusal_keeps_the_upstreams_status_and_words(
        self,
        gateway: OpenAIClient,
        model: str,
        status: int | None,
        code: str,
        words: str,
        *,
        stream: bool,
    ) -> None:
        """Whether JSON or a page, asked for as a stream or not."""
        answer = await ask(gateway, model, stream=stream)
        assert answer.chunks == []
        assert answer.error.code == code
        assert words in answer.error.message
        if status is not None:
            assert answer.error.status == status

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b'{"error": "model not found"}', "model not found"),
            (b'{"detail": "Not Found"}', "Not Found"),
            (b'{"detail": [{"loc": ["body", "n"], "msg": "too big"}]}', "body.n: too big"),
            (b'{"message": "nope"}', "nope"),
            (b"<style>x{}</style><p>It &amp; that <b>broke</b>", "Its text: It & that broke"),
            (b"\x1b[31mno\0 luck\xff", "text instead of a JSON error. Its text: [31mno luck"),
            (b"x" * 1000, "x" * 300 + "…"),
            (b"", "said nothing more"),
            (b"[1]", "Its text: [1]"),
        ],
    )
    async def test_a_refusal_of_any_shape_is_readable(
        self, upstream: FakeUpstream, gateway: OpenAIClient, body: bytes, message: str
    ) -> None:
        """Of a page, the text; of long text, the beginning; nothing that a terminal obeys."""
        upstream.scripts["plain"] = Script(status=503, body=body)
        answer = await ask(gateway)
        assert message in answer.error.message
        assert answer.error.message.isprintable()

    @pytest.mark.parametrize(
        ("wire", "code"),
        [
            (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "upstream_headers_too_large"),
            (b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 9_000, "upstream_headers_too_large"),
            (OK + b"X-A: b\r\n" * 9_000 + b"\r\ndata: [DONE]\n\n", "upstream_headers_too_large"),
            (b"HTTP/1.1 103 Hi\r\n\r\n" * 5_000, "upstream_headers_too_large"),
            (OK + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 70_000, None),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "upstream_invalid_response"),
            (b"HTTP/2 200\r\n\r\n", "upstream_invalid_response"),
            (b"HTTP/1.1 101 Sw\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", None),
            (OK + b"Content-Encoding: br\r\n\r\n\x1f\x8b", "upstream_invalid_response"),
            (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "upstream_invalid_response"),
            (OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", None),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "upstream_invalid_response"),
            (b"HTTP/1.1 200 OK\r\n\r\nhello", "upstream_invalid_response"),
            (b"HTTP/1.1 204 No\r\n\r\n", "upstream_invalid_response"),
        ],
        ids=range(14),
    )
    async def test_what_is_not_an_answer_over_http_is_refused(
        self, upstream: FakeUpstream, gateway: OpenAIClient, wire: bytes, code: str | None
    ) -> None:
        """Bombs, other protocols, compression: an error, and the connection is closed at once."""
        upstream.scripts["plain"] = Script(wire=wire)
        answer = await ask(gateway)
        assert answer.chunks == []
        assert answer.error.code in ([code] if code else INVALID)
        await (await upstream.generation()).wait_closed(AT_ONCE)

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"choices":[{"index":0,"delta":{"content":"x}}]}',
            b'{ "choices":[{"index":0,"delta":{"content":\'x\'}}]}',
            b'{"a":' * 100_000,
        ],
        ids=range(3),
    )
    async def test_what_cannot_be_read_ends_the_answer(
        self,
        upstream: FakeUpstream,
        gateway: OpenAIClient,
        payload: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It is never passed on, what came before it is, and the connection is closed at once."""
        monkeypatch.setattr(http1, "LINGER", 60.0)
        good = b'{"choices":[{"index":0,"delta":{"content":"x"}}]}'
        events = b"data: " + good + b"\n\ndata: " + payload + b"\n\ndata: " + good + b"\n\n"
        upstream.scripts["plain"] = Script(wire=OK + b"\r\n" + events)
        answer = await ask(gateway)
        assert answer.chunks == [good]
        assert answer.error.code == "upstream_invalid_response"
        await (await upstream.generation()).wait_closed(AT_ONCE)

    async def test_an_event_above_the_bound_ends_the_answer(self, upstream: FakeUpstream) -> None:
        """So does a whole answer above it; neither is held in memory."""
        gateway = OpenAIClient(upstream.url, max_event_bytes=100_000)
        upstream.scripts["plain"] = Script(tokens=("a", "x" * 200_000))
        streamed, whole = await ask(gateway), await ask(gateway, stream=False)
        assert streamed.text == "a"
        assert streamed.error.code == whole.error.code == "upstream_event_too_large"

    async def test_one_json_reply_to_a_request_for_a_stream_is_not_an_answer(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """But an error in it is read."""
        upstream.scripts["plain"] = Script(body=b'{"error":{"message":"no","code":"c"}}')
        assert (await ask(gateway)).error.code == "c"
        upstream.scripts["plain"] = Script(body=b'{"choices":[]}')
        assert (await ask(gateway)).error.code == "upstream_invalid_response"

    async def test_interim_responses_are_skipped(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """RFC 9110, 15.2: any number of 1xx may come first."""
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        event = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\ndata: [DONE]\n\n'
        upstream.scripts["plain"] = Script(wire=interim + OK + b"\r\n" + event)
        answer = await ask(gateway)
        assert answer.text == "x"
        assert answer.ending.error is None


INVALID = ["upstream_invalid_response", "upstream_headers_too_large"]


class TestAnAnswerThatIsNotStreamed:
    """`stream=False`."""

    async def test_a_whole_answer_arrives_as_one_line(self, gateway: OpenAIClient) -> None:
        """The whole `chat.completion`, once; line ends of pretty-printing are spaces."""
        answer = await ask(gateway, stream=False)
        assert [len(read) for read in answer.reads] == [1]
        assert b"\n" not in answer.chunks[0]
        assert answer.text == Script().text()
        assert answer.ending == ExchangeResult("stop", USAGE, None, 1, done=True)

    async def test_a_whole_answer_ends_where_its_length_says(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """A second response on the connection, which nobody asked for, is not part of it."""
        body = b'{"choices":[]}'
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        upstream.scripts["plain"] = Script(wire=(head % len(body) + body) * 2)
        assert (await ask(gateway, stream=False)).chunks == [body]

    async def test_a_whole_answer_that_is_cut_is_an_error(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Half an object is nothing."""
        upstream.scripts["plain"] = Script(cut_after=1)
        answer = await ask(gateway, stream=False)
        assert (answer.chunks, answer.error.code) == ([], "upstream_disconnected")

    @pytest.mark.parametrize("body", [b"nonsense", b"[]", b"{}", b'{"choices":1}', b"", b"\xff"])
    async def test_a_whole_answer_that_is_no_completion_is_an_error(
        self, upstream: FakeUpstream, gateway: OpenAIClient, body: bytes
    ) -> None:
        """JSON of another shape, too."""
        upstream.scripts["plain"] = Script(body=body)
        answer = await ask(gateway, stream=False)
        assert (answer.chunks, answer.error.code) == ([], "upstream_invalid_response")


class TestTime:
    """Silence, and who is to blame for it."""

    @pytest.mark.parametrize(
        ("script", "tokens"),
        [
            (Script(hang_after=BEFORE_HEADERS), 0),
            (Script(hang_after=0, role=False), 0),
            (Script(hang_after=3), 3),
            (Script(wire=b"HTTP/1.1 200 OK\r\nContent-Ty"), 0),
        ],
    )
    @pytest.mark.parametrize("stream", [True, False])
    async def test_an_upstream_that_falls_silent_times_out(
        self, upstream: FakeUpstream, script: Script, tokens: int, *, stream: bool
    ) -> None:
        """Before the headers, before the first token, midway."""
        gateway = OpenAIClient(upstream.url, silence_timeout=0.3)
        upstream.scripts["plain"] = (
            script if stream or script.wire else Script(hang_after=BEFORE_HEADERS)
        )
        answer = await ask(gateway, stream=stream)
        assert answer.error.code == "upstream_timeout"
        assert "0.3 seconds" in answer.error.message
        if stream:
            assert answer.text == "".join(f"t{number} " for number in range(tokens))
        await (await upstream.generation()).wait_closed(AT_ONCE)

    async def test_a_refusal_whose_body_never_ends_is_still_that_refusal(
        self, upstream: FakeUpstream
    ) -> None:
        """The status says more than the silence."""
        gateway = OpenAIClient(upstream.url, silence_timeout=0.3)
        upstream.scripts["plain"] = Script(
            wire=b"HTTP/1.1 500 X\r\nContent-Length: 99\r\n\r\nhalf a word"
        )
        answer = await ask(gateway)
        assert answer.error.code == "upstream_http_error"
        assert "half a word" in answer.error.message

    async def test_a_refusal_without_end_is_read_no_further_than_its_bound(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """The beginning of it says enough."""
        upstream.scripts["plain"] = Script(
            wire=b"HTTP/1.1 500 X\r\nContent-Length: 999999999\r\n\r\n" + b"no " * 30_000
        )
        assert "Its text: no no no" in (await ask(gateway)).error.message

    async def test_comments_are_heartbeats(self, upstream: FakeUpstream) -> None:
        """Pings of a long prefill keep an answer alive for longer than the timeout."""
        gateway = OpenAIClient(upstream.url, silence_timeout=1.0)
        upstream.scripts["plain"] = Script(tokens=("",) * 15, rate=10, comments=True, spaced=False)
        started = asyncio.get_running_loop().time()
        answer = await ask(gateway)
        assert asyncio.get_running_loop().time() - started > 1.0
        assert answer.ending.error is None

    async def test_a_pause_of_ours_is_not_the_upstreams_silence(
        self, upstream: FakeUpstream
    ) -> None:
        """While reading is paused the clock stands still; afterwards it runs anew."""
        gateway = OpenAIClient(upstream.url, silence_timeout=0.5)
        gate = Gate()
        gate.release()
        upstream.scripts["plain"] = Script(gate=gate)
        answer = Answer()
        loop = asyncio.get_running_loop()

        def go_on() -> None:
            gate.open()
            exchange.resume_reading()

        def pause(chunks: list[bytes]) -> None:
            answer.reads.append(chunks)
            if answer.text == "t0 ":
                exchange.pause_reading()
                loop.call_later(1.2, go_on)

        exchange = gateway.exchange(request(), pause, stream=True)
        async with asyncio.timeout(PATIENCE):
            ending = await exchange.run()
        assert ending.error is None
        assert answer.text == Script().text()

    async def test_silence_after_a_pause_counts(self, upstream: FakeUpstream) -> None:
        """The clock runs anew from the end of the pause, also one that was there from the start."""
        gateway = OpenAIClient(upstream.url, silence_timeout=0.3)
        upstream.scripts["plain"] = Script(hang_after=3)
        exchange = gateway.exchange(request(), lambda _: None, stream=True)
        exchange.pause_reading()
        asyncio.get_running_loop().call_later(0.6, exchange.resume_reading)
        async with asyncio.timeout(PATIENCE):
            ending = await exchange.run()
        assert ending.error is not None
        assert (ending.error.code, ending.content_chunks) == ("upstream_timeout", 3)

    async def test_a_pause_before_the_start_holds_from_the_first_byte(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Nothing arrives until reading is resumed, and then everything."""
        answer = Answer()
        exchange = gateway.exchange(request(), answer.reads.append, stream=True)
        exchange.pause_reading()
        async with running(exchange) as task:
            generation = await upstream.generation()
            await upstream.until(lambda: generation.finished_at is not None)
            for _ in range(20):
                await asyncio.sleep(0)
            assert answer.reads == []
            exchange.resume_reading()
            await asyncio.wait_for(task, PATIENCE)
        assert answer.text == Script().text()

    async def test_pausing_makes_the_upstream_wait(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Real backpressure: the upstream's socket is full, and it goes on when we do."""
        upstream.scripts["plain"] = Script(endless=True)
        arrived = asyncio.Event()

        def pause(_: list[bytes]) -> None:
            arrived.set()
            exchange.pause_reading()

        exchange = gateway.exchange(request(), pause, stream=True)
        async with running(exchange):
            generation = await upstream.generation()
            for _ in range(3):
                await asyncio.wait_for(arrived.wait(), PATIENCE)
                await upstream.until(lambda: generation.is_blocked)
                arrived.clear()
                exchange.resume_reading()


class TestLeaving:
    """Cancelling closes the upstream's connection at once."""

    @pytest.mark.parametrize(
        "script",
        [
            Script(hang_after=BEFORE_HEADERS),
            Script(hang_after=0, role=False),
            Script(hang_after=3),
            Script(endless=True, rate=100),
            Script(endless=True),
        ],
        ids=["before headers", "before the first token", "midway", "streaming", "flat out"],
    )
    @pytest.mark.parametrize("paused", [False, True])
    async def test_leaving_closes_the_upstreams_connection_within_a_second(
        self, upstream: FakeUpstream, gateway: OpenAIClient, script: Script, *, paused: bool
    ) -> None:
        """Wherever the answer stands, also while reading is paused."""
        upstream.scripts["plain"] = script
        exchange = gateway.exchange(request(), lambda _: None, stream=True)
        task = asyncio.create_task(exchange.run())
        generation = await upstream.generation()
        if script.hang_after is None:
            await upstream.until(lambda: generation.sent > 2)
        if paused:
            exchange.pause_reading()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await generation.wait_closed(AT_ONCE)
        assert generation.was_abandoned
        assert upstream.running == 0

    async def test_leaving_while_connecting_leaves_no_socket(self) -> None:
        """A connection that the peer never accepts leaves no socket behind."""
        before = open_sockets()
        with full_port() as port:
            gateway = OpenAIClient(f"http://127.0.0.1:{port}")
            task = asyncio.create_task(
                gateway.exchange(request(), lambda _: None, stream=True).run()
            )
            for _ in range(20):
                await asyncio.sleep(0)
            during = open_sockets()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            assert open_sockets() < during
        assert open_sockets() <= before

    async def test_a_callback_that_fails_closes_the_connection_and_is_heard(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """A fault of ours is not blamed on the upstream."""
        upstream.scripts["plain"] = Script(endless=True, rate=100)

        def fail(chunks: list[bytes]) -> None:
            raise LookupError(len(chunks))

        with pytest.raises(LookupError):
            await asyncio.wait_for(gateway.exchange(request(), fail, stream=True).run(), PATIENCE)
        await (await upstream.generation()).wait_closed(AT_ONCE)

    async def test_closing_the_gateway_ends_what_runs(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """With an error that says why, and no connection left."""
        upstream.scripts["plain"] = Script(hang_after=3)
        async with running(gateway.exchange(request(), lambda _: None, stream=True)) as task:
            generation = await upstream.generation()
            await upstream.until(lambda: generation.sent == 3)
            await gateway.close()
            ending = await asyncio.wait_for(task, PATIENCE)
            assert ending.error is not None
            assert "shutting down" in ending.error.message
            await generation.wait_closed(AT_ONCE)

    async def test_no_task_and_no_socket_stays_behind(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """After many answers of many kinds, everything is as it was."""
        kinds = ["plain", "cut-rst", "cut-fin", "error-500", "wrong-type", "one-byte", "no-done"]
        await asyncio.gather(*(ask(gateway, kind) for kind in kinds))
        await upstream.until(lambda: upstream.connections == 0)
        tasks, sockets = len(asyncio.all_tasks()), open_sockets()
        for _ in range(10):
            await asyncio.gather(*(ask(gateway, kind) for kind in kinds))
        await upstream.until(lambda: upstream.connections == 0)
        assert (len(asyncio.all_tasks()), open_sockets()) == (tasks, sockets)


def packed(data: bytes, wbits: int) -> bytes:
    """The data as zlib compresses it."""
    compressor = zlib.compressobj(wbits=wbits)
    return compressor.compress(data) + compressor.flush()


def reply(
    body: bytes, status: str = "200 OK", kind: str = "application/json", **more: str
) -> bytes:
    """A whole HTTP reply; of the names of headers, `_` is `-`."""
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in more.items())
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{extra}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body


def stream_of(tokens: int) -> bytes:
    """An answer as an event stream."""
    script = Writer(Script(), "m")
    texts = [script.token(f"word{number} ") for number in range(tokens)]
    return b"".join([*script.opening(), *texts, *script.closing(usage=True, tokens=tokens)])


class TestACompressedReply:
    """Asked for or not, it is inflated, and never beyond a bound."""

    @pytest.mark.parametrize(
        ("encoding", "wbits"), [("gzip", 31), ("X-GZIP", 31), ("deflate", 15), ("deflate", -15)]
    )
    async def test_a_compressed_reply_is_read_whatever_it_is(
        self, upstream: FakeUpstream, gateway: OpenAIClient, encoding: str, wbits: int
    ) -> None:
        """An error's words, a whole answer, a stream."""
        error = packed(b'{"error":{"message":"No such engine"}}', wbits)
        whole = packed(Writer(Script(tokens=2), "m").completion(), wbits)
        stream = packed(stream_of(5), wbits)
        named = {"Content_Encoding": encoding}
        upstream.scripts["e"] = Script(wire=reply(error, "400 Bad Request", **named))
        upstream.scripts["w"] = Script(wire=reply(whole, **named))
        upstream.scripts["s"] = Script(wire=reply(stream, kind="text/event-stream", **named))
        assert (await ask(gateway, "e")).error.message == "No such engine"
        assert (await ask(gateway, "w", stream=False)).text == Script(tokens=2).text()
        answer = await ask(gateway, "s")
        assert answer.text == "word0 word1 word2 word3 word4 "
        assert answer.ending.error is None

    @pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
    async def test_a_compressed_reply_that_is_a_bomb_is_not_inflated(
        self, upstream: FakeUpstream, kind: str
    ) -> None:
        """One MB of zeros is a kB on the wire."""
        bomb = reply(packed(bytes(2**20), 31), kind=kind, Content_Encoding="gzip")
        upstream.scripts["plain"] = Script(wire=bomb)
        gateway = OpenAIClient(upstream.url, max_event_bytes=100_000)
        answer = await ask(gateway, stream=kind != "application/json")
        assert answer.error.code == "upstream_event_too_large"

    async def test_a_reply_that_is_not_compressed_as_it_says_is_an_honest_error(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """A refusal's status and words are there all the same."""
        upstream.scripts["e"] = Script(wire=reply(b"nonsense", "429 Slow", Content_Encoding="gzip"))
        upstream.scripts["w"] = Script(wire=reply(b"nonsense", Content_Encoding="gzip"))
        answer = await ask(gateway, "e")
        assert answer.error.status == 429
        assert "nonsense" in answer.error.message
        assert (await ask(gateway, "w", stream=False)).error.code == "upstream_invalid_response"

    @pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br"])
    async def test_a_compression_that_is_not_known_is_named(
        self, upstream: FakeUpstream, gateway: OpenAIClient, coding: str
    ) -> None:
        """Its bytes are nothing that anybody can read."""
        wire = reply(b"\x8b\x03\x80", "503 Busy", Content_Encoding=coding, Retry_After="7")
        upstream.scripts["plain"] = Script(wire=wire)
        answer = await ask(gateway)
        assert answer.error.status == 503
        assert answer.error.retry_after == 7
        assert f"compressed as {coding}" in answer.error.message

    async def test_a_reply_is_inflated_among_codings_that_are_none(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """RFC 9110 allows a list, and empty members in it."""
        body = packed(b'{"error":{"message":"No such engine"}}', 31)
        wire = reply(body, "400 Bad Request", Content_Encoding="identity, , GZIP")
        upstream.scripts["plain"] = Script(wire=wire)
        assert (await ask(gateway)).error.message == "No such engine"


class TestARefusal:
    """What an upstream says beside its words."""

    @pytest.mark.parametrize(
        ("header", "said", "seconds"),
        [
            ("Retry_After", "7", 7),
            ("Retry_After", "1.5", 2),
            ("Retry_After", "Wed, 21 Oct 2015 07:28:30 GMT", 30),
            ("Retry_After", "Wednesday, 21-Oct-15 07:28:30 GMT", 30),
            ("Retry_After", "Wed, 21 Oct 2015 07:00:00 GMT", 0),
            ("Retry_After", "Wed, 21 Oct 2099 07:00:00 GMT", None),
            ("retry_after_ms", "1500", 2),
            ("retry_after_ms", "20.5", 1),
            ("retry_after_ms", "0", 0),
            *((name, said, None) for name in ("Retry_After", "retry_after_ms")
              for said in ("soon", "-1", "9" * 400)),
        ],
    )  # fmt: skip
    async def test_a_refusal_says_when_to_try_again(
        self, upstream: FakeUpstream, gateway: OpenAIClient, header: str, said: str,
        seconds: int | None,
    ) -> None:  # fmt: skip
        """In seconds, by a date of the upstream's own clock, or in OpenAI's milliseconds."""
        headers = {"Date": "Wed, 21 Oct 2015 07:28:00 GMT", header: said}
        upstream.scripts["plain"] = Script(wire=reply(b"{}", "429 Slow", **headers))
        assert (await ask(gateway)).error.retry_after == seconds


class TestConnecting:
    """Requests as the upstream sees them, and upstreams that are not there."""

    @pytest.mark.parametrize(
        ("base", "path"),
        [
            ("", "/v1/chat/completions"),
            ("/", "/v1/chat/completions"),
            ("/v1", "/v1/chat/completions"),
            ("/v1/", "/v1/chat/completions"),
            ("/open/ai", "/open/ai/chat/completions"),
            ("/v1beta/openai", "/v1beta/openai/chat/completions"),
            ("/api/paas/v4/", "/api/paas/v4/chat/completions"),
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/v1/chat/completions/", "/v1/chat/completions"),
            ("/chat/completions", "/chat/completions"),
            ("/openai/v1/models", "/openai/v1/chat/completions"),
            ("/v1/responses", "/v1/chat/completions"),
            ("/v1/embeddings/", "/v1/chat/completions"),
            ("/v1/messages?beta=true", "/v1/chat/completions?beta=true"),
            ("?api-version=3", "/v1/chat/completions?api-version=3"),
            ("/dep?api-version=3", "/dep/chat/completions?api-version=3"),
            ("/open/ai/v1?api-version=3", "/open/ai/v1/chat/completions?api-version=3"),
        ],
    )
    async def test_the_path_of_the_address_is_kept(
        self, upstream: FakeUpstream, base: str, path: str
    ) -> None:
        """As OpenAI's clients take it; a bare host gets `/v1`, a pasted call is understood."""
        await ask(OpenAIClient(upstream.url + base))
        assert upstream.requests[0].path == path

    async def test_the_request_is_the_callers_and_asks_for_no_compression(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """The body byte for byte, on a connection that may be used again."""
        await ask(gateway)
        seen = upstream.requests[0]
        assert seen.body == request()
        assert seen.headers["host"] == f"127.0.0.1:{upstream.port}"
        assert seen.headers["accept-encoding"] == "identity"
        assert "connection" not in seen.headers
        assert seen.headers["content-type"] == "application/json"
        assert "authorization" not in seen.headers

    @pytest.mark.parametrize(
        ("settings", "sent"),
        [
            ({"api_key": "ours"}, ["Bearer ours", "Bearer ours"]),
            ({"api_key": "ours", "forward_authorization": True}, ["Bearer ours", "Bearer theirs"]),
            ({}, [None, "Bearer theirs"]),
        ],
        ids=("configured", "forwarded", "none configured"),
    )
    async def test_the_configured_key_goes_before_the_clients(
        self, upstream: FakeUpstream, settings: Mapping[str, Any], sent: list[str | None]
    ) -> None:
        """An SDK's dummy key must not win; `forward_authorization` turns it round."""
        gateway = OpenAIClient(upstream.url, **settings)
        for authorization in (None, "Bearer theirs"):
            exchange = gateway.exchange(
                request(), lambda _: None, stream=True, authorization=authorization
            )
            await exchange.run()
        assert [each.headers.get("authorization") for each in upstream.requests] == sent

    async def test_a_404_names_the_address_that_was_asked(self, upstream: FakeUpstream) -> None:
        """So that a wrong base address is found; its query may hold a secret."""
        gateway = OpenAIClient(upstream.url + "/wrong?key=secret")
        answer = await ask(gateway)
        assert f"{upstream.url}/wrong/chat/completions" in answer.error.message
        assert "secret" not in answer.error.message
        with pytest.raises(UpstreamError, match="/wrong/models"):
            await gateway.models()

    async def test_a_header_cannot_be_smuggled_in(self, gateway: OpenAIClient) -> None:
        """Channel ends in a credential are refused before anything is sent."""
        with pytest.raises(ValueError, match="control characters"):
            gateway.exchange(b"{}", print, stream=True, authorization="Bearer x\r\nX: y")

    @pytest.mark.parametrize(
        "address",
        ["", "h:8000", "ftp://h", "http://", "http://u:p@h", "http://h:0", "http://h:99999",
         "http://h/a b", "http://h\r\n", "http://[::1", "http://" + "a" * 64 + ".example"],
    )  # fmt: skip
    def test_an_address_that_is_none_is_refused_at_once(self, address: str) -> None:
        """At start-up, not at the first question."""
        with pytest.raises(ValueError, match=r"address|password"):
            OpenAIClient(address)

    async def test_an_upstream_that_is_not_there_is_named_with_what_to_check(self) -> None:
        """The message names the address and what to check."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        gateway = OpenAIClient(f"http://127.0.0.1:{port}")
        answer = await ask(gateway)
        assert answer.error.code == "upstream_unreachable"
        assert f"127.0.0.1:{port}" in answer.error.message
        assert gateway._connections.used == set()
        assert "Check that it runs" in answer.error.message

    def test_a_name_that_does_not_resolve_is_reported_as_such(self) -> None:
        """Looking up a name in a test would be a packet to a name server, so only the words."""
        endpoint = Endpoint.parse("http://gateway.example:8000")
        error = unreachable(endpoint, socket.gaierror(-2, "Name or service not known"), 10)
        assert error.code == "upstream_unreachable"
        assert "gateway.example:8000: its name could not be resolved" in error.message

    async def test_an_upstream_that_accepts_nobody_is_given_up_in_time(self) -> None:
        """A full port times out."""
        with full_port() as port:
            answer = await ask(OpenAIClient(f"http://127.0.0.1:{port}", connect_timeout=0.1))
        assert answer.error.code == "upstream_unreachable"
        assert "within 0.1 s" in answer.error.message

    async def test_tls_is_verified(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A certificate that this machine does not trust is refused; a trusted one works."""
        certificate, context = server_tls(tmp_path)
        async with FakeUpstream(tls=context) as upstream:
            answer = await ask(OpenAIClient(upstream.url))
            assert answer.error.code == "upstream_unreachable"
            assert "certificate" in answer.error.message.lower()
            assert upstream.requests == []
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            upstream.scripts["plain"] = Script(tokens=3_000)
            trusting = OpenAIClient(upstream.url)
            answer = await ask(trusting)
            assert answer.text == Script(tokens=3_000).text()
            upstream.scripts["plain"] = Script(endless=True, rate=100)
            async with running(trusting.exchange(request(), lambda _: None, stream=True)) as task:
                generation = await upstream.generation(1)
                task.cancel()
                await generation.wait_closed(AT_ONCE)

    async def test_plain_http_behind_an_https_address_says_so(self, upstream: FakeUpstream) -> None:
        """TLS that fails is reported as TLS that failed."""
        answer = await ask(OpenAIClient(upstream.url.replace("http:", "https:")))
        assert answer.error.code == "upstream_unreachable"
        assert "TLS" in answer.error.message


class TestModels:
    """`GET /v1/models`."""

    async def test_models_are_the_upstreams_objects_as_they_are(
        self, upstream: FakeUpstream, gateway: OpenAIClient
    ) -> None:
        """Nothing is added to them."""
        reply = await gateway.models("Bearer mine")
        model = {"id": "fake", "object": "model", "created": 1_700_000_000, "owned_by": "fake"}
        assert reply[0] == model
        assert upstream.requests[0].path == "/v1/models"
        assert upstream.requests[0].headers["authorization"] == "Bearer mine"

    async def test_an_error_about_models_is_raised_with_the_upstreams_own_words(self) -> None:
        """Its status is kept."""
        async with FakeUpstream(api_key="secret") as upstream:
            with pytest.raises(UpstreamError, match="Incorrect API key") as raised:
                await OpenAIClient(upstream.url).models()
            assert raised.value.error.status == 401
            assert await OpenAIClient(upstream.url, api_key="secret").models()

    @pytest.mark.parametrize(
        ("reply", "code"),
        [
            (b'{"data":{"id":"x"}}', "upstream_invalid_response"),
            (b'{"data":[1]}', "upstream_invalid_response"),
            (b"nonsense", "upstream_invalid_response"),
            (b'{"error":{"message":"m","code":"c"}}', "c"),
            (b'{"data":[], "x":"' + b"x" * 2**21 + b'"}', "upstream_event_too_large"),
        ],
        ids=range(5),
    )
    async def test_nonsense_instead_of_models_is_an_error(
        self, upstream: FakeUpstream, gateway: OpenAIClient, reply: bytes, code: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Bounded, and never a crash."""
        monkeypatch.setattr(upstream, "_models", lambda: reply)
        with pytest.raises(UpstreamError) as raised:
            await gateway.models()
        assert raised.value.error.code == code

    async def test_an_upstream_that_does_not_list_its_models_times_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A list of models is needed soon or not at all."""
        monkeypatch.setattr(gateway_module, "MODELS_TIMEOUT", 0.1)
        with full_port() as port:
            with pytest.raises(UpstreamError) as raised:
                await OpenAIClient(f"http://127.0.0.1:{port}").models()
            assert raised.value.error.code == "upstream_timeout"


def open_sockets() -> int:
    """Return how many sockets this process has open."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


@contextlib.contextmanager
def full_port() -> Iterator[int]:
    """Listen on a port whose queue is full, so that another connection is never made."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()[1]
