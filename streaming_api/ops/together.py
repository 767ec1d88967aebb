"""Together: the figures of several workers as those of one service, and whose they are. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

Figures = dict[str, Any]

_SAMPLE: Final = re.compile(rb"([A-Za-z_:][A-Za-z0-9_:]*)(\{)?")
_NAMED: Final = re.compile(rb"# (?:HELP|TYPE|UNIT) (\S+)")
_LARGEST: Final = frozenset({"p50", "p90", "p99", "event_loop_lag_seconds", "max_fds"})
"""Figures that cannot be summed: the worst value is shown."""
_SAME: Final = frozenset({"target", "reason"})


def expositions(parts: Mapping[str, bytes]) -> bytes:
    """Merge several Prometheus expositions into one, each sample labelled ``worker``."""
    families: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    eof = False
    for worker, text in parts.items():
        label = b'worker="%b"' % worker.encode()
        head: list[bytes] = []
        samples: list[bytes] = []
        for line in text.split(b"\n"):
            if line == b"# EOF":
                eof = True
            elif found := _NAMED.match(line):
                head, samples = families.setdefault(found[1], ([], []))
                if line not in head and not samples:
                    head.append(line)
            elif line and not line.startswith(b"#"):
                samples.append(_labelled(line, label))
    lines = [line for head, samples in families.values() for line in (*head, *samples)]
    return b"\n".join([*lines, *([b"# EOF"] if eof else []), b""])


def _labelled(line: bytes, label: bytes) -> bytes:
    found = _SAMPLE.match(line)
    if found is None:
        return line
    rest = line[found.end() :]
    if found[2] is None:
        return b"%b{%b}%b" % (found[1], label, rest)
    comma = b"" if rest.startswith(b"}") else b","
    return b"%b{%b%b%b" % (found[1], label, comma, rest)


def figures(parts: Mapping[str, Figures]) -> Figures:
    """Merge several objects of one shape: add numbers, and take the worst of shares and delays.

    What each worker reports is under ``workers``.
    """
    whole = _together("", list(parts.values()))
    assert isinstance(whole, dict)
    return {**whole, "workers": dict(parts)}


def _together(name: str, values: list[Any]) -> Any:  # noqa: ANN401 (JSON)
    present = [value for value in values if value is not None]
    if not present:
        return None
    if all(isinstance(value, dict) for value in present):
        names = dict.fromkeys(key for value in present for key in value)
        whole = {key: _together(key, [value.get(key) for value in present]) for key in names}
        if whole.get("percent") is not None and "reason" in whole:
            whole["reason"] = None
        return whole
    numbers = [value for value in present if isinstance(value, int | float)]
    if name in _SAME or len(numbers) < len(present):
        return present[0]
    if name == "percent":
        return min(numbers)
    return max(numbers) if name in _LARGEST else sum(numbers)
