"""Autobahn|Testsuite: its fuzzing client against the echo; every case's verdict is looked at."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.conformance.environments import AUTOBAHN, HOME, Missing, autobahn
from tests.conformance.result import Result, table
from tests.conformance.servers import serving

SUITE: Final = "Autobahn|Testsuite"
REPORT: Final = HOME / "autobahn-report"
LIMIT: Final = 16 * 2**20
"""Bytes of the largest message of section 9."""
SECONDS: Final = 2_400
"""The whole suite's bound; it takes about a quarter of an hour."""
SHORT_SECONDS: Final = 300

_ALL: Final = ("*",)
_SHORT: Final = (
    *(f"{section}.*" for section in range(1, 8)),
    "9.1.*", "9.2.*", "9.3.1", "9.4.1", "9.5.1", "9.6.1", "10.*",
    *(f"12.{data}.{size}" for data in range(1, 6) for size in (1, 5)),
    *(f"13.{offer}.5" for offer in range(1, 8)),
)  # fmt: skip
_SECTIONS: Final = {
    1: "Framing", 2: "Pings and pongs", 3: "Reserved bits", 4: "Opcodes", 5: "Fragmentation",
    6: "UTF-8 handling", 7: "Close handling", 9: "Limits and performance",
    10: "Auto-fragmentation", 12: "Compression: contents and sizes",
    13: "Compression: negotiation",
}  # fmt: skip

NON_STRICT: Final[Mapping[str, str]] = {
    "6.4.3": "a frame of text that goes wrong in the middle is refused when the frame is whole, not"
    " at the first wrong byte: the parser takes frames, and no frame is above the size limit",
    "6.4.4": "the same, sent a byte at a time",
}
"""Cases that may be NON-STRICT, and why."""
INFORMATIONAL: Final[Mapping[str, str]] = {
    "7.1.6": "whether a message of 256 KiB right before the close is still echoed",
    "7.13.1": "a close code of 5000, which no RFC speaks of",
    "7.13.2": "a close code of 65535, the same",
}
"""Cases without a right answer, by the suite's own word."""


@attrs.frozen
class Verdict:
    """One case's: what happened, and how the connection was closed."""

    behavior: str
    close: str


def run(*, short: bool) -> Result:
    """Run it all, or the cases that take no time."""
    started = time.monotonic()
    try:
        python, environ = autobahn()
    except Missing as missing:
        return Result(suite=SUITE, missing=str(missing))
    shutil.rmtree(REPORT, ignore_errors=True)
    REPORT.mkdir(parents=True)
    with serving("tests.conformance.echo", "--limit", str(LIMIT)) as url:
        log = _run_client(python, environ, url, _SHORT if short else _ALL, short=short)
    verdicts = _verdicts()
    failures = list(_failures(verdicts, log))
    seconds = time.monotonic() - started
    about = (
        f"{AUTOBAHN.replace('==', ' ')} under CPython 2.7, {len(verdicts)} cases in"
        f" {seconds:.0f} seconds; messages up to {LIMIT // 2**20} MiB."
    )
    lines = [about, _sections(verdicts)]
    return Result(suite=SUITE, lines=lines, failures=failures, seconds=seconds)


def _run_client(
    python: Path, environ: Mapping[str, str], url: str, cases: Sequence[str], *, short: bool
) -> str:
    """The client's own output."""
    server = {"agent": "streaming-api", "url": url.replace("http", "ws", 1)}
    spec = {
        "outdir": str(REPORT),
        "servers": [server],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    spec_file = REPORT / "spec.json"
    spec_file.write_text(json.dumps(spec))
    wstest = ("-m", "autobahntestsuite.wstest", "-m", "fuzzingclient", "-s", str(spec_file))
    command = [str(python), *wstest]
    log = REPORT / "client.log"
    with log.open("wb") as output:
        client = subprocess.Popen(command, env=environ, stdout=output, stderr=output, cwd=REPORT)
        try:
            client.wait(SHORT_SECONDS if short else SECONDS)
        except subprocess.TimeoutExpired:
            output.write(b"\nstopped: it took too long\n")
        finally:
            client.kill()
            client.wait()
    return log.read_text(errors="replace")


def _verdicts() -> dict[str, Verdict]:
    index = REPORT / "index.json"
    if not index.exists():
        return {}
    cases: dict[str, dict[str, str]] = json.loads(index.read_text())["streaming-api"]
    ordered = sorted(cases, key=lambda case: [int(part) for part in case.split(".")])
    return {
        case: Verdict(cases[case]["behavior"], cases[case]["behaviorClose"]) for case in ordered
    }


def _failures(verdicts: Mapping[str, Verdict], log: str) -> list[str]:
    if not verdicts:
        last = "\n".join(log.splitlines()[-5:])
        return [f"the suite came to no result:\n{last}"]
    wanted = re.search(r"will run ([0-9]+) test cases", log)
    if wanted is None or int(wanted[1]) != len(verdicts):
        return [f"the suite stopped after {len(verdicts)} cases, see {REPORT.name}/client.log"]
    return [
        f"case {case}: {verdict.behavior}, closing {verdict.close} (see {REPORT.name}/index.html)"
        for case, verdict in verdicts.items()
        if not _is_right(case, verdict)
    ]


def _is_right(case: str, verdict: Verdict) -> bool:
    if case in INFORMATIONAL:
        return verdict.behavior == "INFORMATIONAL"
    if case in NON_STRICT and verdict.behavior == "NON-STRICT":
        return verdict.close == "OK"
    return verdict == Verdict("OK", "OK")


def _sections(verdicts: Mapping[str, Verdict]) -> str:
    counts: dict[int, Counter[str]] = {}
    for case, verdict in verdicts.items():
        found = verdict.behavior
        if found == "OK" and verdict.close != "OK":
            found = f"closing {verdict.close}"
        counts.setdefault(int(case.partition(".")[0]), Counter())[found] += 1
    rows = []
    for section, count in counts.items():
        others = {kind: number for kind, number in count.items() if kind != "OK"}
        said = ", ".join(f"{number} {kind}" for kind, number in others.items())
        rows.append((section, _SECTIONS[section], count.total(), count["OK"], said))
    return table(("section", "about", "cases", "OK", "other"), rows)
