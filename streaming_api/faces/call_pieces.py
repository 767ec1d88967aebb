"""Pieces of calls, put such that each call begins with its id and its whole name. Pure.

Servers differ: a name may come after the id, in pieces, or again with every piece; an id may come
late or never; calls that come whole may all have the same index.
"""

from __future__ import annotations

from streaming_api.faces.translator import CallDelta, is_json


class CallPieces:
    """The calls of one answer, as far as their pieces have come."""

    __slots__ = ("_calls", "_count", "waiting")

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}  # the newest under each of the upstream's indexes
        self._count = 0
        self.waiting: list[_Call] = []  # those that have not begun: more of a name may come

    def take(self, pieces: tuple[CallDelta, ...]) -> list[CallDelta]:
        """Return what these pieces add. Each call has an index of its own, in order from 0."""
        found: list[CallDelta] = []
        for piece in pieces:
            call = self._calls.get(piece.index)
            if call is None or call.is_another(piece):
                if not (piece.call_id or piece.name):
                    continue  # of a call that never began
                call = self._calls[piece.index] = _Call(self._count, piece.call_id, piece.name)
                self._count += 1
                self.waiting.append(call)
            elif call in self.waiting:
                call.name_on(piece)
            if piece.arguments:
                if call in self.waiting:
                    found += self.rest()
                call.arguments.append(piece.arguments)
                found.append(CallDelta(call.number, "", "", piece.arguments))
        return found

    def rest(self) -> list[CallDelta]:
        """Begin the calls that wait: what comes next is no part of their names."""
        begun = [CallDelta(call.number, call.call_id, call.name, "") for call in self.waiting]
        self.waiting = []
        return begun


class _Call:
    """A call, as far as it is known."""

    __slots__ = ("arguments", "call_id", "name", "number")

    def __init__(self, number: int, call_id: str, name: str) -> None:
        self.number = number
        self.call_id = call_id
        self.name = name
        self.arguments: list[str] = []

    def is_another(self, piece: CallDelta) -> bool:
        """Whether a piece under this call's index begins another call."""
        if piece.call_id and self.call_id:
            return piece.call_id != self.call_id
        return bool(piece.name and (piece.arguments or piece.call_id) and self._is_complete)

    def name_on(self, piece: CallDelta) -> None:
        """Take what a piece says of id and name; a name that is repeated adds nothing."""
        self.call_id = self.call_id or piece.call_id
        if piece.name != self.name:
            self.name += piece.name

    @property
    def _is_complete(self) -> bool:
        ends = bool(self.arguments) and self.arguments[-1].rstrip().endswith("}")
        return ends and is_json("".join(self.arguments))
