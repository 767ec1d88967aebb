"""What is started before a block of a test and stopped after it."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Lifecycle:
    """``async with`` for whatever has ``start`` and ``stop``."""

    async def start(self) -> None:
        """Begin."""
        raise NotImplementedError

    async def stop(self) -> object:
        """End."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
