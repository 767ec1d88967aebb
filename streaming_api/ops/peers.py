"""Peers: the other workers of this machine, asked over unix sockets for their own figures.

Only this user may enter their directory. A worker that does not answer in time is left out: it is
hung, or about to be replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

import aiohttp
from aiohttp import web

from streaming_api.serving.workers import MEETING_VARIABLE

_SECONDS: Final = 1.0

Own = Mapping[str, Callable[[str], bytes]]
"""What this worker reports about itself, by name; each function takes the asker's ``Accept``."""


class Peers:
    """The workers of one supervisor.

    Args:
        name: the name of this worker.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._directory = directory
        self._runner: web.AppRunner | None = None

    @classmethod
    def of_supervisor(cls, name: str | None) -> Self | None:
        """Return the peers of this worker; None if this process is not a worker."""
        directory = os.environ.get(MEETING_VARIABLE)
        return None if not directory or name is None else cls(Path(directory), name)

    async def start(self, own: Own) -> None:
        """Begin to answer the others; the successor of a worker takes over its name."""

        async def answer(request: web.Request) -> web.Response:
            body = own[request.match_info["what"]](request.headers.get("Accept", ""))
            return web.Response(body=body)

        app = web.Application()
        app.router.add_get("/{what}", answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        path = self._directory / f"{self.name}.sock"
        path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, path).start()

    async def stop(self) -> None:
        """Stop answering."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def ask(self, what: str, accept: str = "") -> dict[str, bytes]:
        """Return what the others report about themselves, by their names."""
        paths = [path for path in self._directory.glob("*.sock") if path.stem != self.name]
        replies = await asyncio.gather(*(_ask(path, what, accept) for path in sorted(paths)))
        return {
            path.stem: reply
            for path, reply in zip(sorted(paths), replies, strict=True)
            if reply is not None
        }


async def _ask(path: Path, what: str, accept: str) -> bytes | None:
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with (
            asyncio.timeout(_SECONDS),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.get(f"http://worker/{what}", headers={"Accept": accept}) as reply,
        ):
            if reply.status == 200:
                return await reply.read()
    return None
