"""The settings as tables for people: what is in effect and why, and what there is to set."""

from __future__ import annotations

from collections.abc import Mapping

from streaming_api.config.field import Setting
from streaming_api.config.loading import SETTINGS, Loaded
from streaming_api.config.problems import shorten


def effective(loaded: Loaded) -> str:
    """Return one line for each setting: YAML path, value, origin, in columns; no secret."""
    lines = [
        (row.path, _in_effect(row, getattr(loaded.config, name)), loaded.origins[name])
        for name, row in SETTINGS.items()
    ]
    widest = [max(len(line[column]) for line in lines) for column in (0, 1)]
    return "\n".join(
        f"{path:<{widest[0]}}  {value:<{widest[1]}}  {origin}" for path, value, origin in lines
    )


def markdown_table() -> str:
    """Return all settings as a Markdown table: YAML path, variable, default, meaning."""
    head = "| setting | environment | default | meaning |\n|---|---|---|---|"
    rows = [
        f"| `{row.path}` | `{row.env}` | {_default(row)} | {row.help} |"
        for row in SETTINGS.values()
    ]
    return "\n".join([head, *rows])


def _in_effect(row: Setting, value: object) -> str:
    if _is_unset(value):
        return "(not set)"
    return "(set)" if row.secret else _shown(value)


def _default(row: Setting) -> str:
    unit = f" {row.unit}" if row.unit else ""
    return "" if _is_unset(row.default) else f"`{_shown(row.default)}`{unit}"


def _is_unset(value: object) -> bool:
    return value is None or (isinstance(value, tuple | Mapping) and not value)


def _shown(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case tuple():
            return ", ".join(str(item) for item in value)
        case Mapping():
            return "; ".join(f"{name} = {' '.join(text.split())}" for name, text in value.items())
        case str():
            return shorten(value) if not value.isprintable() else value
        case _:
            return str(value)
