"""The only client of the OpenAI protocol: one `Exchange` per answer, and the list of models.

Knows no streams, viewers or topics: chunks leave through a callback, in the call stack of the
read that brought them, and the end leaves as an `ExchangeResult`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from streaming_api.upstreams.answer import AnswerReader
from streaming_api.upstreams.call import Call
from streaming_api.upstreams.connector import Connector
from streaming_api.upstreams.endpoint import Endpoint, relayed_head
from streaming_api.upstreams.kept_alive import KeptAlive
from streaming_api.upstreams.model_list import ModelsReader
from streaming_api.upstreams.relay import Relay
from streaming_api.upstreams.reply_errors import (
    UpstreamError,
    UpstreamFault,
    at_address,
    fault,
)
from streaming_api.upstreams.signs import Signs
from streaming_api.upstreams.stream_usage import Fallback, is_refused, names_stream_options
from streaming_api.upstreams.whole_answer import WholeAnswerReader

__all__ = [
    "Exchange",
    "ExchangeResult",
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


class OpenAIClient:
    """An upstream and how to speak to it."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        connect_timeout: float = 10,
        forward_authorization: bool = False,
        silence_timeout: float = 300,
        max_event_bytes: int = 16 * 2**20,
        signs: Signs | None = None,
        keep_alive: float = 0,
    ) -> None:
        """Open nothing yet.

        Args:
            base_url: ``http(s)://host[:port][/path]``, see `Endpoint`.
            api_key: sent as a bearer token.
            forward_authorization: a client's own Authorization goes first, before `api_key`.
            connect_timeout: seconds for name look-up, TCP and TLS together.
            silence_timeout: seconds without a byte after which an answer ends with an error.
            max_event_bytes: bound on one event, and on a whole answer that is not streamed.
            signs: notified of how answers went.
            keep_alive: seconds that a connection waits for another request; 0 for none.

        Raises:
            ValueError: `base_url` is not such an address.
        """
        endpoint = Endpoint.parse(base_url)
        tls = ssl.create_default_context() if endpoint.is_tls else None
        kept = KeptAlive(keep_alive)
        self._connector = Connector(endpoint, tls, connect_timeout, silence_timeout, kept)
        self._authorization = f"Bearer {api_key}" if api_key else None
        self._forward_authorization = forward_authorization
        self._max_event_bytes = max_event_bytes
        self.signs = signs or Signs()

    def credential(self, authorization: str | None) -> str | None:
        """Return the Authorization to send upstream for a client with this one of its own."""
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
        fallback: Fallback | None = None,
        headers: Mapping[str, str] | None = None,
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
            fallback: sent instead where the upstream refuses `stream_options`.
            headers: further headers of the request, such as its trace.

        Raises:
            ValueError: `authorization` holds control characters.
        """
        accept = "text/event-stream" if stream else "application/json"
        endpoint, credential = self._connector.endpoint, self.credential(authorization)

        def question(body: bytes) -> tuple[Call, AnswerReader]:
            request = endpoint.request(
                "POST",
                CHAT_PATH,
                accept=accept,
                authorization=credential,
                headers=headers,
                body=body,
            )
            limit = self._max_event_bytes
            if stream:
                answer = AnswerReader(limit, usage_asked=usage_asked, as_chunks=True)
            else:
                answer = WholeAnswerReader(limit)
            call = Call(
                self._connector, request, answer, on_chunks, streamed=stream, max_body=limit
            )
            return call, answer

        return Exchange(question, body, fallback, endpoint.address(CHAT_PATH), self.signs)

    def relay(
        self,
        method: str,
        path: str,
        query: str,
        headers: list[tuple[str, str]],
        body: bytes | None,
    ) -> Relay:
        """Prepare to pass a request on.

        Args:
            method: the client's.
            path: the client's, percent-encoded.
            query: the client's, without "?".
            headers: the headers that the upstream is to see, credentials included.
            body: all of it; None if it comes in pieces.

        Raises:
            ValueError: a header holds control characters.
        """
        head = relayed_head(self._connector.endpoint, method, path, query, headers)
        return Relay(self._connector, head + (body or b""), whole=body is not None)

    async def models(self, authorization: str | None = None) -> list[dict[str, object]]:
        """Ask for the model objects, as the upstream has them.

        Raises:
            UpstreamError: the list could not be had, for whatever reason.
            ValueError: `authorization` holds control characters.
        """
        request = self._connector.endpoint.request(
            "GET",
            MODELS_PATH,
            accept="application/json",
            authorization=self.credential(authorization),
        )
        reader = ModelsReader()
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
            error = reader.error
            if error.status is None:
                error = attrs.evolve(error, status=call.status)
            address = self._connector.endpoint.address(MODELS_PATH)
            raise UpstreamError(at_address(error, address))
        return reader.models

    async def close(self) -> None:
        """Abort what is still open; running exchanges end with `upstream_disconnected`."""
        self._connector.kept.close()
        for stream in list(self._connector.open_streams):
            stream.give_up("this server is shutting down")
        await asyncio.sleep(0)  # transports close in the next iteration of the loop


class Exchange:
    """One question and its answer."""

    __slots__ = ("_address", "_answer", "_call", "_fallback", "_question", "_signs")

    def __init__(
        self,
        question: Callable[[bytes], tuple[Call, AnswerReader]],
        body: bytes,
        fallback: Fallback | None,
        address: str,
        signs: Signs,
    ) -> None:
        self._question = question
        self._call, self._answer = question(body)
        self._fallback = fallback
        self._address = address
        self._signs = signs

    async def run(self) -> ExchangeResult:
        """Ask, push the answer to `on_chunks`, and return how it ended; call it only once.

        An upstream's faults are in `ExchangeResult.error`; only what `on_chunks` raises is raised.
        Cancelling aborts the upstream's connection at once: before the first byte, and while
        connecting, too.
        """
        await self._ask()
        fallback = self._fallback
        if fallback is not None and self._is_refused and names_stream_options(self._call.body):
            fallback.refused()
            self._call, self._answer = self._question(fallback.body())
            await self._ask()
            if self._is_refused:
                fallback.in_vain()
        answer = self._answer
        return ExchangeResult(
            answer.finish_reason, answer.usage, answer.error, answer.content_chunks, answer.done
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the upstream's reply."""
        return self._call.headers

    @property
    def repaired(self) -> int:
        """Chunks and replies in which something that UTF-8 JSON cannot say was replaced."""
        return self._answer.repaired

    @property
    def status(self) -> int | None:
        """The HTTP status of the upstream; None where it has sent none."""
        return self._call.status

    @property
    def _is_refused(self) -> bool:
        return self._answer.error is not None and is_refused(self._call.status)

    async def _ask(self) -> None:
        answer = self._answer
        self._signs.began(answer)
        try:
            await self._call.run()
            if answer.error is not None:
                answer.error = at_address(answer.error, self._address)
        finally:
            self._signs.ended(answer, self._address)

    def pause_reading(self) -> None:
        """Read nothing more for now: TCP makes the upstream wait, and its silence is not counted.

        Chunks of a read that is being handled may still arrive.
        """
        self._call.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`; harmless without it."""
        self._call.resume_reading()
