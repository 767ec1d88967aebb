"""The floor plan of docs/design.md is the tree: each room and module stands there once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "streaming_api"
BESIDE: Final = {"hxp_enterprise_llm", "static", "__pycache__"}


ROOM: Final = re.compile(r"^### `([a-z_]+)/`\n(.*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)
ROW: Final = re.compile(r"^\| `([a-z_0-9./]+)`", re.MULTILINE)


def planned() -> set[str]:
    """``room/module.py`` for each row of the plan."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    found: list[str] = []
    for room, rows in ROOM.findall(text.partition("## Floor plan")[2]):
        folder = "" if room == PACKAGE.name else f"{room}/"
        found += [folder + name for name in ROW.findall(rows)]
    assert len(found) == len(set(found)), "a module stands there twice"
    return set(found)


def built() -> set[str]:
    """The same of the tree; a package within a room counts as one."""
    paths = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    names = {path.as_posix() for path in paths if path.name != "__init__.py"}
    names |= {f"{path.parent.as_posix()}/" for path in paths if path.match("*/*/__init__.py")}
    return {name for name in names if name.partition("/")[0] not in BESIDE}


def test_the_floor_plan_is_the_tree() -> None:
    assert planned() == built()
