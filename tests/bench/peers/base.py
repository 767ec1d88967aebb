"""What every peer has: a process on the server's core, and the faces it shows to clients."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from tests.bench import clients, processes

ROOT = Path(__file__).resolve().parents[3]
PEER_PYTHON = ROOT / ".bench-venv" / "bin" / "python"
START_TIMEOUT = 90.0
DESCRIPTORS = 20_000


@attrs.frozen(kw_only=True)
class ChatFace:
    """One way to get an answer from a peer.

    Attributes:
        name: As the tables call it.
        url: Where.
        websocket: Whether over WebSocket; otherwise a POST whose response is an event stream.
        end: Bytes that only the end of an answer has.
        ask: Makes the body, or the first message, from (model, tokens).
        headers: Further request headers.
        compressed: Whether the client offers compression, with a window of its own.
    """

    name: str
    url: str
    websocket: bool
    end: bytes
    ask: Callable[[str, int], bytes]
    headers: tuple[tuple[str, str], ...] = ()
    compressed: bool = False

    async def connect(self) -> clients.Client:
        """Open a connection that is ready to ask."""
        port = clients.port_of(self.url)
        if not self.websocket:
            return await clients.connect(port, lambda: clients.HttpClient(clients.Ignore()))
        client = await clients.connect(port, lambda: clients.WebSocketClient(clients.Ignore()))
        offer = clients.WINDOW if self.compressed else b""
        client.send(clients.upgrade_request(self.url, offer))
        await client.opened
        return client

    def start(
        self, client: clients.Client, model: str, tokens: int, receiver: clients.Receiver
    ) -> None:
        """Ask for an answer; `receiver` gets it."""
        body = self.ask(model, tokens)
        if isinstance(client, clients.HttpClient):
            gzip = (("Accept-Encoding", "gzip"),) if self.compressed else ()
            client.ask(clients.post_request(self.url, body, self.headers + gzip), receiver)
        else:
            client.receiver = receiver
            client.send(clients.client_frame(body))


@attrs.frozen(kw_only=True)
class ViewFace:
    """One way to watch what a peer broadcasts.

    Attributes:
        name: As the tables call it.
        url: Where.
        websocket: Whether over WebSocket.
        compressed: Whether the client offers compression.
        subscribe: First message to send, if one is needed.
        ready: Bytes in the first payload of a viewer that is subscribed; None: once it is open.
        headers: Further request headers.
        replay: Makes the face that replays what followed a cursor; None: this peer cannot.
    """

    name: str
    url: str
    websocket: bool
    compressed: bool = False
    subscribe: bytes | None = None
    ready: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    replay: Callable[[str], ViewFace] | None = None

    async def connect(self, receiver: clients.Receiver) -> clients.Client:
        """Open a connection that watches."""
        port = clients.port_of(self.url)
        client: clients.Client
        if self.websocket:
            client = await clients.connect(port, lambda: clients.WebSocketClient(receiver))
            client.send(
                clients.upgrade_request(self.url, clients.TAKEOVER if self.compressed else b"")
            )
        else:
            client = await clients.connect(port, lambda: clients.HttpClient(receiver))
            gzip = (("Accept-Encoding", "gzip"),) if self.compressed else ()
            client.send(clients.get_request(self.url, self.headers + gzip))
        await client.opened
        if self.subscribe is not None:
            client.send(clients.client_frame(self.subscribe))
        return client


class Peer:
    """A server under test.

    Attributes:
        name: As the tables call it.
        settings: What its documentation advises and we do, for the reader to judge.
        port: Where it listens.
        most_answers: How many answers at once it is asked for; beyond, it takes minutes.
        relay_rounds: In how many rounds it relays.
        flat_tokens: Tokens of an answer that comes flat out.
        heaviness: Divides how many broadcasts it is given.
        root: The folder that it runs in.
    """

    name = ""
    settings = ""
    most_answers = 1_000
    relay_rounds = 3
    flat_tokens = 6_000
    heaviness = 1
    root = ROOT

    def __init__(self, folder: Path, upstream: str) -> None:
        """Keep its files in `folder` and, where it relays, ask `upstream` (a base URL)."""
        self.folder = folder / self.name.replace(" ", "-")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.upstream = upstream
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        """The command that serves; writes its configuration first."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Environment variables of its own."""
        return {}

    def ready_url(self) -> str:
        """Answers 200 when it is ready."""
        return f"{self.base}/health"

    def chat_faces(self) -> list[ChatFace]:
        """Its ways to get an answer."""
        return []

    def view_faces(self) -> list[ViewFace]:
        """Its ways to watch."""
        return []

    def publication(self, payloads: Sequence[bytes]) -> tuple[bytes, int]:
        """Requests that publish these messages at once, and how many responses they will get."""
        raise NotImplementedError

    async def start(self, core: int) -> None:
        """Start it on `core` and wait until it answers.

        Raises:
            RuntimeError: It ended, or did not answer in time; with the end of its log.
        """
        log = self.folder / "log"
        self._process = processes.spawn(
            self.command(), core=core, log=log, env=self.environment(), cwd=self.root
        )
        deadline = time.monotonic() + START_TIMEOUT
        while not await answers(self.ready_url()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                await self.stop()
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} did not start:\n{tail}")
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """End it."""
        if self._process is not None:
            await asyncio.to_thread(processes.stop, self._process)
            self._process = None

    def pids(self) -> list[int]:
        """All processes that serve."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return processes.family(self._process.pid)


async def answers(url: str) -> bool:
    """Whether a GET of `url` gives 200 now."""
    try:
        client = await clients.connect(
            clients.port_of(url), lambda: clients.HttpClient(clients.Ignore())
        )
    except OSError:
        return False
    client.send(clients.get_request(url))
    try:
        async with asyncio.timeout(5):
            await client.opened
    except (ConnectionError, TimeoutError):
        return False
    finally:
        client.transport.abort()
    return True


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def this_python() -> str:
    """The interpreter that runs the benchmark, which has our package."""
    return sys.executable
