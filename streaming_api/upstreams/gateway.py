"""The only client of the OpenAI protocol: one `Exchange` per answer, and the list of models.

Knows no streams, viewers or topics: chunks leave through a callback, in the call stack of the
read that brought them, and the end leaves as an `ExchangeResult`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

import attrs
import orjson

from streaming_api.upstreams.answer import AnswerReader, invalid
from streaming_api.upstreams.call import Call
from streaming_api.upstreams.connector import Connector
from streaming_api.upstreams.endpoint import Endpoint
from streaming_api.upstreams.reply_errors import (
    UpstreamError,
    UpstreamFault,
    at_address,
    error_of_object,
    fault,
)

__all__ = [
    "Exchange",
    "ExchangeResult",
    "ModelsReply",
    "OpenAIClient",
    "UpstreamError",
    "UpstreamFault",
]

CHAT_PATH: Final = "/chat/completions"
MODELS_PATH: Final = "/models"
MAX_MODELS_BODY: Final = 2 * 2**20  # bytes
MODELS_TIMEOUT: Final = 10.0  # seconds

OnChunks = Callable[[list[bytes]], None]


@attrs.frozen
class ExchangeResult:
    """How an answer ended.

    Attributes:
        finish_reason: the upstream's own; None when it gave none, or not for every choice.
        usage: the upstream's own figures, the newest it sent.
        error: None for an answer that is complete, and for one that the upstream ended in good
            order but without a finish reason.
        content_chunks: chunks that carried content, for an estimate of usage.
    """

    finish_reason: str | None
    usage: dict[str, object] | None
    error: UpstreamFault | None
    content_chunks: int
    done: bool = False


@attrs.frozen
class ModelsReply:
    """`GET /v1/models`: the model objects as the upstream gave them."""

    models: list[dict[str, object]]


class OpenAIClient:
    """An upstream and how to speak to it; holds no connection between exchanges."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        connect_timeout: float = 10,
        forward_authorization: bool = False,
        silence_timeout: float = 300,
        max_event_bytes: int = 16 * 2**20,
    ) -> None:
        """Open nothing yet.

        Args:
            base_url: `http(s)://host[:port][/path]`, see `Endpoint`.
            api_key: sent as a bearer token.
            forward_authorization: a client's own Authorization goes first, before `api_key`.
            connect_timeout: seconds for name look-up, TCP and TLS together.
            silence_timeout: seconds without a byte after which an answer ends with an error.
            max_event_bytes: bound on one event, and on a whole answer that is not streamed.

        Raises:
            ValueError: `base_url` is no such address.
        """
        endpoint = Endpoint.parse(base_url)
        tls = ssl.create_default_context() if endpoint.is_tls else None
        self._connector = Connector(endpoint, tls, connect_timeout, silence_timeout)
        self._authorization = f"Bearer {api_key}" if api_key else None
        self._forward_authorization = forward_authorization
        self._max_event_bytes = max_event_bytes

    @property
    def authority(self) -> str:
        """`host:port` of the upstream."""
        return self._connector.endpoint.authority

    def credential(self, authorization: str | None) -> str | None:
        """The Authorization that goes upstream for a client with this one of its own."""
        if self._forward_authorization or self._authorization is None:
            return authorization or self._authorization
        return self._authorization

    def exchange(
        self,
        body: bytes,
        on_chunks: OnChunks,
        *,
        stream: bool,
        authorization: str | None = None,
        usage_asked: bool = True,
    ) -> Exchange:
        """Prepare one answer; `Exchange.run` asks for it.

        Args:
            body: the JSON request, ready to send.
            on_chunks: called once per read with the chunks that it completed, unchanged but for
                line ends, which are spaces, and what UTF-8 JSON cannot say; or once with the whole
                `chat.completion`.
            stream: whether `body` asks for a stream.
            authorization: the client's own header; see `credential`.
            usage_asked: False withholds the chunk that holds nothing but usage.

        Raises:
            ValueError: `authorization` holds control characters.
        """
        request = self._connector.endpoint.request(
            "POST",
            CHAT_PATH,
            accept="text/event-stream" if stream else "application/json",
            authorization=self.credential(authorization),
            body=body,
        )
        answer = AnswerReader(self._max_event_bytes, usage_asked=usage_asked, as_chunks=stream)
        call = Call(
            self._connector,
            request,
            answer,
            on_chunks,
            streamed=stream,
            max_body=self._max_event_bytes,
        )
        return Exchange(call, answer, self._connector.endpoint.address(CHAT_PATH))

    async def models(self, authorization: str | None = None) -> ModelsReply:
        """Ask for the list of models.

        Raises:
            UpstreamError: it could not be had, for whatever reason.
            ValueError: `authorization` holds control characters.
        """
        request = self._connector.endpoint.request(
            "GET",
            MODELS_PATH,
            accept="application/json",
            authorization=self.credential(authorization),
        )
        reader = _ModelsReader()
        call = Call(
            self._connector,
            request,
            reader,
            lambda _: None,
            streamed=False,
            max_body=MAX_MODELS_BODY,
        )
        try:
            async with asyncio.timeout(MODELS_TIMEOUT):
                await call.run()
        except TimeoutError:
            late = f"The upstream did not list its models within {MODELS_TIMEOUT:g} seconds."
            raise UpstreamError(fault("upstream_timeout", late)) from None
        if reader.error is not None:
            address = self._connector.endpoint.address(MODELS_PATH)
            raise UpstreamError(at_address(reader.error, address))
        return ModelsReply(reader.models)

    async def close(self) -> None:
        """Abort what is still open; exchanges that run end with `upstream_disconnected`."""
        for stream in list(self._connector.open_streams):
            stream.give_up("this server is shutting down")
        await asyncio.sleep(0)  # transports close in the next iteration of the loop


