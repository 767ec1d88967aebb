"""Entries of an answer's stream in the store: messages that follow each other. Pure.

The id of an entry is the number of its last message, so that the store itself refuses what it
already has; the seal of an answer whose owner is dead has the highest possible id, so that the
store refuses everything after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import attrs

MOST_BYTES: Final = 256 * 2**10
"""Bytes of messages in one entry above which no further message is added."""
SEAL_ID: Final = b"18446744073709551615-0"
SEALED: Final = 2**64 - 1

Fields = Mapping[bytes, bytes]


class Unreadable(ValueError):
    """What the store has is no entry, or a damaged one."""


@attrs.frozen
class Entry:
    """Consecutive messages of an answer.

    Attributes:
        first: the number of the first message.
        payloads: the messages, as they were sent.
        final: whether the last message is the answer's last.
        cut: whether what is missing before it is lost: its owner no longer has it.
        seal: whether it marks the owner as dead; it then has no messages.
    """

    first: int
    payloads: tuple[bytes, ...] = ()
    final: bool = False
    cut: bool = False
    seal: bool = False

    @property
    def last(self) -> int:
        """The number of the last message, from which its id is made."""
        return SEALED if self.seal else self.first + len(self.payloads) - 1

    def encode(self) -> dict[bytes, bytes]:
        """Return the fields for the store; messages hold no LF, so it separates them."""
        fields = {b"f": b"%d" % self.first}
        if self.payloads:
            fields[b"z"] = _pack(b"\n".join(self.payloads))
        for name, flag in ((b"e", self.final), (b"c", self.cut), (b"s", self.seal)):
            if flag:
                fields[name] = b"1"
        return fields


def _pack_with_zlib(text: bytes) -> bytes:
    # a small window: an entry repeats what is near, and the tables of a large one cost more
    packer = zlib.compressobj(1, zlib.DEFLATED, 12, 5)
    return packer.compress(text) + packer.flush()


def _packer() -> Callable[[bytes], bytes]:
    """Return the fastest packer that there is: any inflater reads what either of them writes."""
    try:
        from isal.isal_zlib import compress  # noqa: PLC0415
    except ImportError:  # there is no wheel for this machine
        return _pack_with_zlib
    return partial(compress, level=1)


_pack: Final = _packer()


def decode(fields: Fields) -> Entry:
    """Return the entry from the store's fields; ignore unknown ones.

    Raises:
        Unreadable: they are no entry.
    """
    packed = fields.get(b"z")
    try:
        first = int(fields[b"f"])
        payloads = () if packed is None else tuple(zlib.decompress(packed).split(b"\n"))
    except (KeyError, ValueError, zlib.error):
        raise Unreadable from None
    return Entry(
        first=first,
        payloads=payloads,
        final=b"e" in fields,
        cut=b"c" in fields,
        seal=b"s" in fields,
    )
