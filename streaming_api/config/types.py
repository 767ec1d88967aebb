"""The types of values that settings have beside plain ones; converts nothing."""

import ipaddress
from typing import Annotated, Literal

import attrs

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Scope = Literal["chat", "watch", "alerts", "admin"]


@attrs.frozen
class Pattern:
    """A rule for text: what it must match as a whole, and how to say so."""

    regex: str
    needs: str


KeyName = Annotated[
    str,
    Pattern(r"[A-Za-z0-9_.@-]{1,64}", "a name of 1 to 64 letters, digits and _ . @ -"),
]
Sha256 = Annotated[
    str,
    Pattern(
        r"[0-9A-Fa-f]{64}",
        "the SHA-256 of the key, 64 hexadecimal digits (printf %s KEY | sha256sum)",
    ),
]
QueryName = Annotated[
    str,
    Pattern(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}", "a name such as gpu_usage (a letter or _ first)"),
]
QueryText = Annotated[str, Pattern(r"(?s).*\S.*", "a PromQL expression")]


def _lower(text: str) -> str:
    return text.lower()


@attrs.frozen(kw_only=True)
class ApiKey:
    """Someone who may come in.

    Attributes:
        name: Who it is, for logs and counters; not secret.
        sha256: SHA-256 of the key as 64 lower-case hexadecimal digits; the key itself is stored
            nowhere.
        scopes: What they may do.
    """

    name: KeyName
    sha256: Sha256 = attrs.field(converter=_lower, repr=False)
    scopes: frozenset[Scope]
