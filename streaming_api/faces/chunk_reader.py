"""ChunkReader: an answer's messages, read for a translator; most are not even parsed. Pure.

Within one answer, chunks of text differ in the text alone. Where one has been read, and another has
the same bytes around a JSON string, that string is the text (`ChunkReader._learn`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import orjson

from streaming_api.faces.translator import END, Delta, Translator, delta_of, end_of, mapping

LEARN_EVERY: Final = 8  # chunks of text, while they turn out to have too little in common
_NEVER: Final = b"\n"  # no line starts with it
_TEXT: Final = re.compile(rb'("content": ?")(?:[^"\\]|\\.)*"')
_QUOTE: Final = b'"'
_ESCAPE: Final = b"\\"


class ChunkReader:
    """Reads an answer's messages, each on a line of its own.

    Args:
        translator: is shown what they say.

    Attributes:
        ended: whether the last message has been read.
    """

    __slots__ = ("_after", "_before", "_learn_in", "_translator", "ended")

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._before = _NEVER
        self._after = b""
        self._learn_in = 1
        self.ended = False

    def read(self, data: bytes) -> list[bytes]:
        """Return the events for these messages."""
        events: list[bytes] = []
        translator = self._translator
        before, after = self._before, self._after
        for line in data.split(b"\n"):
            if line.startswith(before) and line.endswith(after):
                said = line[len(before) : -len(after)]
                if said and said.find(_QUOTE) < 0 and said.find(_ESCAPE) < 0:
                    events += translator.say(said.decode(), said)
                    continue
                text = _text_of(said)
                if text:
                    events += translator.say(text, _inside(text))
                    continue
            if line:
                events += self._read(line)
                before, after = self._before, self._after
        return events

    def _read(self, line: bytes) -> list[bytes]:
        message = orjson.loads(line)
        if message.get("object") == END:
            self.ended = True
            return self._translator.end(end_of(message))
        delta = delta_of(message)
        self._before = _NEVER  # what this chunk says beside its text is what holds now
        if delta.text:
            self._learn_in -= 1
            if not self._learn_in:
                self._learn_in = LEARN_EVERY
                self._learn(line, message, delta)
        return self._translator.read(delta)

    def _learn(self, line: bytes, chunk: Mapping[str, object], delta: Delta) -> None:
        """Remember what stands around a chunk's text, if another text is all that can come there.

        The parser shows it, by reading this chunk with another text.
        """
        found = _TEXT.search(line)
        choices = chunk["choices"]
        if found is None or not isinstance(choices, list) or len(choices) != 1:
            return
        said = mapping(choices[0].get("delta"))
        if not said or delta.reasoning or delta.refusal or delta.calls or delta.logprobs:
            return
        before, after = line[: found.end(1)], line[found.end() - 1 :]
        text = f"{delta.text}x"
        other = {**chunk, "choices": [{**choices[0], "delta": {**said, "content": text}}]}
        if orjson.loads(b"%b%b%b" % (before, _inside(text), after)) == other:
            self._before, self._after = before, after


def _text_of(said: bytes) -> str:
    """Return the text of what stands between two quotes of JSON; nothing if it is no text."""
    try:
        text = orjson.loads(b'"%b"' % said)
    except orjson.JSONDecodeError:
        return ""
    return text if isinstance(text, str) else ""


def _inside(text: str) -> bytes:
    """Return a text as JSON, without the quotes."""
    return orjson.dumps(text)[1:-1]