class Exchange:
    """One question and its answer, on a connection of its own."""

    __slots__ = ("_address", "_answer", "_call")

    def __init__(self, call: Call, answer: AnswerReader, address: str) -> None:
        self._call = call
        self._answer = answer
        self._address = address

    async def run(self) -> ExchangeResult:
        """Ask, push the answer to `on_chunks`, and say how it ended. Call it once.

        An upstream's faults are in `ExchangeResult.error`; only what `on_chunks` raises is raised.
        Cancelling aborts the upstream's connection at once: before the first byte, and while
        connecting, too.
        """
        await self._call.run()
        answer = self._answer
        if answer.error is not None:
            answer.error = at_address(answer.error, self._address)
        return ExchangeResult(
            answer.finish_reason, answer.usage, answer.error, answer.content_chunks, answer.done
        )

    @property
    def repaired(self) -> int:
        """Chunks and replies in which something was replaced that UTF-8 JSON cannot say."""
        return self._answer.repaired

    def pause_reading(self) -> None:
        """Read nothing more for now: TCP makes the upstream wait, and its silence is not counted.

        Chunks of a read that is being handled may still arrive.
        """
        self._call.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`; harmless without it."""
        self._call.resume_reading()


class _ModelsReader:
    """Reads `{"object": "list", "data": [{"id": ...}, ...]}`."""

    def __init__(self) -> None:
        self.over = False
        self.error: UpstreamFault | None = None
        self.repaired = 0
        self.models: list[dict[str, object]] = []

    def read(self, data: bytes) -> list[bytes]:
        """Never called: the list of models is not streamed."""
        raise NotImplementedError(data)

    def read_end(self, *, delimited: bool) -> list[bytes]:
        """Never called, likewise."""
        raise NotImplementedError(delimited)

    def read_whole(self, body: bytes) -> list[bytes]:
        try:
            reply = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            self.fail(invalid(f"a list of models that is not JSON ({exc})"))
            return []
        models = reply.get("data") if isinstance(reply, dict) else None
        if isinstance(models, list) and all(isinstance(model, dict) for model in models):
            self.models = models
            self.over = True
        else:
            self.fail(error_of_object(reply) or invalid("no list of models"))
        return []

    def fail(self, error: UpstreamFault) -> None:
        self.error = error
        self.over = True
