"""Atheris (libFuzzer) on one target: ``python -m tests.conformance.fuzz_atheris TARGET DIR ...``.

It runs in an environment of its own, because Atheris rewrites every module that it watches. What
stands after the target's name goes to libFuzzer as it is.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["streaming_api"]):
    from tests.conformance.fuzz_targets import TARGETS


def main() -> None:
    """Feed one target until libFuzzer has had enough."""
    name, *rest = sys.argv[1:]
    target = next(target for target in TARGETS if target.name == name)
    atheris.Setup([sys.argv[0], *rest], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
