"""permessage-deflate: what a client offers and what is agreed. RFC 7692 section 7. Pure.

Agreed is always ``server_no_context_takeover`` (each message is compressed once for all) and
``client_no_context_takeover`` (no window is kept for a client between its messages).
"""

from __future__ import annotations

import re
from typing import Final

import attrs

_BITS: Final = re.compile(r"(?:[89]|1[0-5])", re.ASCII)


@attrs.frozen
class Deflate:
    """What was agreed.

    Attributes:
        server_bits: base-2 logarithm of the window that our messages may refer to, 9 to 15.
        header: the value of ``Sec-WebSocket-Extensions`` in the answer.
    """

    server_bits: int
    header: str


def negotiate(offers: str) -> Deflate | None:
    """The first offer that can be met; None to go without."""
    for offer in offers.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name == "permessage-deflate" and (agreed := _agree(parameters)) is not None:
            return agreed
    return None


def _agree(parameters: list[str]) -> Deflate | None:
    given: dict[str, str] = {}
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        name = name.strip()
        if name in given:
            return None
        given[name] = value.strip().strip('"')
    bits = 15
    answer = ["permessage-deflate", "server_no_context_takeover", "client_no_context_takeover"]
    for name, value in given.items():
        match name:
            case "server_no_context_takeover" | "client_no_context_takeover":
                if value:
                    return None
            case "server_max_window_bits":
                if not _BITS.fullmatch(value) or value == "8":
                    return None  # zlib cannot make raw deflate with a window of 256 bytes
                bits = int(value)
                answer.append(f"server_max_window_bits={bits}")
            case "client_max_window_bits":
                if value and not _BITS.fullmatch(value):
                    return None
            case _:
                return None
    return Deflate(bits, "; ".join(answer))
