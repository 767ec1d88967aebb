"""The types of values that settings have beside plain ones; converts nothing."""

import ipaddress
from datetime import UTC, datetime
from typing import Annotated, Literal

import attrs

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Scope = Literal["chat", "watch", "alerts", "admin"]


@attrs.frozen
class AtLeast:
    """A rule for whole numbers: the least that is allowed."""

    least: int


@attrs.frozen
class Pattern:
    """A rule for text: what it must match as a whole, and how to say so."""

    regex: str
    needs: str


KeyName = Annotated[
    str, Pattern(r"[A-Za-z0-9_.@-]{1,64}", "a name of 1 to 64 letters, digits and _ . @ -")
]
Sha256 = Annotated[
    str,
    Pattern(
        r"[0-9A-Fa-f]{64}",
        "the SHA-256 of the key, 64 hexadecimal digits (printf %s KEY | sha256sum)",
    ),
]
Count = Annotated[int, AtLeast(0)]
Expiry = Annotated[
    str,
    Pattern(
        r"|[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z?)?",
        "a date such as 2030-12-31, or a time in UTC such as 2030-12-31T12:00:00Z",
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
    """A key that admits its holder.

    Attributes:
        name: The holder's name, for logs and counters; not secret.
        sha256: SHA-256 of the key as 64 lower-case hexadecimal digits; the key itself is stored
            nowhere.
        scopes: What they may do.
        answers: How many of their answers may run at once; 0 for no limit of their own.
        tokens_per_minute: What they may use in a minute; 0 for no limit.
        tokens_per_day: What they may use in 24 hours; 0 for no limit.
        models: The models that they may ask; empty for every model.
        expires: When the key expires, a date or a time in UTC; empty for never.
    """

    name: KeyName
    sha256: Sha256 = attrs.field(converter=_lower, repr=False)
    scopes: frozenset[Scope]
    answers: Count = 0
    tokens_per_minute: Count = 0
    tokens_per_day: Count = 0
    models: frozenset[str] = frozenset()
    expires: Expiry = ""

    @property
    def has_tokens(self) -> bool:
        """Whether the number of tokens that its holder may use is limited."""
        return bool(self.tokens_per_minute or self.tokens_per_day)

    def may_ask(self, model: str | None) -> bool:
        """Return whether its holder may ask a model; None is whichever the upstream takes."""
        return not self.models or model in self.models

    def has_expired(self, now: datetime) -> bool:
        """Return whether the key has expired."""
        if not self.expires:
            return False
        return now >= datetime.fromisoformat(self.expires).replace(tzinfo=UTC)
