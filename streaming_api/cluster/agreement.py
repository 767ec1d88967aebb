"""Agreement: whether all processes have the same keys and limits. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import attrs
import orjson

from streaming_api.cluster.presence import About
from streaming_api.config import SETTINGS, StreamingConfig

_LIMITS: Final = ["max_connections_per_ip"] + [
    name for name, row in SETTINGS.items() if row.section == "limits"
]


def about(config: StreamingConfig) -> About:
    """Return what a process with this configuration says of itself."""
    keys = sorted(map(attrs.asdict, config.api_keys), key=lambda key: str(key["name"]))
    return About(
        name=config.cluster_name or "",
        keys=_digest(keys),
        limits=_digest([getattr(config, name) for name in _LIMITS]),
    )


def _digest(value: object) -> str:
    """Return a short digest, of which nothing can be learnt but whether it is the same."""
    text = orjson.dumps(value, default=sorted, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]


def difference(mine: About, others: Iterable[About]) -> str | None:
    """Return a sentence for people about processes with other keys or limits than this one."""
    staying = [other for other in others if not other.leaving]
    keys = sorted(other.name or "another process" for other in staying if other.keys != mine.keys)
    limits = sorted(
        other.name or "another process" for other in staying if other.limits != mine.limits
    )
    if not keys and not limits:
        return None
    what = "keys and limits" if keys and limits else "keys" if keys else "limits"
    who = ", ".join(dict.fromkeys([*keys, *limits]))
    return f"Not all processes have the same {what}: {who} differs from this one; reload them."
