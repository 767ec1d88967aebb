"""The upstream of this process: a gateway, or the embedded model behind the same client."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

import attrs

from streaming_api.upstreams.embedded import EmbeddedModel
from streaming_api.upstreams.gateway import OpenAIClient
from streaming_api.upstreams.header_names import chosen
from streaming_api.upstreams.model_list import ModelList
from streaming_api.upstreams.reply_errors import UpstreamError, UpstreamFault
from streaming_api.upstreams.signs import Signs
from streaming_api.upstreams.stream_usage import StreamUsage

if TYPE_CHECKING:
    from streaming_api.config import StreamingConfig


@attrs.frozen
class Health:
    """The health of an upstream.

    Attributes:
        state: ``up``, ``down``, ``loading`` or ``absent``.
        reason: a sentence for people where it is not up.
        models: the names that it answers to.
    """

    state: str
    reason: str | None = None
    models: tuple[str, ...] = ()


class Upstream:
    """Where answers come from.

    Attributes:
        model: the embedded model; None when a gateway is configured.
        usage: the models that refuse to be asked for the usage of their streams.
    """

    def __init__(self, config: StreamingConfig) -> None:
        self.usage = StreamUsage(config.stream_usage)
        self._silence = config.connection_timeout
        self._keep_alive = config.upstream_keep_alive
        self._return_headers = config.return_headers
        self._doubt = asyncio.Event()
        self._signs = Signs(self._doubted)
        self._list = ModelList(self._ask_models)
        self._gateway: OpenAIClient | None = None
        self.model: EmbeddedModel | None = None
        self.apply(config)
        if config.api_gateway_endpoint is None and config.streaming_chat_enabled:
            self.model = EmbeddedModel(
                config.embedded_model,
                # one core is left to the event loop: sharing it makes both slow
                threads=max(1, min(config.cpu_cores, os.cpu_count() or 1) - 1),
                max_requests=config.pool_size + config.max_queued,
            )

    def apply(self, config: StreamingConfig) -> None:
        """Use this configuration's gateway from now on; running answers go on as they are."""
        if config.api_gateway_endpoint is not None:
            self._gateway = OpenAIClient(
                config.api_gateway_endpoint,
                api_key=config.gateway_api_key,
                forward_authorization=config.forward_authorization,
                silence_timeout=config.connection_timeout,
                signs=self._signs,
                keep_alive=config.upstream_keep_alive,
            )
            self._doubted()

    @property
    def name(self) -> str:
        """The component that it is called in the status: ``gateway`` or ``embedded_model``."""
        return "gateway" if self.model is None else "embedded_model"

    @property
    def client(self) -> OpenAIClient | None:
        """The client to ask; None while there is none: see `ready`."""
        return self._gateway

    async def ready(self) -> OpenAIClient:
        """Return the client to ask, as soon as it can answer: a model may have to load first.

        Raises:
            UpstreamError: there is none; the error says why.
        """
        if self.model is not None and self._gateway is None:
            if not await self.model.wait_ready() or self.model.url is None:
                reason = self.model.reason or "There is no model here."
                raise UpstreamError(UpstreamFault(503, "upstream_error", "no_model", reason))
            self._gateway = OpenAIClient(
                self.model.url,
                api_key=self.model.api_key,
                silence_timeout=self._silence,
                signs=self._signs,
                keep_alive=self._keep_alive,
            )
        if self._gateway is None:
            reason = "No upstream is configured (monitoring.api_gateway_endpoint)."
            raise UpstreamError(UpstreamFault(503, "upstream_error", "no_upstream", reason))
        return self._gateway

    def returned(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the gateway's headers that a client is shown, its own id under another name."""
        shown = chosen(headers, self._return_headers)
        if "x-request-id" in headers:
            shown["X-Upstream-Request-Id"] = headers["x-request-id"]
        return shown

    def substitute(self, model: str | None) -> str | None:
        """Return the embedded model's name when another one is asked for; else None."""
        if self.model is None or self.model.model_name in {None, model}:
            return None
        return self.model.model_name

    def credential(self, authorization: str | None) -> str | None:
        """Return the Authorization to send upstream for a client's; see `OpenAIClient`."""
        if self._gateway is None:
            return None
        return self._gateway.credential(authorization if self.model is None else None)

    async def models(self, authorization: str | None = None) -> list[dict[str, object]]:
        """Return the models that can be asked for, as OpenAI lists them.

        Raises:
            UpstreamError: the upstream does not list them.
        """
        gateway = await self.ready()
        forwarded = authorization if self.model is None else None
        credential = gateway.credential(forwarded)
        return await self._list.get(credential if credential == forwarded else None)

    @property
    def _has_key(self) -> bool:
        return self._gateway is not None and self._gateway.has_key

    async def _ask_models(self, credential: str | None) -> list[dict[str, object]]:
        gateway = await self.ready()
        return await gateway.models(credential)

    async def health(self) -> Health:
        """Return its health now; ask the gateway for its models.

        Any reply below 500, and 501, shows that it is up; the answers themselves show it best.
        """
        if self.model is not None and self.model.state != "ready":
            state = "down" if self.model.state == "failed" else self.model.state
            return Health(state, self.model.reason)
        signs = self._signs
        try:
            listed = await self.models()
        except UpstreamError as failed:
            error = failed.error
            signs.listed(error)
            if not _is_an_answer(error.status) and not signs.outweigh_the_list:
                return Health("down", error.message)
            if error.status in {401, 403}:  # its own words may hold the key
                silent = not self._has_key or signs.outweigh_the_list
                words = f"It lists no models: {error.status} to monitoring.api_gateway_key."
                return Health("up", signs.complaint or (None if silent else words))
            return Health("up", signs.complaint or f"It lists no models: {error.message}")
        signs.listed(None)
        return Health("up", signs.complaint, tuple(str(model["id"]) for model in listed))

    async def doubted(self, seconds: float) -> None:
        """Wait for `seconds`, or until answers give a reason to check its health again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._doubt.wait()
        self._doubt.clear()

    def _doubted(self) -> None:
        self._list.forget()
        self._doubt.set()

    async def start(self) -> None:
        """Begin to load the embedded model, if that is what answers."""
        if self.model is not None:
            await self.model.start()

    async def stop(self) -> None:
        """Close the client, and stop the embedded model."""
        await self._list.close()
        if self._gateway is not None:
            await self._gateway.close()
        if self.model is not None:
            await self.model.stop()


def _is_an_answer(status: int | None) -> bool:
    return status is not None and (status < 500 or status == HTTPStatus.NOT_IMPLEMENTED)
