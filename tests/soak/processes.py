"""The server and the gateway as processes of their own: started, killed, hung, and looked into.

What a process holds is read from /proc; what it does, from the dump that SIGUSR1 writes to its log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.fakes.prometheus import free_port
from tests.lifecycle import Lifecycle

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
ROOT: Final = Path(__file__).parents[2]
MIB: Final = 2**20
DUMP: Final = "what this process is doing"

CONFIG: Final = """\
service: {host: 127.0.0.1, embedded_model: none, connection_timeout: 5}
websocket: {max_connections: 3000, heartbeat_interval: 10}
sse: {max_connections: 2000, keep_alive_interval: 10}
connection_management: {pool_size: 500, max_queued: 500, stall_timeout: 10, resume_grace: 20}
retention: {chat_retention_seconds: 10, topic_retention_messages: 200}
limits: {commands_per_second: 0}
"""
"""Defaults, but with room for all, and short times, so that what is kept is soon in balance."""


class Process(Lifecycle):
    """One program that listens on one port, which it keeps when it is started again.

    Args:
        folder: where its log goes.
        name: of the log.
        environment: beside this process's own.
    """

    def __init__(self, folder: Path, name: str, environment: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.log = folder / f"{name}.log"
        self._environment = environment or {}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def command(self) -> Sequence[str]:
        """What to run."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it, and wait until its port accepts.

        Raises:
            RuntimeError: it ended, or did not listen in time; with its log.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("STREAMING_", "WEBSOCKET_", "SSE_", "CONNECTION_"))
        }
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment | {"STREAMING_LOG_FORMAT": "text"} | self._environment,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.transport.abort()
                return
        raise RuntimeError(f"{self.log.name} does not listen:\n{self.log.read_text()[-2000:]}")

    async def kill(self) -> None:
        """SIGKILL: it has no chance to say anything."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; its exit status. SIGKILL if that does not help."""
        if self._process is None:
            return 0
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self._end(signal.SIGTERM)
        except TimeoutError:
            return await self._end(signal.SIGKILL)

    async def _end(self, how: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self.signal(signal.SIGCONT)
            self.signal(how)
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP to hang it, SIGCONT to let it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    # What it holds

    def descriptors(self) -> int:
        """File descriptors open now."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - names alone, quickly

    def memory(self) -> float:
        """MiB that are its alone: what would be free if it ended."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("smaps_rollup has no Private_Dirty")

    def resident(self) -> float:
        """MiB that it takes, what it shares with others included."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB

    async def tasks(self) -> list[str]:
        """Names of its tasks, from a fresh dump in its log."""
        before = self.log.stat().st_size
        self.signal(signal.SIGUSR1)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with self.log.open() as log:
                log.seek(before)
                _, found, dump = log.read().partition(DUMP)
            rows = [line for line in dump.splitlines() if line.startswith("  ")]
            if found and any(row.startswith("  task:") for row in rows):
                return [row.split()[1] for row in rows if row.startswith("  task:")]
            await asyncio.sleep(0.05)
        raise RuntimeError("the server does not answer SIGUSR1 with a dump in its log")


class Server(Process):
    """streaming-api, as `streaming-api serve` runs it.

    Args:
        gateway: URL of its upstream.
        environment: further settings.
    """

    def __init__(
        self,
        folder: Path,
        gateway: str,
        environment: dict[str, str] | None = None,
        name: str = "server",
    ) -> None:
        super().__init__(folder, name, {"API_GATEWAY_ENDPOINT": gateway, **(environment or {})})
        self._config = folder / f"{name}.yaml"
        self._config.write_text(CONFIG)

    def command(self) -> Sequence[str]:
        """The console command, with this interpreter."""
        return (
            *(sys.executable, "-m", "streaming_api", "serve"),
            *("--config", str(self._config), "--port", str(self.port), "--log-level", "WARNING"),
        )


class Gateway(Process):
    """The fake upstream.

    Args:
        rate: tokens a second of each answer.
        tokens: of each answer.
    """

    def __init__(self, folder: Path, *, rate: float, tokens: int) -> None:
        super().__init__(folder, "gateway")
        self._rate = rate
        self._tokens = tokens

    def command(self) -> Sequence[str]:
        """Its command line."""
        return (
            *(sys.executable, "-m", "tests.fakes.upstream", "--port", str(self.port)),
            *("--rate", str(self._rate), "--tokens", str(self._tokens)),
        )
