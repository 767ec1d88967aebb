"""Reads an answer that was asked for whole, also where the upstream streams it; pure."""

from __future__ import annotations

import orjson

from streaming_api.upstreams.answer import AnswerReader, invalid, too_large
from streaming_api.upstreams.assembly import Assembly
from streaming_api.upstreams.reply_errors import UpstreamFault


class WholeAnswerReader(AnswerReader):
    """One whole answer: as it came, or put together out of the chunks of a stream.

    Args:
        max_bytes: bound on the answer.
    """

    __slots__ = ("_assembly", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, usage_asked=True)
        self._assembly = Assembly()
        self._max_bytes = max_bytes

    def fail(self, error: UpstreamFault) -> None:
        """End the answer with `error`; nothing of a partial answer is shown."""
        if not self.over:
            self.error = error
        self.over = True

    def read(self, data: bytes) -> list[bytes]:
        """Take bytes of an event stream; return the whole answer once it has ended."""
        return self._gathered(super().read(data))

    def read_end(self, *, delimited: bool) -> list[bytes]:
        """Take the end of an event stream; return the whole answer."""
        return self._gathered(super().read_end(delimited=delimited))

    def _gathered(self, chunks: list[bytes]) -> list[bytes]:
        assembly = self._assembly
        for chunk in chunks:
            assembly.add(orjson.loads(chunk))
        if assembly.size > self._max_bytes:
            self.error, self.over = too_large(self._max_bytes), True
        if not self.over or self.error is not None:
            return []
        try:
            if assembly:
                return [assembly.answer()]
            self.error = invalid("a stream without any answer")
        except orjson.JSONEncodeError:
            self.error = invalid("chunks that cannot be put together")
        return []
