"""Plays a script on a connection: cheaply where it is plain, else with all its faults."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from tests.fakes.script import BEFORE_HEADERS, Writer, error_body, pieces
from tests.fakes.wire import LAST_CHUNK, Connection, Generation, Server, chunked, head

FLAT_OUT_BATCH: Final = 64  # tokens written in one turn of the loop when there is no rate


class Player:
    """Plays ready writes at a rate, with one timer and no task: cheap enough for a bench."""

    __slots__ = ("_connection", "_frames", "_interval", "_loop", "_next", "_start", "_upstream")

    def __init__(
        self, upstream: Server, connection: Connection, frames: list[bytes], rate: float | None
    ) -> None:
        self._upstream = upstream
        self._connection = connection
        self._frames = frames
        self._interval = 1 / rate if rate else 0.0
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._next = 0

    def play(self) -> None:
        """Write what is due and come back for the rest."""
        transport = self._connection.transport
        if transport.is_closing():
            return
        batch = 1 if self._interval else FLAT_OUT_BATCH
        due = self._frames[self._next : self._next + batch]
        transport.writelines(due) if len(due) > 1 else transport.write(due[0])
        self._next += len(due)
        self._note_sent()
        if self._next == len(self._frames):
            self._connection.finish()
        elif not self._connection.is_writable:
            self._connection.on_writable = self._go_on
        elif self._interval:
            self._loop.call_at(self._start + self._next * self._interval, self.play)
        else:
            self._loop.call_soon(self.play)

    def _go_on(self) -> None:
        self._connection.on_writable = None
        self._loop.call_soon(self.play)

    def _note_sent(self) -> None:
        generation = cast("Generation", self._connection.generation)
        sent = max(0, min(self._next - 1, len(self._frames) - 2))
        self._upstream.tokens_sent += sent - generation.sent
        generation.sent = sent
        if self._upstream.keeps_records:
            self._upstream.changed()


class Performance:
    """Plays one script, with everything that it can do wrong."""

    def __init__(
        self, upstream: Server, connection: Connection, generation: Generation, writer: Writer
    ) -> None:
        self._upstream = upstream
        self._connection = connection
        self._generation = generation
        self._script = generation.script
        self._writer = writer

    async def run(self, *, stream: bool, usage: bool) -> None:
        """Say everything, or as much as the script lets through."""
        script = self._script
        if script.hang_after == BEFORE_HEADERS:
            return
        if script.wire is not None:
            await self._write_raw(script.wire)
            if script.cut_after is not None:
                self._cut()
            return
        if script.body is not None:
            await self._reply(script.body, script.content_type or "application/json")
        elif not stream:
            await self._say_at_once()
        elif not await self._say(usage=usage):
            return
        self._connection.finish()
        if not script.chunked:
            self._connection.transport.close()

    async def _reply(self, body: bytes, content_type: str) -> None:
        script = self._script
        opening = head(script.status, content_type, headers=script.headers, length=len(body))
        await self._write_raw(opening + body)

    async def _say_at_once(self) -> None:
        script = self._script
        for text in script.texts():
            await self._pace()
            self._count(text)
        body = self._writer.completion()
        if script.cut_after is not None:
            opening = head(200, "application/json", length=len(body))
            await self._write_raw(opening + body[: len(body) // 2])
            self._cut()
            return
        await self._reply(body, script.content_type or "application/json")

    async def _say(self, *, usage: bool) -> bool:
        """Stream the answer; return whether it went to its end in good order."""
        script = self._script
        kind = script.content_type or "text/event-stream; charset=utf-8"
        await self._write_raw(head(200, kind, headers=script.headers, chunks=script.chunked))
        for event in self._writer.opening():
            await self._write(event)
        for number, text in enumerate(script.texts()):
            if not await self._may_go_on(number):
                return False
            if number == script.error_after:
                break
            await self._pace()
            await self._write(self._writer.token(text))
            self._count(text)
        if not await self._may_go_on(self._generation.sent):
            return False
        if script.error_after is not None:
            await self._write(
                self._writer.event(error_body("Out of memory.", "server_error", "oom"))
            )
        else:
            for event in self._writer.closing(usage=usage, tokens=self._generation.sent):
                await self._write(event)
        await self._write_raw(LAST_CHUNK if script.chunked else b"")
        await self._write_raw(script.after)
        return True

    async def _may_go_on(self, number: int) -> bool:
        """Whether this is not the place where the script hangs or cuts."""
        script = self._script
        if number == script.hang_after:
            return False
        if number != script.cut_after:
            return True
        if script.cut == "end" and script.chunked:
            await self._write_raw(LAST_CHUNK)
        self._cut()
        return False

    def _cut(self) -> None:
        if self._script.cut == "rst":
            self._connection.reset()
        else:
            self._connection.transport.close()

    def _count(self, text: str) -> None:
        if text:
            self._generation.sent += 1
            self._upstream.tokens_sent += 1
            self._upstream.changed()

    async def _pace(self) -> None:
        if self._script.gate is not None:
            await self._script.gate.passed()
        if self._script.rate is not None:
            await asyncio.sleep(1 / self._script.rate)

    async def _write(self, event: bytes) -> None:
        await self._write_raw(chunked(event) if self._script.chunked else event)

    async def _write_raw(self, data: bytes) -> None:
        """Write in the script's pieces, no faster than the client reads."""
        connection = self._connection
        for piece in pieces(data, self._script):
            if not connection.is_writable:
                writable = asyncio.Event()
                connection.on_writable = writable.set
                await writable.wait()
            connection.transport.write(piece)
            await asyncio.sleep(0)
