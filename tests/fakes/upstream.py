"""A fake OpenAI-compatible upstream on loopback that does what a `Script` says, and keeps a record.

It speaks the real protocol over a raw socket: `POST /v1/chat/completions` (stream and not),
`GET /v1/models`, `/health` and `/metrics`. A request picks its script by its `model`.

    python -m tests.fakes.upstream --port 8000 --rate 50 --tokens 500
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
import time
from collections.abc import Callable, Coroutine

import attrs

from tests.fakes import other_wires
from tests.fakes.performance import Performance, Player
from tests.fakes.script import (
    BEFORE_HEADERS,
    CREATED,
    NAMED,
    Gate,
    Script,
    Writer,
    as_json,
    error_body,
)
from tests.fakes.wire import LAST_CHUNK, PATIENCE, Connection, Generation, Request, chunked, head
from tests.lifecycle import Lifecycle

__all__ = ["BEFORE_HEADERS", "NAMED", "FakeUpstream", "Gate", "Generation", "Request", "Script"]


class FakeUpstream(Lifecycle):
    """The server. `async with FakeUpstream() as upstream: ... upstream.url ...`.

    Attributes:
        scripts: by model; the named ones, and whatever the test adds.
        default: for a model without one.
        requests: every request, in the order of arrival.
        generations: every chat completion that was begun.
        is_healthy: what `/health` says.
        api_key: if set, requests under `/v1` need it as bearer token.
    """

    def __init__(
        self,
        default: Script | None = None,
        *,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.scripts = dict(NAMED)
        self.default = default or Script()
        self.requests: list[Request] = []
        self.generations: list[Generation] = []
        self.is_healthy = True
        self.api_key = api_key
        self.accepted = 0  # connections ever
        self.started = 0  # generations ever begun, also where no record is kept
        self.tokens_sent = 0
        self.keeps_records = True
        self._host = host
        self._port = port
        self._tls = tls
        self._frames: dict[tuple[Script, str, bool], list[bytes]] = {}
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """Base address, without `/v1`."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    @property
    def running(self) -> int:
        """Generations that are neither finished nor left by their clients."""
        return sum(1 for generation in self.generations if generation.is_running)

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._connections)

    async def start(self, *, backlog: int = 1024) -> None:
        """Start listening; a second start after `stop` takes the same port again."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), self._host, self._port, backlog=backlog, ssl=self._tls
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and abort every connection, as a crash would."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.reset()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        await self.until(lambda: not self._connections)

    async def until(
        self,
        condition: Callable[[], object],
        timeout: float = PATIENCE,  # noqa: ASYNC109
    ) -> None:
        """Wait until `condition()` holds; it is looked at whenever something happens here."""
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def generation(self, number: int = 0) -> Generation:
        """Wait until so many generations before this one have begun, and return it."""
        await self.until(lambda: len(self.generations) > number)
        return self.generations[number]

    def gated(self, script: Script | None = None, *, model: str | None = None) -> Gate:
        """Have a model's answers, or those by default, wait for the gate that this returns."""
        gate = Gate()
        script = attrs.evolve(script or Script(), gate=gate)
        if model is None:
            self.default = script
        else:
            self.scripts[model] = script
        return gate

    # What connections call.

    def changed(self) -> None:
        """Let `until` look again."""
        self._changed.set()

    def connected(self, connection: Connection) -> None:
        """Count a connection."""
        self.accepted += 1
        self._connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection, and note for its generation that the client is gone."""
        self._connections.discard(connection)
        generation = connection.generation
        if generation is not None:
            generation.closed_at = time.monotonic()
            generation.closed.set()
        self.changed()

    def answer(self, connection: Connection, request: Request) -> None:
        """Answer one request."""
        if self.keeps_records:
            self.requests.append(request)
            self.changed()
        path = request.path.partition("?")[0]
        if path == "/health":
            status, state = (200, "ok") if self.is_healthy else (503, "loading model")
            connection.reply(status, as_json({"status": state}))
        elif path == "/metrics":
            connection.reply(200, self._metrics(), content_type="text/plain; version=0.0.4")
        elif not path.startswith("/v1/"):
            connection.reply(404, error_body(f"No route {path}.", "not_found_error", None))
        elif not self._may_enter(request):
            refusal = error_body("Incorrect API key.", "invalid_request_error", "invalid_api_key")
            connection.reply(401, refusal)
        elif request.method == "GET" and path == "/v1/models":
            connection.reply(200, self._models())
        elif request.method == "POST" and path == "/v1/chat/completions":
            self._begin(connection, request)
        elif request.method == "POST" and path == "/v1/messages":
            other_wires.messages(connection, request, self.default)
        elif request.method == "POST" and path == "/v1/embeddings":
            other_wires.embeddings(connection)
        else:
            connection.reply(405, error_body("Not allowed.", "invalid_request_error", None))

    def frames(self, script: Script, model: str, *, usage: bool) -> list[bytes]:
        """Return a plain answer as ready writes: head, one a token, and the end. Made once."""
        key = (script, model, usage)
        if key not in self._frames:
            writer = Writer(script, model)
            texts = list(script.texts())
            opening = b"".join(chunked(event) for event in writer.opening())
            closing = writer.closing(usage=usage, tokens=len(texts))
            self._frames[key] = [
                head(200, "text/event-stream", chunks=True) + opening,
                *(chunked(writer.token(text)) for text in texts),
                b"".join(chunked(event) for event in closing) + LAST_CHUNK,
            ]
        return self._frames[key]

    def _begin(self, connection: Connection, request: Request) -> None:
        try:
            body = request.json()
            model = str(body["model"])
            messages = body["messages"]
        except (ValueError, KeyError, TypeError) as exc:
            problem = error_body(f"Bad request: {exc!r}.", "invalid_request_error", None)
            connection.reply(400, problem)
            return
        script = self.scripts.get(model, self.default)
        if script.then is not None and _has_results(messages):
            script = script.then
        options = body.get("stream_options")
        asked = isinstance(options, dict) and bool(options.get("include_usage"))
        usage = asked if script.usage is None else script.usage
        generation = Generation(self.started, model, request, script)
        self.started += 1
        connection.generation = generation
        if self.keeps_records:
            self.generations.append(generation)
            self.changed()
        if not messages:
            connection.reply(400, error_body("No messages.", "invalid_request_error", "empty"))
        elif script.is_plain and body.get("stream"):
            Player(self, connection, self.frames(script, model, usage=usage), script.rate).play()
        else:
            performance = Performance(self, connection, generation, Writer(script, model))
            connection.perform(performance.run(stream=bool(body.get("stream")), usage=usage))

    def _may_enter(self, request: Request) -> bool:
        given = request.headers.get("authorization")
        return self.api_key is None or given == f"Bearer {self.api_key}"

    def _models(self) -> bytes:
        data = [
            {"id": model, "object": "model", "created": CREATED, "owned_by": "fake"}
            for model in ["fake", *self.scripts]
        ]
        return as_json({"object": "list", "data": data})

    def _metrics(self) -> bytes:
        figures = {
            "fake_generations_total": ("counter", self.started),
            "fake_generations_running": ("gauge", self.running),
            "fake_tokens_total": ("counter", self.tokens_sent),
        }
        lines = [
            f"# HELP {name} Of the fake upstream.\n# TYPE {name} {kind}\n{name} {value}\n"
            for name, (kind, value) in figures.items()
        ]
        return "".join(lines).encode()


def _has_results(messages: object) -> bool:
    """Whether one of the messages is the result of a call."""
    return isinstance(messages, list) and any(
        isinstance(message, dict) and message.get("role") == "tool" for message in messages
    )


async def _serve(upstream: FakeUpstream) -> None:
    upstream.keeps_records = False
    await upstream.start(backlog=4096)
    print(f"fake upstream on {upstream.url}", flush=True)  # noqa: T201 - a command's output
    await asyncio.Event().wait()


def main(arguments: list[str] | None = None) -> None:
    """Serve from the command line until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.upstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one, which is printed")
    parser.add_argument("--rate", type=float, default=50, help="tokens a second; 0 for flat out")
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--key", help="refuse requests under /v1 that bring another one")
    options = parser.parse_args(arguments)
    script = Script(tokens=options.tokens, rate=options.rate or None)
    upstream = FakeUpstream(script, host=options.host, port=options.port, api_key=options.key)
    try:
        import uvloop  # noqa: PLC0415 - faster where it is installed, not needed
    except ImportError:
        run: Callable[[Coroutine[None, None, None]], None] = asyncio.run
    else:
        run = uvloop.run
    try:
        run(_serve(upstream))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
