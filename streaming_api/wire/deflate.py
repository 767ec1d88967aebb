"""permessage-deflate: what a client offers and what is agreed. RFC 7692 section 7. Pure.

Agreed is always ``client_no_context_takeover`` (no window is kept for a client between its
messages). Ours refer to each other (`streaming_api.wire.window`) unless the client forbids it.
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
        server_takeover: whether our messages may refer to those before them.
        header: the value of ``Sec-WebSocket-Extensions`` in the answer.
    """

    server_bits: int
    server_takeover: bool
    header: str


def negotiate(offers: str) -> Deflate | None:
    """Accept the first offer that can be met; return None to go without compression."""
    for offer in offers.split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        if name == "permessage-deflate" and (agreed := _agree(parameters)) is not None:
            return agreed
    return None


def _agree(parameters: list[str]) -> Deflate | None:
    given: dict[str, str] = {}
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        name, value = name.strip(), value.strip().strip('"')
        if name in given or not _is_known(name, value):
            return None
        given[name] = value
    bits = int(given.get("server_max_window_bits", "15"))
    takeover = "server_no_context_takeover" not in given
    answer = ["permessage-deflate", "client_no_context_takeover"]
    if not takeover:
        answer.append("server_no_context_takeover")
    if "server_max_window_bits" in given:
        answer.append(f"server_max_window_bits={bits}")
    return Deflate(bits, takeover, "; ".join(answer))


def _is_known(name: str, value: str) -> bool:
    match name:
        case "server_no_context_takeover" | "client_no_context_takeover":
            return not value
        case "server_max_window_bits":  # zlib cannot make raw deflate with a window of 256 bytes
            return _BITS.fullmatch(value) is not None and value != "8"
        case "client_max_window_bits":
            return not value or _BITS.fullmatch(value) is not None
        case _:
            return False
