"""Quotas: what one key may use, besides the limits that all keys have. Monotonic time.

A window begins with the first answer in it. What an answer has used is known at its end, so a
running one may pass a limit, and the next is refused. Each process counts from its start; in a
cluster, what all of them have used takes the place of that (`Quotas.replace`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import attrs

from streaming_api.errors import Forbidden, TooMany

if TYPE_CHECKING:
    from streaming_api.config import ApiKey

MINUTE: Final = 60.0
DAY: Final = 86_400.0


@attrs.define
class _Window:
    """Tokens of one key in the current window."""

    seconds: float
    begun: float = 0.0
    used: int = 0

    def now(self) -> int:
        """Return how many tokens of the current window are used."""
        if time.monotonic() - self.begun >= self.seconds:
            self.used = 0
        return self.used

    def left(self) -> float:
        """Return the seconds until the window is over."""
        return max(0.0, self.begun + self.seconds - time.monotonic())

    def add(self, tokens: int) -> None:
        """Count tokens; the first ones begin the window."""
        if not self.now():
            self.begun = time.monotonic()
        self.used += tokens


class Quotas:
    """Tokens by key, per minute and per day."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[_Window, _Window]] = {}

    def _of(self, name: str) -> tuple[_Window, _Window]:
        return self._windows.setdefault(name, (_Window(MINUTE), _Window(DAY)))

    def spend(self, name: str, tokens: int) -> None:
        """Count the tokens that an answer has used."""
        for window in self._of(name):
            window.add(tokens)

    def replace(self, name: str, *windows: tuple[int, float]) -> None:
        """Replace what is counted here by what all processes have used.

        Args:
            name: the key.
            windows: for a minute and for a day, the tokens used, and the seconds left.
        """
        for window, (used, left) in zip(self._of(name), windows, strict=True):
            window.used = used
            window.begun = time.monotonic() - window.seconds + left

    def check(self, key: ApiKey, model: str | None) -> None:
        """Check that a key may ask for another answer.

        Raises:
            Forbidden: the key may not use this model.
            TooMany: the key has used as many tokens as it may.
        """
        if not key.may_ask(model):
            may = ", ".join(sorted(key.models))
            message = f"This key may not ask this model; it may ask {may}."
            raise Forbidden(message, "model_not_allowed", param="model")
        minute, day = self._of(key.name)
        for window, limit, per in (
            (minute, key.tokens_per_minute, "minute"),
            (day, key.tokens_per_day, "day"),
        ):
            if limit and window.now() >= limit:
                message = f"This key has used its {limit} tokens of this {per}."
                raise TooMany(message, "rate_limit_exceeded", retry_after=window.left())

    def headers(self, key: ApiKey, running: int) -> dict[str, str]:
        """Return OpenAI's ``x-ratelimit-*`` headers for the limits that this key has."""
        headers: dict[str, str] = {}
        if key.answers:
            headers["x-ratelimit-limit-requests"] = str(key.answers)
            headers["x-ratelimit-remaining-requests"] = str(max(0, key.answers - running))
        minute, day = self._of(key.name)
        limit, window = (
            (key.tokens_per_minute, minute) if key.tokens_per_minute else (key.tokens_per_day, day)
        )
        if limit:
            headers["x-ratelimit-limit-tokens"] = str(limit)
            headers["x-ratelimit-remaining-tokens"] = str(max(0, limit - window.now()))
            headers["x-ratelimit-reset-tokens"] = f"{window.left():.0f}s"
        return headers
