"""Visitors: clients that come back however often they are cut, and miss what does not come.

A `Watcher` watches topics and counts numbered alerts; a `Reader` reads one answer. Neither knows
who cuts it. They are cheap: one protocol object a connection, and what many receive is read once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from typing import Final, Literal

import attrs
import orjson

from tests.bench import clients

Face = Literal["websocket", "sse"]
PATIENCE: Final = 12.0
"""Seconds of silence after which a visitor takes its connection for dead."""
OPENING: Final = 15.0
LONGEST_PAUSE: Final = 0.5
_MOST_KNOWN: Final = 2_000

Message = dict[str, object]
_known: dict[bytes, tuple[Message, ...]] = {}


def read(payload: bytes, *, shared: bool = True) -> tuple[Message, ...]:
    """The messages of a WebSocket message, or of server-sent events.

    Args:
        shared: whether many get the same bytes, so that they are worth remembering.
    """
    found = _known.get(payload) if shared else None
    if found is None:
        if payload.startswith(b"{"):
            found = (orjson.loads(payload),)
        else:
            lines = payload.split(b"\n")
            found = tuple(orjson.loads(line[6:]) for line in lines if line.startswith(b"data: "))
        if shared:
            if len(_known) > _MOST_KNOWN:
                _known.clear()
            _known[payload] = found
    return found


class _Socket(clients.WebSocketClient):
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _left(self)


class _Events(clients.HttpClient):
    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _left(self)


def _left(client: clients.Client) -> None:
    if client.opened.done() and not client.opened.cancelled():
        client.opened.exception()  # seen, if nobody waits for it any more
    visitor = client.receiver
    if isinstance(visitor, Visitor) and visitor.client is client:
        visitor.gone.set()


def nobody() -> clients.Client:
    """A connection that asks for nothing."""
    return _Events(clients.Ignore())


class Visitor:
    """Somebody who connects, is cut, and comes back.

    Args:
        url: of the server, or of a proxy before it; may change between visits.
        face: how.

    Attributes:
        visits: connections that were opened.
        refused: what connections were answered instead, the last one.
        done: wants nothing more.
    """

    def __init__(self, url: str, face: Face) -> None:
        self.url = url
        self.face: Face = face
        self.client: clients.Client | None = None
        self.gone = asyncio.Event()
        self.visits = 0
        self.refused = ""
        self.done = False
        self.opened_at = 0
        self._heard = 0.0

    # What a kind of visitor decides

    def target(self) -> bytes:
        """The request of the next visit."""
        raise NotImplementedError

    def commands(self) -> Iterator[Message]:
        """What to say first, on a WebSocket."""
        raise NotImplementedError

    def message(self, message: Message) -> None:
        """Take one message."""
        raise NotImplementedError

    def refusal(self, status: int) -> None:
        """Take an HTTP status that is no stream."""

    shared = True

    # The visits

    def received(self, client: clients.Client, data: bytes) -> None:
        """Every message of a read."""
        self._heard = time.monotonic()
        if client is not self.client or client.opened.cancelled():
            return  # it is being left
        for payload in client.split(data):
            for message in read(payload, shared=self.shared):
                self.message(message)
        if self.done:
            self.gone.set()

    async def stay(self) -> None:
        """Visit again and again until done; cancel it to make it leave for good."""
        pause = random.Random(id(self))
        while not self.done:
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                await self.visit()
            if not self.done:
                await asyncio.sleep(pause.uniform(0.0, LONGEST_PAUSE))

    async def visit(self) -> None:
        """One connection, until it breaks or nothing more is wanted."""
        try:
            await self.open()
            while not self.gone.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.gone.wait(), PATIENCE)
                if time.monotonic() - self._heard > PATIENCE:
                    return
        finally:
            self.leave()

    async def open(self) -> None:
        """Connect, ask, and wait for the head of the answer.

        Raises:
            OSError: it cannot be connected, or was not let in.
            TimeoutError: nothing came.
        """
        self.gone.clear()
        self._heard = time.monotonic()
        kind = _Socket if self.face == "websocket" else _Events
        async with asyncio.timeout(OPENING):
            self.client = client = await clients.connect(
                clients.port_of(self.url), lambda: kind(self)
            )
            client.send(self.target())
            if self.face == "websocket":
                for command in self.commands():
                    client.send(clients.client_frame(orjson.dumps(command)))
            try:
                await client.opened
            except clients.Refused as refused:
                self.refused = str(refused)
                if self.refused.startswith("HTTP/1.1 "):
                    self.refusal(int(self.refused[9:12]))
                raise
        self.visits += 1
        self.opened_at = time.monotonic_ns()

    def leave(self) -> None:
        """Abort the connection."""
        client, self.client = self.client, None
        if client is not None and not client.closed:
            client.transport.abort()


@attrs.define
class Count:
    """What watchers have seen together.

    Attributes:
        delivered: alerts.
        lost: numbers that were skipped without a word.
        doubled: numbers that came again.
        gaps: gap notices, by reason.
        latencies: milliseconds from publication, where the connection was open by then.
    """

    delivered: int = 0
    lost: int = 0
    doubled: int = 0
    gaps: dict[str, int] = attrs.field(factory=dict)
    latencies: list[float] = attrs.field(factory=list)


class Watcher(Visitor):
    """Watches topics, alerts among them, each of which has to come once and in order.

    Attributes:
        cursor: where it stands.
        last: number of the last alert seen; 0 before the first.
        reasons: reasons of the gap notices it got.
        ready: whether this visit has been answered on the topic.
    """

    def __init__(
        self, url: str, face: Face, count: Count, topics: str = "alerts", *, timed: bool = False
    ) -> None:
        super().__init__(url, face)
        self.cursor: str | None = None
        self.last = 0
        self.reasons: list[str] = []
        self._count = count
        self._topics = topics.split(",")
        self._timed = timed

    def target(self) -> bytes:
        """WebSocket, or an event stream from the cursor."""
        if self.face == "websocket":
            return clients.upgrade_request(f"{self.url}/streaming/websocket")
        headers = (("Last-Event-ID", self.cursor),) if self.cursor else ()
        topics = ",".join(self._topics)
        return clients.get_request(f"{self.url}/streaming/sse?topics={topics}", headers)

    def commands(self) -> Iterator[Message]:
        """Subscribe from the cursor."""
        names = {"alerts": "alert", "metrics": "metrics_update", "status": "status_update"}
        for topic in self._topics:
            command: Message = {"message_type": names[topic]}
            if self.cursor and topic == "alerts":
                command["cursor"] = self.cursor
            yield command

    def message(self, message: Message) -> None:
        """Count an alert; take a snapshot as it is."""
        if message["message_type"] != "alert":
            if self.face == "sse" and "cursor" in message:
                self.cursor = str(message["cursor"])
            return
        if "cursor" in message:
            self.cursor = str(message["cursor"])
        data = message["data"]
        assert isinstance(data, dict)
        match data.get("event"):
            case "firing":
                self._number(data["alert"])
            case "snapshot":
                numbers = [number_of(alert) for alert in data["alerts"]]
                self.last = max([0, *numbers])
            case "gap":
                reason = data["reason"]
                self.reasons.append(reason)
                self._count.gaps[reason] = self._count.gaps.get(reason, 0) + 1
                self.last = 0

    def _number(self, alert: dict[str, dict[str, str]]) -> None:
        number = number_of(alert)
        if not number:
            return
        count = self._count
        if self.last and number <= self.last:
            count.doubled += 1
        elif self.last:
            count.lost += number - self.last - 1
        self.last = number
        count.delivered += 1
        sent = int(alert["annotations"]["sent"])
        if self._timed and sent > self.opened_at:
            count.latencies.append((time.monotonic_ns() - sent) / 1e6)


def number_of(alert: dict[str, dict[str, str]]) -> int:
    """An alert's number; 0 for one that is not ours."""
    return int(alert["labels"].get("number", "0"))


