"""Sources over real sockets: a real Prometheus and Alertmanager, and servers that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest
from aiohttp import web

from streaming_api.sources import exposition
from streaming_api.sources.alertmanager import Alertmanager, parse_webhook
from streaming_api.sources.exposition import Exposition, parse
from streaming_api.sources.fetch import MAX_JSON_BYTES, Reply, open_session
from streaming_api.sources.prometheus import (
    AT_ONCE,
    MAX_ALERTS,
    MAX_SAMPLES,
    Prometheus,
    QueryResult,
)
from streaming_api.sources.values import AlertList, Sample, SourceError
from tests.certificates import server_tls
from tests.fakes.prometheus import RealAlertmanager, RealPrometheus, free_port, silence

UNIT = 0.2
"""Seconds; every timeout in these tests is a multiple of it."""

T = TypeVar("T")

PATIENCE = 150 * UNIT


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


async def until(ask: Callable[[], Awaitable[T]], good: Callable[[T], bool]) -> T:
    """Ask again and again until the answer is good; fail with the last one when time is up."""
    deadline = time.monotonic() + PATIENCE
    while not good(answer := await ask()):
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(UNIT / 4)
    return answer


class TestRealPrometheus:
    async def test_queries_and_alerts_of_a_real_prometheus(
        self, session: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        """Good and bad expressions in one round, each with its own result."""
        queries = {
            "up": 'up{job="self"}',
            "bad": "up{",
            "nan": "0/0",
            "infinite": "vector(-1/0)",
            "text": '"<b>hi</b>"',
            "range": "up[1m]",
            "clash": 'label_replace(up, "job", "x", "", "") * on() {__name__=~"up|scrape.*"}',
            "nothing": "no_such_metric",
        }
        async with RealPrometheus(tmp_path) as server:
            prometheus = Prometheus(server.url, session)

            def is_up(answer: dict[str, QueryResult | SourceError]) -> bool:
                up = answer["up"]
                return isinstance(up, QueryResult) and any(s.value == 1 for s in up.samples)

            answer = await until(lambda: prometheus.query(queries), is_up)
            alerts = await until(prometheus.alerts, lambda a: len(a.alerts) == 2)
        assert list(answer) == list(queries)

        up = answer["up"]
        assert isinstance(up, QueryResult)
        assert up.samples[0].name == "up"
        assert up.samples[0].labels == {"instance": f"127.0.0.1:{server.port}", "job": "self"}

        nan, infinite, text = answer["nan"], answer["infinite"], answer["text"]
        assert isinstance(nan, QueryResult)
        assert isinstance(infinite, QueryResult)
        assert isinstance(text, QueryResult)
        assert nan.samples[0].value != nan.samples[0].value
        assert infinite.samples[0].value == -math.inf
        assert text.samples[0].value is None
        assert answer["nothing"] == QueryResult(())

        words = {"bad": "unexpected end of input", "range": "a matrix", "clash": "many-to-many"}
        for name, said in words.items():
            error = answer[name]
            assert isinstance(error, SourceError)
            assert error.code == "query"
            assert said in error.reason

        firing, pending = alerts.alerts
        assert firing.labels == {"alertname": "AlwaysFiring", "severity": "critical"}
        assert firing.annotations == {"summary": "it is on <b>purpose</b>"}
        assert (firing.state, firing.source) == ("firing", "prometheus")
        assert (firing.ends_at, firing.starts_at[-1]) == (None, "Z")
        assert pending.state == "pending"

    async def test_its_exposition_is_scraped(
        self, session: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        async with RealPrometheus(tmp_path) as server:
            samples = await Exposition(server.url, session).fetch()
            asked_for = {"Accept": "application/openmetrics-text;version=1.0.0"}
            same = await Exposition(server.url, session, asked_for).fetch()
        values = {sample.name: sample.value for sample in samples}
        assert values["prometheus_build_info"] == 1
        assert {"go_goroutines", "prometheus_http_request_duration_seconds_bucket"} <= values.keys()
        assert "go_goroutines" in {sample.name for sample in same}

    async def test_alerts_reach_alertmanager_its_webhook_and_us_with_one_fingerprint(
        self, session: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        """Prometheus fires, Alertmanager lists it and calls a webhook; all three agree."""
        received: asyncio.Queue[bytes] = asyncio.Queue()

        async def hook(request: web.Request) -> web.Response:
            received.put_nowait(await request.read())
            return web.Response()

        async with (
            serving(hook) as url,
            RealAlertmanager(tmp_path / "alertmanager", webhook=f"{url}/hook") as manager,
            RealPrometheus(
                tmp_path / "prometheus", alertmanagers=[manager.url.removeprefix("http://")]
            ) as server,
        ):
            client = Alertmanager(manager.url, session)
            listed = await until(client.alerts, lambda answer: bool(answer.alerts))
            async with asyncio.timeout(PATIENCE):
                pushed = parse_webhook(await received.get()).alerts
            asked = await Prometheus(server.url, session).alerts()
        assert [alert.state for alert in listed.alerts] == ["firing"]
        assert [alert.source for alert in listed.alerts] == ["alertmanager"]
        assert listed.alerts[0].ends_at is None
        assert (listed.alerts[0].generator_url or "").startswith("http://")
        assert asked.alerts[0].fingerprint == listed.alerts[0].fingerprint == pushed[0].fingerprint
        assert pushed[0].labels == listed.alerts[0].labels == asked.alerts[0].labels

    async def test_a_silenced_alert_says_so(
        self, session: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        async with RealAlertmanager(tmp_path) as manager:
            for name in ("Silenced", "Loud"):
                posted = [{"labels": {"alertname": name}}]
                async with session.post(f"{manager.url}/api/v2/alerts", json=posted) as response:
                    assert response.ok
            await silence(manager, "Silenced")
            client = Alertmanager(manager.url, session)
            listed = await until(
                client.alerts, lambda answer: any(a.suppressed for a in answer.alerts)
            )
            by_name = {a.labels["alertname"]: a.suppressed for a in listed.alerts}
            assert by_name == {"Silenced": "silenced", "Loud": None}
            assert {a.manager_url for a in listed.alerts} == {manager.url}


@asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve every path with one handler, on loopback; the URL says `http` also with TLS."""
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=UNIT)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def answering(answer: bytes, *, hang: bool = False) -> AsyncIterator[str]:
    """Answer every connection with these bytes, then close it, or keep it open without a word."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hang:
                await asyncio.Event().wait()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        running = list(connections)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def http(
    content: bytes = b"", status: str = "200 OK", kind: str = "application/json", *extra: str
) -> bytes:
    """Return a whole response."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    return "\r\n".join([*head, *extra, "", ""]).encode() + content


