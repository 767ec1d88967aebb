"""The upstream of every peer: an OpenAI-compatible server that costs next to nothing.

Answers are made of numbered tokens, each with the time (CLOCK_MONOTONIC, which all processes
share) at which it was written: ``#000017@0000001315044244123#``. The model says how they come:
``paced``, 50 tokens a second, the answers spread evenly over the 20 ms; ``slow``, the same with 20
tokens a second; or ``flat``, a first token and, half a second later, one write per token as fast as
the connection takes them. The tokens of ``prose`` come like those of ``paced`` and are words,
without number and time. ``max_tokens`` says how many.

Run as ``python -m tests.bench.emitter PORT``.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import re
import sys
import time
from typing import Any, cast

import orjson
import uvloop

from tests.bench import prose

TICK_SECONDS = 0.001
TICKS = {"paced": 20, "prose": 20, "slow": 50}
"""Ticks between two tokens of an answer, by model; each answer is written to at one of them."""
FLAT_DELAY = 0.5
"""Seconds from the first token of a flat answer to the flood, so that all answers have begun."""
END = b"0\r\n\r\n"
MARK = b"#%06d@%019d#"
METRICS = b"""# HELP bench_emitted_nanoseconds When this was written, CLOCK_MONOTONIC.
# TYPE bench_emitted_nanoseconds gauge
bench_emitted_nanoseconds %d
# HELP bench_requests_running Answers on their way.
# TYPE bench_requests_running gauge
bench_requests_running %d
"""


def http_chunk(payload: bytes) -> bytes:
    """Payload as a chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def event(model: str, choice: dict[str, object]) -> bytes:
    """One event as OpenAI sends it, about 250 bytes long."""
    chunk = {
        "id": "chatcmpl-0123456789abcdef01234567",
        "object": "chat.completion.chunk",
        "created": 1767225600,
        "model": model,
        "system_fingerprint": "fp_0123456789",
        "choices": [{"index": 0, **choice}],
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def content_event(model: str, text: str) -> bytes:
    """The event of a token."""
    delta = {"content": text}
    return event(model, {"delta": delta, "logprobs": None, "finish_reason": None})


def token_event(model: str) -> bytes:
    """The event of a token, as a template for its number and time."""
    content = content_event(model, "MARK")
    size = len(content) - len(b"MARK") + len(MARK % (0, 0))
    return b"%x\r\n" % size + content.replace(b"%", b"%%").replace(b"MARK", MARK) + b"\r\n"


def last_events(model: str) -> bytes:
    """What ends an answer: the reason, the usage, [DONE]."""
    stop = event(model, {"delta": {}, "logprobs": None, "finish_reason": "stop"})
    return http_chunk(stop) + http_chunk(b"data: [DONE]\n\n") + END


def response(body: bytes, content_type: bytes = b"application/json") -> bytes:
    """A whole HTTP response."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LARGE = b"{%b}" % (b" " * (2**20 - 2))
"""A body of 1 MB."""
MODELS = response(
    orjson.dumps(
        {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": 1767225600, "owned_by": "bench"}
                for name in ("flat", *TICKS)
            ],
        }
    )
)
TOKEN = {name: token_event(name) for name in ("flat", *TICKS)}
WORDS = [http_chunk(content_event("prose", word)) for word in prose.TOKENS]
LAST = {name: last_events(name) for name in ("flat", *TICKS)}


def token(model: str, number: int) -> bytes:
    """The bytes of a token, the first of which is number 1."""
    if model == "prose":
        return WORDS[(number - 1) % len(WORDS)]
    return TOKEN[model] % (number, time.monotonic_ns())


class Clock:
    """Writes a token to each answer when it is due, and to every flat one whenever it can."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start ticking on `loop`."""
        self._loop = loop
        self._rings = {
            model: [set[Upstream]() for _ in range(ticks)] for model, ticks in TICKS.items()
        }
        self._next_slot = 0
        self._flat: collections.deque[Upstream] = collections.deque()
        self._started = loop.time()
        self._ticks = 0
        self._tick()

    def add(self, answer: Upstream) -> None:
        """Begin an answer; its first token is written at once."""
        if not answer.write_token():
            return
        if answer.model == "flat":
            self._loop.call_later(FLAT_DELAY, self._flood, answer)
        else:
            ring = self._rings[answer.model]
            self._next_slot += 7  # prime to the length of each ring: all slots have their turn
            answer.slot = ring[self._next_slot % len(ring)]
            answer.slot.add(answer)

    def remove(self, answer: Upstream) -> None:
        """Forget an answer whose reader has left."""
        answer.slot.discard(answer)
        if answer in self._flat:
            self._flat.remove(answer)

    @property
    def running(self) -> int:
        """How many answers are on their way."""
        return sum(len(slot) for ring in self._rings.values() for slot in ring) + len(self._flat)

    def _tick(self) -> None:
        due = int((self._loop.time() - self._started) / TICK_SECONDS)
        while self._ticks <= due:
            for ring in self._rings.values():
                slot = ring[self._ticks % len(ring)]
                done = [answer for answer in slot if not answer.write_token()]
                slot.difference_update(done)
            self._ticks += 1
        self._loop.call_later(TICK_SECONDS, self._tick)  # a shorter delay would be a busy loop

    def _flood(self, answer: Upstream) -> None:
        self._flat.append(answer)
        if len(self._flat) == 1:
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        for _ in range(len(self._flat)):
            answer = self._flat.popleft()
            if answer.paused or answer.write_token():
                self._flat.append(answer)
        if self._flat:
            if all(answer.paused for answer in self._flat):
                self._loop.call_later(TICK_SECONDS, self._pump)
            else:
                self._loop.call_soon(self._pump)


class Upstream(asyncio.Protocol):
    """One connection from the server under test: requests one after the other."""

    def __init__(self, clock: Clock) -> None:
        """Answer on the beat of `clock`."""
        self._clock = clock
        self._buffer = b""
        self._written = 0
        self._tokens = 0
        self.model = "paced"
        self.slot: set[Upstream] = set()
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the answer, if there is one."""
        del exc
        self._clock.remove(self)

    def pause_writing(self) -> None:
        """The reader is behind: a flat answer waits."""
        self.paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self.paused = False

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[: end + 2]
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < size:
                return
            body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path.endswith(b"/chat/completions"):
            self._begin(orjson.loads(body))
        elif path.endswith(b"/models"):
            self._transport.write(MODELS)
        elif path.endswith(b"/embeddings"):
            self._transport.write(response(LARGE))
        elif path.startswith(b"/metrics"):
            figures = METRICS % (time.monotonic_ns(), self._clock.running)
            self._transport.write(response(figures, b"text/plain; version=0.0.4"))
        else:
            self._transport.write(response(b"{}"))

    def _begin(self, request: dict[str, Any]) -> None:
        self.model = next(name for name in TOKEN if name in request["model"])
        self._tokens = int(request.get("max_tokens") or request["max_completion_tokens"])
        self._written = 0
        self._transport.write(STREAM_HEAD)
        self._clock.add(self)

    def write_token(self) -> bool:
        """Write the next token; whether there are more."""
        self._written += 1
        self._transport.write(token(self.model, self._written))
        if self._written < self._tokens:
            return True
        self._transport.write(LAST[self.model])
        return False


async def main(port: int) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    clock = Clock(loop)
    server = await loop.create_server(lambda: Upstream(clock), "127.0.0.1", port, backlog=4096)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
