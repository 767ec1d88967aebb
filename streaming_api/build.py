"""Which build this is: the way of a token compiled by mypyc, or pure Python (see ``setup.py``)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal


def build() -> Literal["compiled", "pure"]:
    """Return which of the two an import would run, without importing it."""
    found = find_spec("streaming_api.engine.channel")
    assert found is not None
    return "pure" if (found.origin or "").endswith(".py") else "compiled"
