"""The real program with several workers, and what a test does to them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from tests.clients import UNIT, Socket, eventually, websocket

ROOT = Path(__file__).parents[1]


def children(pid: int) -> dict[int, str]:
    """The processes that a process has started, and their programs."""
    found = {}
    with suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                with suppress(FileNotFoundError):
                    program = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]
                    found[int(child)] = Path(program.decode().split(" ")[0]).name
    return found


class Service:
    """A running ``streaming-api serve``.

    Attributes:
        url: where it serves.
        log: what it has printed.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = ""
        self.log: list[str] = []

    @property
    def workers(self) -> list[int]:
        """The processes of its workers."""
        mine = children(self.process.pid).items()
        return sorted(pid for pid, name in mine if not name.endswith("-server"))

    @property
    def store(self) -> int:
        """The process of its private store; 0 if there is none now."""
        mine = children(self.process.pid).items()
        return next((pid for pid, name in mine if name.endswith("-server")), 0)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    async def ended(self, seconds: float = 4 * UNIT) -> int:
        """Wait for its end; the exit status."""
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def logged(self, pattern: str, times: int = 1) -> None:
        """Wait until it has logged something so often."""
        await eventually(
            lambda: sum(re.search(pattern, line) is not None for line in self.log) >= times,
            4 * UNIT,
        )

    async def read(self) -> None:
        """Keep what it prints."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.log.append(line.decode(errors="replace").rstrip())
            if not self.url and (found := re.search(r"serves on (http\S+)/ ", self.log[-1])):
                self.url = found[1]


@asynccontextmanager
async def serving(*arguments: str, **variables: str) -> AsyncIterator[Service]:
    """The program, once it serves; it is killed with its children in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streaming_api", "serve", "--port", "0", *arguments,
        cwd=ROOT,
        env={
            **os.environ, "STREAMING_EMBEDDED_MODEL": "none",
            "STREAMING_COMMANDS_PER_SECOND": "10000", "STREAMING_LOG_FORMAT": "text",
            **variables,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    service = Service(process)
    reading = asyncio.create_task(service.read())
    try:
        await eventually(lambda: service.url or process.returncode is not None, 4 * UNIT)
        assert service.url, "\n".join(service.log)
        yield service
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        async with asyncio.timeout(4 * UNIT):
            await reading  # its children hold the other end until they are gone


def worker_of(service: Service, socket: Socket) -> int:
    """The process that has accepted a connection."""
    # theirs, ours: another connection may have had our port before, and linger
    ends = [socket.connection.remote_address[1], socket.connection.local_address[1]]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(
        row[9] for row in rows if [int(end.rpartition(":")[2], 16) for end in row[1:3]] == ends
    )
    for pid in service.workers:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if str(link.readlink()) == f"socket:[{inode}]":
                    return pid
    raise AssertionError


async def on_both(service: Service, stack: AsyncExitStack) -> tuple[Socket, Socket, int, int]:
    """A socket on each worker, and the workers."""
    first = await stack.enter_async_context(websocket(service.url))
    one = worker_of(service, first)
    while True:
        second = await stack.enter_async_context(websocket(service.url))
        other = worker_of(service, second)
        if other != one:
            return first, second, one, other
