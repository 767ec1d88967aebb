"""A million inputs for every parser: Atheris where there is one, Hypothesis where there is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from tests.conformance.environments import HOME, ROOT, Missing, atheris
from tests.conformance.fuzz_targets import TARGETS, Target
from tests.conformance.result import Result, table

SUITE: Final = "Fuzzing"
INPUTS: Final = 1_000_000
SHORT_INPUTS: Final = 20_000
SECONDS: Final = 3_600
"""Seconds that all of it may take; on two idle cores it takes a third."""
_LONGEST: Final = 512
"""Bytes of an input: what a parser can do wrong, it can do in so many."""
_WORK: Final = HOME / "fuzz"
_RUNNING: Final[set[subprocess.Popen[bytes]]] = set()


@attrs.frozen
class Run:
    """What became of one target.

    Attributes:
        failure: what went wrong, empty if nothing did.
    """

    target: str
    inputs: int
    seconds: float
    failure: str


def run(*, short: bool) -> Result:
    """Every target, a few beside each other."""
    started = time.monotonic()
    inputs = SHORT_INPUTS if short else INPUTS
    shutil.rmtree(_WORK, ignore_errors=True)
    try:
        python = atheris()
        module, fuzzer = "tests.conformance.fuzz_atheris", _version(python)
    except Missing:
        python = Path(sys.executable)
        module, fuzzer = "tests.conformance.fuzz_hypothesis", "Hypothesis"
    runs = _each_target(partial(_fuzz, python, module, inputs, started + SECONDS))
    rows = [(f"`{run.target}`", f"{run.inputs:,}", f"{run.seconds:.0f} s") for run in runs[::-1]]
    lines = [
        f"{fuzzer}, inputs of up to {_LONGEST} bytes.",
        table(("parser", "inputs without a crash", "time"), rows),
    ]
    return Result(
        suite=SUITE,
        lines=lines,
        failures=[f"{run.target}: {run.failure}" for run in runs if run.failure],
        seconds=time.monotonic() - started,
    )


def _each_target(fuzz: Callable[[Target], Run]) -> list[Run]:
    """As many at once as there are processors, the slowest first; none is left behind."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(pool.map(fuzz, reversed(TARGETS)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(_RUNNING):
                process.kill()
            raise


def _version(python: Path) -> str:
    asked = "import importlib.metadata as m; print(m.version('atheris'))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    return f"Atheris {done.stdout.strip()} (libFuzzer, guided by coverage)"


def _fuzz(python: Path, module: str, inputs: int, deadline: float, target: Target) -> Run:
    started = time.monotonic()
    seconds = max(1, int(deadline - started))
    home = _WORK / target.name
    corpus = home / "corpus"
    corpus.mkdir(parents=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    dictionary = home / "dictionary"
    dictionary.write_text("".join(_words(target)))
    command = [
        *(
            str(python),
            "-m",
            module,
            target.name,
            str(corpus),
            f"-dict={dictionary}",
            f"-runs={inputs}",
        ),
        *(f"-max_len={_LONGEST}", f"-max_total_time={seconds}", "-timeout=20"),
        *("-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={home}/"),
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        _RUNNING.add(process)
        try:
            status = process.wait(seconds + 60)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        finally:
            _RUNNING.discard(process)
    said = (home / "log").read_text(errors="replace")
    done = sum(map(int, re.findall(r"number_of_executed_units: ([0-9]+)", said)))
    failure = ""
    if status:
        failure = f"status {status}, see {(home / 'log').relative_to(ROOT)}:\n{_trace(said)}"
    elif done < inputs:
        failure = f"only {done:,} of {inputs:,} inputs in {seconds} seconds"
    return Run(target.name, done, time.monotonic() - started, failure)


def _words(target: Target) -> Iterator[str]:
    """The target's tokens as libFuzzer's dictionary has them."""
    for token in target.tokens:
        if len(token) <= 64:
            escaped = "".join(f"\\x{byte:02x}" for byte in token)
            yield f'"{escaped}"\n'


def _trace(said: str) -> str:
    _, found, rest = said.partition("Uncaught Python exception")
    return (found + rest)[:2000] or said[-2000:]
