"""Two servers with one store: an answer of one, watched on the other, while something happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from streaming_api.service import StreamingService
from tests.clients import UNIT, Message, Socket, events, is_end, question, valid


def numbers(messages: list[Message]) -> list[int]:
    """The sequence numbers of what is numbered: all but gap notices."""
    return [message["sequence_id"] for message in messages if "cursor" in message]


async def watched_elsewhere(
    one: StreamingService,
    other: StreamingService,
    model: str,
    trouble: Callable[[], Awaitable[object]],
    release: Callable[[], object] = lambda: None,
) -> list[Message]:
    """Start an answer on one, watch it on the other, and let something happen in between."""
    async with (
        events(one.url, "/streaming/sse/chat", body=question(model, request_id="x-1")) as here,
        events(other.url, "/streaming/sse/chat/x-1") as there,
    ):
        reading = asyncio.create_task(here.rest())
        seen = [await there.receive()]
        await trouble()
        release()
        seen += await there.rest()
        assert seen == await reading
    assert numbers(seen) == list(range(1, len(seen) + 1))
    assert seen[-1]["data"]["finish_reason"] == "stop"
    return seen


async def rest(socket: Socket, seconds: float = 6 * UNIT) -> list[Message]:
    """All to the end of the answer, however long it takes until the test gives up."""
    async with asyncio.timeout(seconds):
        messages: list[Message] = []
        while not messages or not is_end(messages[-1]):
            messages.append(valid(await socket.connection.recv()))
        return messages
