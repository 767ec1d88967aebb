"""A server whose real WebSocket says back what it hears; knows no suite.

    python -m tests.conformance.echo --limit 16777216

Handshake, parser, compression, framing, heartbeat and closing are those of the real routes; the one
thing that differs is what is done with a whole message.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from typing import TYPE_CHECKING, Final

import uvloop
from aiohttp import web

from streaming_api.app import make_app
from streaming_api.config import StreamingConfig
from streaming_api.service import StreamingService
from streaming_api.web.websocket import WebSocket, handler
from streaming_api.wire import framing
from streaming_api.wire.messages import Message

if TYPE_CHECKING:
    from streaming_api.wire.frame_parser import Received

ECHO: Final = "/echo"


class EchoSocket(WebSocket):
    """A WebSocket that answers every message with itself, framed as any message is."""

    __slots__ = ()

    def message(self, received: Received) -> None:
        """Send it back; our own framings make text, so a binary one gets the other opcode."""
        message = Message(0, "echo", received.payload, 0, b"", time.monotonic())
        framed = self.framing.message(message)
        self.write(bytes((framed[0] ^ framing.TEXT ^ received.opcode,)) + framed[1:])


def make_echo_app(config: StreamingConfig) -> web.Application:
    """The whole application, and the echo."""
    app = make_app(config)
    app.router.add_get(ECHO, handler(chat_only=False, make=EchoSocket))
    return app


async def _serve(limit: int) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    config = StreamingConfig(
        host="127.0.0.1", port=0, embedded_model="none", message_size_limit=limit
    )
    async with StreamingService(config, make=make_echo_app) as service:
        print(f"echo on {service.url}{ECHO}", flush=True)  # noqa: T201 (a command's output)
        await stopping.wait()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.echo", description=__doc__)
    parser.add_argument("--limit", type=int, default=16 * 2**20, help="bytes of a message")
    uvloop.run(_serve(parser.parse_args().limit))


if __name__ == "__main__":
    main()
