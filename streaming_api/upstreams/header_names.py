"""Headers by a list of names, of which each may end with ``*``. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping


def chosen(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Return the headers that a list names.

    Args:
        headers: names in any case.
        names: names in any case; ``*`` at the end of one stands for any rest.
    """
    is_named = _pattern(names).fullmatch
    return {name: value for name, value in headers.items() if is_named(name)}


@functools.lru_cache(maxsize=16)  # a configuration has two lists
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    patterns = (
        re.escape(name.removesuffix("*")) + (".*" if name.endswith("*") else "") for name in names
    )
    return re.compile("|".join(patterns), re.IGNORECASE | re.ASCII)
