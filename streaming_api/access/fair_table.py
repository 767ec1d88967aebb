"""A bounded table that one holder cannot fill at the others' expense. Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

V = TypeVar("V")


class FairTable(Generic[V]):
    """Values by key; when the table is full, the holder of most entries loses the oldest.

    Args:
        most: entries that are kept at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._holders: dict[str, str] = {}  # by key
        self._held: dict[str, dict[str, V]] = {}  # by holder and key, oldest first

    def __len__(self) -> int:
        return len(self._holders)

    def get(self, key: str) -> V | None:
        """Return the value of a key, or None."""
        holder = self._holders.get(key)
        return None if holder is None else self._held[holder][key]

    def put(self, key: str, value: V, holder: str) -> None:
        """Store a value as the newest of its holder."""
        self.pop(key)
        if len(self._holders) >= self._most:
            fullest = max(self._held, key=lambda holder: len(self._held[holder]))
            self.pop(next(iter(self._held[fullest])))
        self._holders[key] = holder
        self._held.setdefault(holder, {})[key] = value

    def pop(self, key: str) -> V | None:
        """Remove a key; return its value, or None."""
        holder = self._holders.pop(key, None)
        if holder is None:
            return None
        held = self._held[holder]
        value = held.pop(key)
        if not held:
            del self._held[holder]
        return value