class Reader(Visitor):
    """Reads one answer to its end, resuming strictly after what it has seen.

    Attributes:
        sequence: number of the last message seen.
        text: of the answer so far.
        finish_reason: how it ended; None as long as it has not.
        lost: number that never came.
        doubled: numbers that came again.
        reasons: codes of errors, and reasons of gaps.
    """

    shared = False

    def __init__(self, url: str, face: Face, request_id: str) -> None:
        super().__init__(url, face)
        self.request_id = request_id
        self.sequence = 0
        self.finish_reason: str | None = None
        self.lost = 0
        self.doubled = 0
        self.reasons: list[str] = []
        self._text: list[str] = []

    @property
    def text(self) -> str:
        """What the chunks add up to."""
        return "".join(self._text)

    def target(self) -> bytes:
        """WebSocket, a POST that starts it, or a GET that resumes it."""
        if self.face == "websocket":
            return clients.upgrade_request(f"{self.url}/streaming/websocket/chat")
        if not self.sequence:
            body = orjson.dumps(self._start())
            return clients.post_request(f"{self.url}/streaming/sse/chat", body)
        cursor = (("Last-Event-ID", f"{self.request_id}:{self.sequence}"),)
        path = f"/streaming/sse/chat/{self.request_id}"
        return clients.get_request(self.url + path, cursor)

    def _start(self) -> Message:
        question = [{"role": "user", "content": "Hello"}]
        return {"model": "soak", "messages": question, "request_id": self.request_id}

    def commands(self) -> Iterator[Message]:
        """Start it, or resume it."""
        command: Message = {"message_type": "chat_completion"}
        if self.sequence:
            command |= {"action": "resume", "after": self.sequence, "request_id": self.request_id}
        else:
            command |= self._start()
        yield command

    def message(self, message: Message) -> None:
        """One chunk, the end, or word that there is none."""
        data = message["data"]
        assert isinstance(data, dict)
        if "sequence_id" not in message:
            if "error" in data:
                self.reasons.append(data["error"]["code"])
                self.done = data["error"]["code"] in {"stream_not_found", "stream_evicted"}
            elif data.get("event") == "gap":
                self.reasons.append(data["reason"])
            return
        sequence = message["sequence_id"]
        assert isinstance(sequence, int)
        if sequence <= self.sequence:
            self.doubled += 1
            return
        self.lost += sequence - self.sequence - 1
        self.sequence = sequence
        if data.get("object") == "chat.completion.end":
            self.finish_reason = data["finish_reason"]
            self.done = True
            return
        for choice in data.get("choices", ()):
            self._text.append(choice["delta"].get("content") or "")

    def refusal(self, status: int) -> None:
        """404 and 410 are final, and so is 204: all has been seen."""
        if status in {204, 404, 410}:
            self.reasons.append(str(status))
            self.done = True
