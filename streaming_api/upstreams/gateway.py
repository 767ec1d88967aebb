"""The only client of the OpenAI protocol: one `Exchange` per answer, and the list of models.

Knows no streams, viewers or topics: chunks leave through a callback, in the call stack of the
read that brought them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from streaming_api.upstreams.answer import AnswerReader, ExchangeResult
from streaming_api.upstreams.connections import Connections
from streaming_api.upstreams.endpoint import Endpoint, relayed_head
from streaming_api.upstreams.exchange import Exchange
from streaming_api.upstreams.model_list import ModelsReader
from streaming_api.upstreams.question import Question
from streaming_api.upstreams.relay import Relay
from streaming_api.upstreams.reply_errors import UpstreamError, UpstreamFault, fault
from streaming_api.upstreams.signs import Signs
from streaming_api.upstreams.stream_usage import Fallback
from streaming_api.upstreams.whole_answer import WholeAnswerReader

__all__ = ["ExchangeResult", "OpenAIClient", "UpstreamError", "UpstreamFault"]

CHAT_PATH: Final = "/chat/completions"
MODELS_PATH: Final = "/models"
MAX_MODELS_BODY: Final = 2 * 2**20  # bytes
MODELS_TIMEOUT: Final = 10.0  # seconds

OnChunks = Callable[[list[bytes]], None]


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
        self._endpoint = Endpoint.parse(base_url)
        self._chat_address = self._endpoint.address(CHAT_PATH)
        self._connections = Connections(
            self._endpoint,
            connect_timeout=connect_timeout,
            silence_timeout=silence_timeout,
            keep_alive=keep_alive,
        )
        self._authorization = f"Bearer {api_key}" if api_key else None
        self._forward_authorization = forward_authorization
        self._max_event_bytes = max_event_bytes
        self.signs = signs or Signs()

    @property
    def has_key(self) -> bool:
        """Whether a key is configured for it."""
        return self._authorization is not None

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
    ) -> Exchange[AnswerReader]:
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
        limit, address = self._max_event_bytes, self._chat_address
        credential = self.credential(authorization)
        our_key = credential == self._authorization

        def request(body: bytes) -> bytes:
            return self._endpoint.request(
                "POST",
                CHAT_PATH,
                accept="text/event-stream" if stream else "application/json",
                authorization=credential,
                headers=headers,
                body=body,
            )

        def reader() -> AnswerReader:
            if stream:
                return AnswerReader(limit, usage_asked=usage_asked, as_chunks=True)
            return WholeAnswerReader(limit)

        return Exchange(
            self._connections,
            Question(address, request, reader, limit, streamed=stream),
            body,
            on_chunks,
            fallback=fallback,
            during=lambda answer: self.signs.during(answer, address, our_key=our_key),
        )

    def relay(
        self, method: str, path: str, query: str, headers: list[tuple[str, str]], body: bytes | None
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
        head = relayed_head(self._endpoint, method, path, query, headers)
        return Relay(self._connections, head + (body or b""), whole=body is not None)

    async def models(self, authorization: str | None = None) -> list[dict[str, object]]:
        """Ask for the model objects, as the upstream has them.

        Raises:
            UpstreamError: the list could not be had, for whatever reason.
            ValueError: `authorization` holds control characters.
        """
        address = self._endpoint.address(MODELS_PATH)
        request = self._endpoint.request(
            "GET",
            MODELS_PATH,
            accept="application/json",
            authorization=self.credential(authorization),
        )
        question = Question(address, lambda _: request, ModelsReader, MAX_MODELS_BODY)
        exchange = Exchange(self._connections, question, b"", lambda _: None)
        try:
            async with asyncio.timeout(MODELS_TIMEOUT):
                reader = await exchange.run()
        except TimeoutError:
            late = f"The upstream did not list its models within {MODELS_TIMEOUT:g} seconds."
            raise UpstreamError(fault("upstream_timeout", late)) from None
        error = reader.error
        if error is not None:
            raise UpstreamError(
                error if error.status else attrs.evolve(error, status=exchange.status)
            )
        return reader.models

    async def close(self) -> None:
        """Abort what is still open; running exchanges end with `upstream_disconnected`."""
        await self._connections.close()
