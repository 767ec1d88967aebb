"""What the store knows of an answer besides its messages: its owner and the request. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import attrs
import orjson

from streaming_api.answers.elsewhere import Key
from streaming_api.wire.commands import ChatRequest, OnDisconnect

FORMAT: Final = 1
"""The version of what is written to the store. A process that reads a higher one leaves the answer
alone; fields that an older process may ignore need no new version."""


def ref_of(key: Key) -> str:
    """Return an answer's name in the store: a request_id holds no slash."""
    return f"{key[0]}/{key[1]}"


def key_of(ref: str) -> Key:
    """Return the key that a name stands for."""
    owner, _, request_id = ref.rpartition("/")
    return owner, request_id


@attrs.frozen
class Meta:
    """The description of one answer.

    Attributes:
        instance: the process that fills it.
        asked_by: the name under which its limits are counted.
        notes: write the notes of its faces.
        format: the version in which it, and its answer, are written.
    """

    instance: str
    asked_by: str
    request: ChatRequest
    notes: Mapping[str, Callable[[], bytes]] = attrs.field(factory=dict)
    format: int = FORMAT

    def encode(self) -> dict[str, bytes | str]:
        """Return the fields of a hash."""
        request = self.request
        fields = {
            "model": request.model,
            "stream": request.stream,
            "on_disconnect": request.on_disconnect.value,
            "usage_asked": request.usage_asked,
        }
        return {
            "v": str(self.format),
            "instance": self.instance,
            "asked_by": self.asked_by,
            "request": orjson.dumps(fields),
            "parameters": zlib.compress(request.parameters, 1),
            **{f"n:{face}": zlib.compress(note(), 1) for face, note in self.notes.items()},
        }


def decode(request_id: str, fields: dict[bytes, bytes]) -> Meta:
    """Return the description from the fields of a hash; only its version if that is too high."""
    instance, version = fields[b"instance"].decode(), int(fields[b"v"])
    if version > FORMAT:
        return Meta(instance, "", ChatRequest(request_id, None, b"{}"), format=version)
    asked = orjson.loads(fields.get(b"request", b"{}"))
    packed = fields.get(b"parameters")
    return Meta(
        instance=instance,
        asked_by=fields.get(b"asked_by", b"").decode(),
        request=ChatRequest(
            request_id,
            asked.get("model"),
            b"{}" if packed is None else zlib.decompress(packed),
            stream=asked.get("stream", True),
            on_disconnect=OnDisconnect(asked.get("on_disconnect", "grace")),
            usage_asked=asked.get("usage_asked", False),
        ),
        notes={
            name.decode().removeprefix("n:"): partial(zlib.decompress, note)
            for name, note in fields.items()
            if name.startswith(b"n:")
        },
    )
