"""``python -m tests.conformance [--short] [SUITE ...]``: sets up, runs, keeps the result.

Exit status 0: every suite that was asked for ran, and passed. 1: one failed, or could not run (with
``--short``, which is for machines that have not everything, the latter is only said). 2: usage.
"""

# ruff: noqa: T201 (a command prints)

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import Final

from tests.conformance import autobahn, clients, faces, fuzzing, mixtures, openapi, report
from tests.conformance.environments import HOME
from tests.conformance.result import Result

SUITES: Final[dict[str, Callable[..., Result]]] = {
    "autobahn": autobahn.run,
    "schemathesis": openapi.run,
    "clients": clients.run,
    "faces": faces.run,
    "mixtures": mixtures.run,
    "fuzz": fuzzing.run,
}


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; all")
    parser.add_argument(
        "--short", action="store_true", help="a few minutes; docs/conformance.md is left alone"
    )
    options = parser.parse_args()
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        parser.error(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
    HOME.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl+C: nothing is left running
    results = []
    for name in options.suites or SUITES:
        print(f"== {name}", flush=True)
        result = SUITES[name](short=options.short)
        print(report.spoken(result) + "\n", flush=True)
        results.append(result)
    if not options.short:
        report.keep(results)
    failed = [result.suite for result in results if result.failures]
    missing = [result.suite for result in results if result.missing]
    print(f"failed: {', '.join(failed) or 'none'}; not run: {', '.join(missing) or 'none'}")
    return int(bool(failed) or (bool(missing) and not options.short))


if __name__ == "__main__":
    sys.exit(main())