PAGE = b"<html><style>p{}</style><h1>Oh\r\n no</h1>\x1b[31m it <b>broke</b></html>"
GONE = "404 Not Found"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVERYTHING = ["prometheus", "alertmanager", "exposition"]


async def fine(_: web.Request) -> web.Response:
    """Answer with a list of nothing."""
    return web.json_response([])


async def queried(shape: object, session: aiohttp.ClientSession) -> QueryResult | SourceError:
    """Ask a Prometheus that answers in this shape for one expression."""
    async with answering(http(json.dumps(shape).encode())) as url:
        return (await Prometheus(url, session).query({"a": "up"}))["a"]


async def ask(
    kind: str, url: str, session: aiohttp.ClientSession, seconds: float = 10 * UNIT
) -> SourceError:
    """Ask a source of this kind at the URL and return how it fails; fail when it does not."""
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "prometheus": Prometheus(url, session, timeout=seconds).alerts,
        "alertmanager": Alertmanager(url, session, timeout=seconds).alerts,
        "exposition": Exposition(url, session, timeout=seconds).fetch,
    }
    with pytest.raises(SourceError) as caught:
        await calls[kind]()
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 1000
    return caught.value


@pytest.mark.parametrize("kind", EVERYTHING)
class TestFaults:
    """Whatever is at the other end, a source fails in time and says what to check."""

    async def test_a_port_where_nothing_listens_is_reported(
        self, kind: str, session: aiohttp.ClientSession
    ) -> None:
        error = await ask(kind, f"http://127.0.0.1:{free_port()}", session)
        assert error.code == "refused"
        assert "check that it runs" in error.reason

    async def test_a_host_name_that_does_not_resolve_is_reported(
        self, kind: str, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The resolver is replaced, so that no packet leaves the machine."""

        async def resolve(*_: object, **__: object) -> list[object]:
            raise OSError(-2, "Name or service not known")

        monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
        error = await ask(kind, "http://metrics.invalid:9090", session)
        assert error.code == "dns"
        assert "metrics.invalid" in error.reason

    async def test_tls_to_a_server_that_speaks_none_is_reported(
        self, kind: str, session: aiohttp.ClientSession
    ) -> None:
        async with serving(fine) as url:
            error = await ask(kind, url.replace("http:", "https:"), session)
        assert error.code == "tls"
        assert "whether it speaks https at all" in error.reason

    async def test_a_certificate_that_nobody_vouches_for_is_refused(
        self, kind: str, session: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        async with serving(fine, server_tls(tmp_path)[1]) as url:
            error = await ask(kind, url.replace("http:", "https:"), session)
        assert error.code == "tls"
        assert "self-signed certificate" in error.reason

    @pytest.mark.parametrize("said", [b"", http(b"[]")[:40], http(b"[" * 9)[:-5]])
    async def test_a_server_that_hangs_is_given_up_in_time(
        self, kind: str, said: bytes, session: aiohttp.ClientSession
    ) -> None:
        """Before the first byte, in the headers, in the body."""
        started = time.monotonic()
        async with answering(said, hang=True) as url:
            error = await ask(kind, url, session, UNIT)
        assert error.code == "timeout"
        assert time.monotonic() - started < 20 * UNIT

    @pytest.mark.parametrize(
        ("said", "code", "words"),
        [
            (b"", "disconnected", ""),
            (http(b"[" * 99)[:-5], "disconnected", ""),
            (CHUNKED + b"9\r\nab", "disconnected", ""),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "format", "does not speak HTTP"),
            (b"\xff\x00" * 99, "format", "does not speak HTTP"),
            (http(b"<!doctype html><p>Hi", kind="text/html"), "format", "a web page (HTML)"),
            (http(b"\x00\x01{{{", kind="text/plain"), "format", ""),
            (http(PAGE, "500 Oh", "text/html"), "status", "500: Oh no [31m it broke ("),
            (http(b'{"error": "gone"}', GONE), "status", "404: gone (check the path"),
            (http(b'{"error": {"message": "gone"}}', GONE), "status", "404: gone (check the path"),
            (http(b'{"message": "gone"}', GONE), "status", "404: gone (check the path"),
            (http(b'"gone"', GONE), "status", "404: gone (check the path"),
        ],
        ids=range(12),
    )
    async def test_a_reply_that_is_no_answer_is_reported_in_words(
        self, kind: str, said: bytes, code: str, words: str, session: aiohttp.ClientSession
    ) -> None:
        """A truncated body is never taken for a whole one; a server's own words are quoted."""
        async with answering(said) as url:
            error = await ask(kind, url, session)
        assert error.code == code
        assert words in error.reason

    async def test_a_redirect_is_not_followed(
        self, kind: str, session: aiohttp.ClientSession
    ) -> None:
        asked: list[str] = []

        async def redirect(request: web.Request) -> web.Response:
            asked.append(request.path)
            return web.Response(status=302, headers={"Location": "/elsewhere"})

        async with serving(redirect) as url:
            error = await ask(kind, url, session)
        assert error.code == "redirect"
        assert "/elsewhere" in error.reason
        assert len(asked) == 1

    @pytest.mark.parametrize("compressed", [False, True])
    async def test_a_hundred_megabytes_are_not_read(
        self,
        kind: str,
        compressed: bool,  # noqa: FBT001
        session: aiohttp.ClientSession,
    ) -> None:
        """Plain the server sees how little was read; compressed, 100 MB fit into 100 kB."""
        sent = 0
        piece = b"\n" * 2**16

        async def flood(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            headers = {"Content-Type": "text/plain"}
            if compressed:
                headers["Content-Encoding"] = "gzip"
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            try:
                if compressed:
                    await response.write(gzip.compress(piece * 1600))
                for _ in range(0 if compressed else 1600):
                    await response.write(piece)
                    sent += len(piece)
            except ConnectionError:
                pass
            return response

        async with serving(flood) as url:
            error = await ask(kind, url, session, 60 * UNIT)
        assert error.code == "too_large"
        assert sent < 40 * 2**20

    async def test_a_length_that_is_too_large_is_refused_before_the_body(
        self, kind: str, session: aiohttp.ClientSession
    ) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n"
        async with answering(head, hang=True) as url:
            error = await ask(kind, url, session, PATIENCE)
        assert error.code == "too_large"

    async def test_an_address_that_is_none_is_reported(
        self, kind: str, session: aiohttp.ClientSession
    ) -> None:
        error = await ask(kind, "http://127.0.0.1:port", session)
        assert error.code == "format"

    async def test_credentials_of_the_address_are_not_repeated(
        self, kind: str, session: aiohttp.ClientSession
    ) -> None:
        error = await ask(kind, f"http://user:secret@127.0.0.1:{free_port()}", session)
        assert "secret" not in error.reason


WRONG_SHAPES: list[object] = [
    None, 1, "text", {}, [1], [{}],
    {"status": "success"},
    {"status": "success", "data": None},
    {"status": "success", "data": {"alerts": 1}},
    {"status": "success", "data": {"alerts": [1]}},
    {"status": "success", "data": {"alerts": [{"labels": {"a": 1}, "state": "firing"}]}},
    {"status": "success",
     "data": {"alerts": [{"labels": {"a": 1}, "state": "firing", "activeAt": "soon"}]}},
    {"status": "error", "error": "x" * 5000 + "\n"},
    [{"labels": {}, "annotations": {}, "startsAt": "2026-01-31T12:00:00Z", "status": "active"}],
]  # fmt: skip


def vector(*items: object, kind: str = "vector") -> object:
    return {"status": "success", "data": {"resultType": kind, "result": list(items)}}


WRONG_RESULTS: list[object] = [
    *WRONG_SHAPES,
    vector(1),
    vector({"metric": {}}),
    vector({"metric": {}, "value": [1]}),
    vector({"metric": {}, "value": [1, 2]}),
    vector({"metric": {}, "value": ["1", "2"]}),
    vector({"metric": {}, "value": [1, "x" * 5000]}),
    vector({"metric": {"a": 1}, "value": [1, "2"]}),
    vector({"metric": [], "value": [1, "2"]}),
    vector(1, kind="scalar"), vector(1, "x", kind="scalar"),
    vector(1, 2, kind="string"), vector(kind="streams"),
]  # fmt: skip


class TestShapes:
    """JSON that is none of the API's, and JSON that is more than we take."""

    @pytest.mark.parametrize("kind", ["prometheus", "alertmanager"])
    @pytest.mark.parametrize("shape", WRONG_SHAPES)
    async def test_alerts_of_the_wrong_shape_are_refused(
        self, kind: str, shape: object, session: aiohttp.ClientSession
    ) -> None:
        async with answering(http(json.dumps(shape).encode())) as url:
            error = await ask(kind, url, session)
        assert error.code == "format"

    @pytest.mark.parametrize("shape", WRONG_RESULTS)
    async def test_results_of_the_wrong_shape_are_refused(
        self, shape: object, session: aiohttp.ClientSession
    ) -> None:
        error = await queried(shape, session)
        assert isinstance(error, SourceError)
        assert error.code == "format"
        assert len(error.reason) < 1000

    async def test_a_native_histogram_has_no_one_value(
        self, session: aiohttp.ClientSession
    ) -> None:
        shape = vector({"metric": {"__name__": "h"}, "histogram": [1, {"count": "1"}]})
        answer = await queried(shape, session)
        assert isinstance(answer, QueryResult)
        assert (answer.samples[0].name, answer.samples[0].value) == ("h", None)

    async def test_samples_beyond_the_limit_are_dropped_and_counted(
        self, session: aiohttp.ClientSession
    ) -> None:
        items = [{"metric": {"n": str(n)}, "value": [1, "1"]} for n in range(MAX_SAMPLES + 7)]
        answer = await queried(vector(*items), session)
        assert isinstance(answer, QueryResult)
        assert (len(answer.samples), answer.dropped) == (MAX_SAMPLES, 7)

    async def test_alerts_beyond_the_limit_are_dropped_pending_ones_first(
        self, session: aiohttp.ClientSession
    ) -> None:
        items = [
            {"labels": {"n": str(n)}, "state": "pending", "activeAt": "2026-01-31T12:00:00Z"}
            for n in range(MAX_ALERTS + 7)
        ]
        items[-1]["state"] = "firing"
        shape = {"status": "success", "data": {"alerts": items}}
        async with answering(http(json.dumps(shape).encode())) as url:
            answer = await Prometheus(url, session).alerts()
        assert (len(answer.alerts), answer.dropped) == (MAX_ALERTS, 7)
        assert answer.alerts[0].state == "firing"

    async def test_what_alertmanager_lists_beyond_the_limit_is_dropped_and_counted(
        self, session: aiohttp.ClientSession
    ) -> None:
        item = {
            "labels": {"alertname": "A"},
            "annotations": {},
            "startsAt": "2026-01-31T12:00:00Z",
            "status": {"state": "active"},
        }
        async with answering(http(json.dumps([item] * (MAX_ALERTS + 7)).encode())) as url:
            answer = await Alertmanager(url, session).alerts()
        assert (len(answer.alerts), answer.dropped) == (MAX_ALERTS, 7)

    async def test_no_alerts_are_an_answer_too(self, session: aiohttp.ClientSession) -> None:
        async with answering(http(b"[]")) as url:
            assert await Alertmanager(url, session).alerts() == AlertList(())


class TestRounds:
    """One round of queries to one server."""

    async def test_at_most_a_few_queries_are_under_way_at_once(
        self, session: aiohttp.ClientSession
    ) -> None:
        """The server holds its answers back; a query too many would overtake the later probes."""
        running = most = 0
        full = asyncio.Event()
        go_on = asyncio.Event()

        async def count(request: web.Request) -> web.Response:
            nonlocal running, most
            if request.path == "/probe":
                return web.Response()
            running += 1
            most = max(most, running)
            if running == AT_ONCE:
                full.set()
            await go_on.wait()
            query = (await request.post())["query"]
            running -= 1
            return web.json_response(vector(1, query, kind="scalar"))

        queries = {f"q{n}": str(n) for n in range(5 * AT_ONCE)}
        async with serving(count) as url, asyncio.timeout(PATIENCE):
            asking = asyncio.create_task(Prometheus(url, session).query(queries))
            await full.wait()
            for _ in range(5):
                async with session.get(f"{url}/probe") as response:
                    assert response.ok
            assert most == AT_ONCE
            go_on.set()
            answer = await asking
        assert most == AT_ONCE
        results = [(n, each) for n, each in answer.items() if isinstance(each, QueryResult)]
        assert {name: f"{each.samples[0].value:.0f}" for name, each in results} == queries

    async def test_a_round_against_a_server_that_hangs_takes_one_timeout_not_many(
        self, session: aiohttp.ClientSession
    ) -> None:
        started = time.monotonic()
        async with answering(b"", hang=True) as url:
            queries = {f"q{n}": "up" for n in range(10 * AT_ONCE)}
            answer = await Prometheus(url, session, timeout=2 * UNIT).query(queries)
        assert time.monotonic() - started < 15 * UNIT
        codes = {e.code if isinstance(e, SourceError) else "" for e in answer.values()}
        assert codes == {"timeout"}

    async def test_a_query_that_hangs_does_not_spoil_the_others(
        self, session: aiohttp.ClientSession
    ) -> None:
        async def hang_on_one(request: web.Request) -> web.Response:
            query = (await request.post())["query"]
            if query == "slow":
                await asyncio.Event().wait()
            return web.json_response(vector(1, query, kind="string"))

        async with serving(hang_on_one) as url:
            queries = {"a": "quick", "b": "slow", "c": "quick"}
            answer = await Prometheus(url, session, timeout=10 * UNIT).query(queries)
        kinds = [type(result) for result in answer.values()]
        assert kinds == [QueryResult, SourceError, QueryResult]

    async def test_a_400_of_something_else_is_not_blamed_on_the_query(
        self, session: aiohttp.ClientSession
    ) -> None:
        async with answering(http(b"Bad gateway rule", "400 Bad Request", "text/plain")) as url:
            answer = await Prometheus(url, session).query({"a": "up"})
        assert isinstance(answer["a"], SourceError)
        assert answer["a"].code == "status"

    async def test_no_queries_ask_nothing(self, session: aiohttp.ClientSession) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        assert await Prometheus(url, session).query({}) == {}

    async def test_a_round_that_is_cancelled_leaves_no_connection_behind(
        self, session: aiohttp.ClientSession
    ) -> None:
        arrived = asyncio.Event()
        gone = asyncio.Event()

        async def hang(_: web.Request) -> web.Response:
            arrived.set()
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()
            raise AssertionError

        async with serving(hang) as url, asyncio.timeout(PATIENCE):
            task = asyncio.create_task(Prometheus(url, session).query({"a": "up"}))
            await arrived.wait()
            task.cancel()
            await gone.wait()
        assert task.cancelled()

    async def test_a_prefix_of_the_address_is_kept(self, session: aiohttp.ClientSession) -> None:
        asked: list[str] = []

        async def note(request: web.Request) -> web.Response:
            asked.append(request.path_qs)
            return web.json_response(vector())

        async with serving(note) as url:
            await Prometheus(f"{url}/prom/", session).query({"a": "up"})
            await ask("alertmanager", f"{url}/am", session)
            await ask("exposition", f"{url}/exporter/metrics?x=1", session)
        assert asked[0] == "/prom/api/v1/query"
        assert asked[1].startswith("/am/api/v2/alerts?")
        assert asked[2] == "/exporter/metrics?x=1"


class TestScrapes:
    async def test_headers_are_sent_and_text_is_asked_for_uncompressed(
        self, session: aiohttp.ClientSession
    ) -> None:
        seen: list[dict[str, str]] = []

        async def note(request: web.Request) -> web.Response:
            seen.append(dict(request.headers))
            return web.Response(text="m 1\n")

        async with serving(note) as url:
            [sample] = await Exposition(url, session, {"Authorization": "Bearer x"}).fetch()
        assert sample.value == 1
        assert seen[0]["Authorization"] == "Bearer x"
        assert seen[0]["Accept"].startswith("text/plain;version=0.0.4")
        assert seen[0]["Accept-Encoding"] == "identity"

    @pytest.mark.parametrize(("count", "beside"), [(10, False), (1000, True)])
    async def test_only_a_large_exposition_is_parsed_beside_the_event_loop(
        self,
        count: int,
        beside: bool,  # noqa: FBT001
        session: aiohttp.ClientSession,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        threads: list[int] = []

        def noted(reply: Reply, skipped: list[int] | None) -> list[Sample]:
            threads.append(threading.get_ident())
            return parse(reply, skipped)

        monkeypatch.setattr(exposition, "parse", noted)
        lines = b"".join(b'm{n="%d"} 1\n' % n for n in range(count))
        assert (len(lines) > exposition.IN_THREAD_ABOVE) == beside
        async with answering(http(lines, kind="text/plain; version=0.0.4")) as url:
            samples = await Exposition(url, session).fetch()
        assert len(samples) == count
        assert (threads != [threading.get_ident()]) == beside

    async def test_what_prometheus_says_beside_an_answer_is_kept(
        self, session: aiohttp.ClientSession
    ) -> None:
        """Warnings say that it is only a part."""
        answer = (
            b'{"status":"success","data":{"resultType":"vector","result":[],"alerts":[]},'
            b'"warnings":["store gateway timed out",7],"infos":["an info"]}'
        )
        said = ("store gateway timed out", "an info")
        async with answering(http(answer)) as url:
            server = Prometheus(url, session)
            assert await server.query({"a": "up"}) == {"a": QueryResult((), 0, said)}
            assert await server.alerts() == AlertList((), 0, said)

    async def test_json_may_be_as_large_as_its_limit(self, session: aiohttp.ClientSession) -> None:
        shape = b"[]".ljust(MAX_JSON_BYTES)
        async with answering(http(shape)) as url:
            assert await Alertmanager(url, session).alerts() == AlertList(())
        async with answering(http(shape + b" ")) as url:
            error = await ask("alertmanager", url, session)
        assert error.code == "too_large"
