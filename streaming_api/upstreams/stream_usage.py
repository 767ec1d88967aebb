"""Whether an upstream's streams are asked for their usage: some refuse ``stream_options``. Pure."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs

REMEMBERED: Final = 3_600.0
"""Seconds for which a model that refused them is not asked with them again."""
MAX_REMEMBERED: Final = 1_000
MAX_NAME: Final = 256
"""Characters of a model's name above which nothing is remembered of it."""
_REFUSALS: Final = frozenset({400, 422})
_NAMES: Final = (b"streamoptions", b"includeusage")


@attrs.frozen
class Fallback:
    """The same question without ``stream_options``.

    Attributes:
        body: makes the request's body.
        refused: to be called when the upstream has refused them, before it is asked again.
        in_vain: to be called when it turns out that something else was refused.
    """

    body: Callable[[], bytes]
    refused: Callable[[], None]
    in_vain: Callable[[], None]


class StreamUsage:
    """Which models refuse ``stream_options``.

    Args:
        setting: ``auto``, ``always`` or ``never`` (``monitoring.stream_usage``).
        clock: monotonic seconds.

    Attributes:
        refusals: how often they were refused and the question was asked again.
    """

    def __init__(self, setting: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.refusals = 0
        self._setting = setting
        self._clock = clock
        self._refused: OrderedDict[str, float] = OrderedDict()  # until when

    def is_asked(self, model: str | None) -> bool:
        """Return whether this model's streams are asked for their usage."""
        if self._setting != "auto":
            return self._setting == "always"
        return self._clock() >= self._refused.get(model or "", 0.0)

    def fallback(self, model: str | None, body: Callable[[], bytes]) -> Fallback | None:
        """Return what to ask where this model refuses them; None if nothing else can be asked."""
        if self._setting != "auto" or not self.is_asked(model):
            return None
        name = model or ""
        return Fallback(body, lambda: self._remember(name), lambda: self._forget(name))

    def _remember(self, name: str) -> None:
        self.refusals += 1
        if len(name) <= MAX_NAME:
            self._refused[name] = self._clock() + REMEMBERED
            self._refused.move_to_end(name)
            if len(self._refused) > MAX_REMEMBERED:
                self._refused.popitem(last=False)

    def _forget(self, name: str) -> None:
        self._refused.pop(name, None)


def is_refused(status: int | None) -> bool:
    """Return whether a status says that a parameter was refused before anything was generated."""
    return status in _REFUSALS


def names_stream_options(refusal: bytes) -> bool:
    """Return whether a refusal's body names them: in its words, its parameter or a ``loc``.

    Servers in other languages write ``streamOptions`` or ``Stream-Options``.
    """
    words = refusal.lower().translate(None, b"_- ")
    return any(name in words for name in _NAMES)
