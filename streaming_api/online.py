"""Online: whether the endpoints of a configuration answer now, for ``check --online``."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

from streaming_api.config import StreamingConfig

_PATIENCE: Final = aiohttp.ClientTimeout(total=5)
_ENDPOINTS: Final = (
    "api_gateway_endpoint",
    "metrics_server_endpoint",
    "custom_metrics_endpoint",
    "alertmanager_endpoint",
)


def unreachable(config: StreamingConfig) -> list[str]:
    """Ask every configured endpoint; return a sentence for each that does not answer."""
    return asyncio.run(_ask_all(config))


async def _ask_all(config: StreamingConfig) -> list[str]:
    named = {name: getattr(config, name) for name in _ENDPOINTS}
    async with aiohttp.ClientSession(timeout=_PATIENCE) as session:
        asked = [_ask(session, name, url) for name, url in named.items() if url is not None]
        return [answer for answer in await asyncio.gather(*asked) if answer is not None]


async def _ask(session: aiohttp.ClientSession, name: str, url: str) -> str | None:
    """Ask one endpoint; any HTTP reply will do, for whatever answers is there."""
    try:
        async with session.get(url, allow_redirects=False):
            return None
    except TimeoutError:
        return f"monitoring.{name} does not answer within {_PATIENCE.total:g} s."
    except (aiohttp.ClientError, OSError) as error:
        return f"monitoring.{name} does not answer: {error}"
