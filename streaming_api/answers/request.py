"""What is asked of the upstream for one answer: body, model, credential. Knows no answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from streaming_api.upstreams.answer import AnswerReader
    from streaming_api.upstreams.exchange import Exchange
    from streaming_api.upstreams.gateway import OnChunks, OpenAIClient
    from streaming_api.upstreams.stream_usage import Fallback
    from streaming_api.upstreams.upstream import Upstream
    from streaming_api.wire.commands import ChatRequest


@attrs.frozen
class UpstreamRequest:
    """A client's request, as it is sent to this upstream."""

    upstream: Upstream
    request: ChatRequest

    @property
    def substitute(self) -> str | None:
        """The model that answers instead of the requested one; None if the requested one does."""
        return self.upstream.substitute(self.request.model)

    def exchange(
        self,
        client: OpenAIClient,
        on_chunks: OnChunks,
        authorization: str | None,
        headers: Mapping[str, str] | None = None,
    ) -> Exchange[AnswerReader]:
        """Prepare the exchange that sends the request.

        Args:
            client: the client of the upstream, which is ready.
            on_chunks: called with the chunks of each read.
            authorization: the asking client's own; never shown to the embedded model.
            headers: further headers of the request.
        """
        model = self.substitute or self.request.model
        return client.exchange(
            self.request.body(model, ask_usage=self.upstream.usage.is_asked(model)),
            on_chunks,
            stream=self.request.stream,
            authorization=None if self.upstream.model else authorization,
            usage_asked=self.request.usage_asked,
            fallback=self._fallback(model),
            headers=headers,
        )

    def _fallback(self, model: str | None) -> Fallback | None:
        """Return what to ask if the upstream refuses the ``stream_options`` that we added."""
        if not self.request.usage_added:
            return None
        return self.upstream.usage.fallback(
            model, lambda: self.request.body(model, ask_usage=False)
        )
