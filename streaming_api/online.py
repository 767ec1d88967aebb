"""Online: whether the endpoints of a configuration answer now, for ``check --online``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import aiohttp

from streaming_api.config import StreamingConfig
from streaming_api.serving.workers import HELP
from streaming_api.upstreams.endpoint import Endpoint
from streaming_api.upstreams.gateway import MODELS_PATH

_PATIENCE: Final = aiohttp.ClientTimeout(total=5)
_STORE_SECONDS: Final = 5.0
_OTHERS: Final = ("metrics_server_endpoint", "custom_metrics_endpoint", "alertmanager_endpoint")


def unreachable(config: StreamingConfig) -> list[str]:
    """Ask every configured endpoint; return a sentence for each that does not answer."""
    return asyncio.run(_ask_all(config))


async def _ask_all(config: StreamingConfig) -> list[str]:
    named = {name: getattr(config, name) for name in _OTHERS}
    async with aiohttp.ClientSession(timeout=_PATIENCE) as session:
        asked = [_ask(session, name, url) for name, url in named.items() if url is not None]
        if config.api_gateway_endpoint is not None:
            asked.append(_ask_gateway(session, config, config.api_gateway_endpoint))
        if config.cluster_url is not None:
            asked.append(_ask_store(config.cluster_url))
        return [answer for answer in await asyncio.gather(*asked) if answer is not None]


async def _ask_gateway(
    session: aiohttp.ClientSession, config: StreamingConfig, url: str
) -> str | None:
    """Ask the gateway for its models, as the service will, so that a wrong key shows."""
    endpoint = Endpoint.parse(url)
    query = f"?{endpoint.query}" if endpoint.query else ""
    key = config.gateway_api_key
    return await _ask(
        session,
        "api_gateway_endpoint",
        endpoint.address(MODELS_PATH) + query,
        {"Authorization": f"Bearer {key}"} if key else None,
    )


async def _ask(
    session: aiohttp.ClientSession, name: str, url: str, headers: Mapping[str, str] | None = None
) -> str | None:
    """Ask one endpoint; any HTTP reply will do, but for 401 to a key of ours."""
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as reply:
            if headers and reply.status == HTTPStatus.UNAUTHORIZED:
                return f"monitoring.{name} answers 401: is monitoring.api_gateway_key right?"
            return None
    except TimeoutError:
        return f"monitoring.{name} does not answer within {_PATIENCE.total:g} s."
    except aiohttp.ClientConnectorError as error:
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror or str(error)
        return f"monitoring.{name} does not answer: {error.host}:{error.port}: {why}"
    except (aiohttp.ClientError, OSError) as error:
        return f"monitoring.{name} does not answer: {error}"


async def _ask_store(url: str) -> str | None:
    """Ask the store of the cluster, whose address may contain a password: it is not shown."""
    try:
        from streaming_api.cluster.connection import Connection, Refused, StoreError  # noqa: PLC0415
    except ImportError:
        return f"cluster.url needs the store's client: {HELP}"
    store = Connection(url, seconds=_STORE_SECONDS)
    try:
        await store.ask(("PING",))
    except Refused as error:
        return f"cluster.url: {error}"
    except StoreError as error:
        return f"cluster.url does not answer: {error}"
    finally:
        await store.close()
    return None
