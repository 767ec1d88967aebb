"""Headers by a list of names, of which each may end with ``*``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def chosen(headers: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the headers that a list names.

    Args:
        headers: names in any case.
        names: names in any case; ``*`` at the end of one stands for any rest.
    """
    found = {}
    for wanted in names:
        name = wanted.lower()
        for given, value in headers.items():
            lower = given.lower()
            if lower == name or (name.endswith("*") and lower.startswith(name[:-1])):
                found[given] = value
    return found
