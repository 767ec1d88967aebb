"""Compiles the way of a token, if asked to; everything else about the package is in setup.cfg.

``STREAMING_API_COMPILE=1`` makes a platform wheel (`make wheel` does, where it can): the modules
below go through mypyc, from the same typed source. Anything else makes one of pure Python.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path

from setuptools import setup

WAY_OF_A_TOKEN = (
    "wire/[a-z]*.py",
    "engine/[a-z]*.py",
    "upstreams/sse_parser.py",
    "upstreams/choices.py",
    "upstreams/answer.py",
    "upstreams/assembly.py",
    "upstreams/whole_answer.py",
    "upstreams/http1.py",
    "upstreams/exchange.py",
    "telemetry/deliveries.py",
    "connections/connection.py",
    "faces/call_pieces.py",
    "faces/chunk_reader.py",
    "faces/feed.py",
    "faces/framing.py",
    "faces/translator.py",
    "faces/response_items.py",
    "faces/responses.py",
    "faces/ui_messages.py",
)
"""From the upstream's read to the viewer's write.

``answers/answer.py`` is not compiled, nor is ``engine/budget.py``: answers and shares are referred
to weakly. A native object that is freed does not clear such references, even where its class has
a place for them because a base of it is interpreted; then the next collection may crash.
"""
INTERPRETED = {"budget.py"}


def compiled() -> dict[str, object]:
    """Return what `setup` needs besides, to compile."""
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    # With our dependencies, because mypy reads their types.
    lines = ["mypy[mypyc]>=1.18", *config["options"]["install_requires"].split("\n")]
    needed = [line for line in lines if line and not line.startswith("#")]
    try:
        from mypyc.build import mypycify  # noqa: PLC0415
    except ImportError:  # pip asks first what building needs
        return {"setup_requires": needed}
    package = Path("streaming_api")
    found = [path for pattern in WAY_OF_A_TOKEN for path in sorted(package.glob(pattern))]
    paths = [str(path) for path in found if path.name not in INTERPRETED]
    modules = mypycify(["--follow-imports=silent", *paths], group_name="streaming_api")
    return {"setup_requires": needed, "ext_modules": modules}


setup(**(compiled() if os.environ.get("STREAMING_API_COMPILE") == "1" else {}))
