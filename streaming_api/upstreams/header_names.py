"""Headers by a list of names, of which each may end with ``*``. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping


def chosen(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Return the headers that a list names, with their names in lower case.

    Args:
        headers: names in any case; those of several lines are joined (RFC 9110, section 5.3).
        names: names in any case; ``*`` at the end of one stands for any rest.
    """
    is_named = _pattern(names).fullmatch
    found: dict[str, str] = {}
    for written, value in headers.items():
        if is_named(written):
            name = written.lower()
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


@functools.lru_cache(maxsize=16)  # a configuration has two lists
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    patterns = (
        re.escape(name.removesuffix("*")) + (".*" if name.endswith("*") else "") for name in names
    )
    return re.compile("|".join(patterns), re.IGNORECASE | re.ASCII)
