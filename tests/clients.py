"""Clients for tests: real packages on real sockets, every frame checked against the schema."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import httpx
import httpx_sse
import jsonschema
import websockets
from websockets.asyncio.client import ClientConnection

UNIT: Final = 5.0
"""Seconds that anything may take before a test gives up; never waited for when all is well."""

_SCHEMA = json.loads(
    (Path(__file__).parent.parent / "streaming_api/web/contract/message.schema.json").read_text()
)
_VALIDATOR = jsonschema.Draft202012Validator(
    _SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)

Message = dict[str, Any]


def valid(text: str | bytes) -> Message:
    """A message, checked against the schema that the server publishes."""
    message: Message = json.loads(text)
    _VALIDATOR.validate(message)
    return message


def content(messages: list[Message]) -> str:
    """The text that the chunks of one answer add up to."""
    choices = (choice for message in messages for choice in message["data"].get("choices", ()))
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def is_end(message: Message) -> bool:
    """Whether it is the last message of an answer."""
    return bool(message["data"].get("object") == "chat.completion.end")


def question(model: str = "fake", **fields: object) -> Message:
    """What asks for an answer: a body for HTTP, or most of a command."""
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}


def key(name: str, *scopes: str, **limits: object) -> dict[str, object]:
    """An API key whose secret is its name, as a configuration has it."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {"name": name, "sha256": digest, "scopes": list(scopes or ("chat",)), **limits}


def bearer(secret: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {secret}"}


def http(url: str = "", *, timeout: float = UNIT) -> httpx.AsyncClient:
    """An HTTP client that knows no proxy; it loads no certificates, which takes long."""
    return httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=timeout)  # noqa: S501


class Reader(ABC):
    """Reads messages."""

    @abstractmethod
    async def receive(self) -> Message:
        """The next message."""

    async def until(self, condition: Callable[[Message], bool]) -> list[Message]:
        """Messages up to and with the first for which the condition holds."""
        messages = [await self.receive()]
        while not condition(messages[-1]):
            messages.append(await self.receive())
        return messages

    async def answer(self) -> list[Message]:
        """Messages up to the end of an answer."""
        return await self.until(is_end)


class Socket(Reader):
    """A WebSocket client (the `websockets` package)."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **fields: object) -> None:
        """One command."""
        await self.connection.send(json.dumps(fields))

    async def start(self, request_id: str | None = None, **fields: object) -> None:
        """Start an answer."""
        if request_id is not None:
            fields["request_id"] = request_id
        await self.send(message_type="chat_completion", **(question() | fields))

    async def resume(self, request_id: str, after: object = 0) -> None:
        """Ask for what follows in an answer."""
        await self.send(
            message_type="chat_completion", action="resume", request_id=request_id, after=after
        )

    async def cancel(self, request_id: str) -> None:
        """End an answer."""
        await self.send(message_type="chat_completion", action="cancel", request_id=request_id)

    async def subscribe(self, message_type: str) -> Message:
        """Watch a topic; its snapshot."""
        await self.send(message_type=message_type)
        return (await self.until(lambda message: message["data"].get("event") == "snapshot"))[-1]

    async def receive(self) -> Message:
        """The next message."""
        async with asyncio.timeout(UNIT):
            return valid(await self.connection.recv())

    async def closed(self) -> int:
        """Wait for the server to close; the code."""
        async with asyncio.timeout(UNIT):
            await self.connection.wait_closed()
        return self.connection.close_code or 0

    async def __aenter__(self) -> Self:
        return self


@asynccontextmanager
async def websocket(
    url: str,
    path: str = "/streaming/websocket",
    **options: Any,  # noqa: ANN401 (of `websockets.connect`)
) -> AsyncIterator[Socket]:
    """A WebSocket to a server."""
    address = url.replace("http", "ws", 1) + path
    options.setdefault("max_size", None)
    async with websockets.connect(address, **options) as connection:
        yield Socket(connection)


async def both_see(one: Socket, other: Socket, request_id: str, number: int) -> list[Message]:
    """Start a gated answer, and resume it from another socket: what both have up to there."""
    await one.start(request_id, model="gated")
    seen = await one.until(lambda message: message.get("sequence_id") == number)
    await other.resume(request_id)
    assert await other.until(lambda message: message.get("sequence_id") == number) == seen
    return seen


class Events(Reader):
    """An event stream client (the `httpx-sse` package)."""

    def __init__(self, response: httpx.Response, source: httpx_sse.EventSource) -> None:
        self.response = response
        self._events = source.aiter_sse()

    async def receive(self) -> Message:
        """The next event's message.

        Raises:
            StopAsyncIteration: the response has ended.
        """
        async with asyncio.timeout(UNIT):
            event = await anext(self._events)
        message = valid(event.data)
        assert event.event == message["message_type"]
        assert event.id == message.get("cursor", event.id)
        return message

    async def rest(self) -> list[Message]:
        """Messages until the response ends."""
        messages = []
        try:
            while True:
                messages.append(await self.receive())
        except StopAsyncIteration:
            return messages


@asynccontextmanager
async def events(
    url: str, path: str, *, body: object = None, headers: dict[str, str] | None = None
) -> AsyncIterator[Events]:
    """An event stream from a server; with a body it is a POST."""
    async with (
        http() as client,
        httpx_sse.aconnect_sse(
            client, "GET" if body is None else "POST", url + path, json=body, headers=headers or {}
        ) as source,
    ):
        yield Events(source.response, source)


async def eventually(condition: Callable[[], object], seconds: float = UNIT) -> None:
    """Wait until a condition of the server holds; fail after so many seconds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def webhook(*names: str, status: str = "firing") -> Message:
    """What Alertmanager posts, version 4."""
    alerts = [
        {
            "status": status,
            "labels": {"alertname": name},
            "annotations": {"summary": f"{name} is on"},
            "startsAt": "2026-01-31T12:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z" if status == "firing" else "2026-01-31T12:05:00Z",
            "generatorURL": "http://localhost/graph",
            "fingerprint": name.encode().hex(),
        }
        for name in names
    ]
    return {
        "version": "4",
        "groupKey": "{}",
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "streaming-api",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://localhost",
        "alerts": alerts,
    }


async def fire(url: str, *names: str, status: str = "firing") -> None:
    """Post alerts to the webhook."""
    body = webhook(*names, status=status)
    async with http() as client:
        reply = await client.post(f"{url}/streaming/alerts", json=body)
    assert (reply.status_code, reply.json()) == (200, {"accepted": len(names)})


def noise(size: int, seed: int) -> str:
    """Text that no compression makes smaller than so many bytes."""
    return base64.urlsafe_b64encode(random.Random(seed).randbytes(size)).decode()


def name_of(message: Message) -> str:
    """The alert that a change is about."""
    return str(message["data"]["alert"]["labels"]["alertname"])
