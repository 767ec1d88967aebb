"""`python -m tests.bench`: set up, measure, print the tables, write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import attrs
import orjson
import uvloop

from tests import compiled
from tests.bench import environment, processes, report, summary
from tests.bench.bench import Bench, say
from tests.bench.peers.base import ROOT
from tests.bench.peers.ours import Ours
from tests.bench.targets import all_targets
from tests.bench.works import (
    broadcast,
    cluster,
    connections,
    first_token,
    kept_tls,
    passing_on,
    promise,
    relay,
    responses,
    resume,
    wire_bytes,
)

Work = Callable[[Bench], Awaitable[None]]
WORKS: dict[str, Work] = {
    "relay": relay.run,
    "first-token": first_token.run,
    "responses": responses.run,
    "passing-on": passing_on.run,
    "kept-tls": kept_tls.run,
    "wire": wire_bytes.run,
    "broadcast": broadcast.run,
    "connections": connections.run,
    "resume": resume.run,
    "cluster": cluster.run,
    "promise": promise.run,
}
SAME_PEERS = {"relay", "first-token", "responses"}
"""Works after which the next one is asked of the same peers."""
MINUTES = 15.0
QUIET = 0.05
"""Share of the CPUs that other programs may use before the report says so."""
LAST_WORKS_SECONDS = 15.0
"""Time that is kept for the end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    options = _parser().parse_args(argv)
    processes.raise_descriptor_limit()
    try:
        environment.prepare()
    except environment.SetupError as error:
        say(str(error))
        return 1
    if options.build == "compiled":
        say("compiling the way of a token into .compiled (half a minute, once)")
        Ours.root = compiled.build()
    names = options.only or list(WORKS)
    with tempfile.TemporaryDirectory(prefix="streaming-api-bench-") as folder:
        bench = Bench(
            cores=processes.choose_cores(),
            folder=Path(folder),
            quick=options.quick,
            most_rounds=options.rounds,
            deadline=time.monotonic() + options.minutes * 60 - LAST_WORKS_SECONDS,
        )
        versions = environment.versions()
        os.sched_setaffinity(0, {bench.cores.load})
        gc.freeze()
        bystanders = processes.Bystanders()
        try:
            uvloop.run(_measure(bench, names))
        except (KeyboardInterrupt, asyncio.CancelledError):
            say("interrupted: nothing is written")
            return 130
        others = bystanders.share()
    versions = [*versions, ("other work on the machine", f"{others:.0%} of its CPUs")]
    if others > QUIET:
        bench.fail(f"a quiet machine: {others:.0%} of its CPUs did other work, so trust no figure")
    _tell(bench, options, versions, sys.argv[1:] if argv is None else argv)
    return 1 if bench.failures else 0


async def _measure(bench: Bench, names: Sequence[str]) -> None:
    started = time.monotonic()
    _end_on_sigterm()
    try:
        for name in names:
            say(f"{name} (after {time.monotonic() - started:.0f} s)")
            await WORKS[name](bench)
            if name not in SAME_PEERS:
                await bench.stop()
    finally:
        await bench.stop()
    say(f"measured in {time.monotonic() - started:.0f} s")


def _end_on_sigterm() -> None:
    """End as at Ctrl+C, so that no peer is left behind."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _tell(
    bench: Bench,
    options: argparse.Namespace,
    versions: Sequence[tuple[str, str]],
    arguments: Sequence[str],
) -> None:
    complete = not options.quick and not options.only
    text = report.markdown(
        bench.results,
        [target for target in all_targets(bench.results) if complete or target.met is not None],
        bench.failures,
        versions,
        " ".join(("python -m tests.bench", *arguments)) if arguments else "make bench",
    )
    print(text)
    if options.json is not None:
        samples = [attrs.asdict(sample) for sample in bench.results.samples]
        options.json.write_bytes(orjson.dumps(samples, option=orjson.OPT_INDENT_2))
    if complete and not options.dry:
        for written, document in (
            (text, report.DOCUMENT),
            (summary.text(bench.results), summary.DOCUMENT),
        ):
            report.write(written, document)
            say(f"written into {document.relative_to(ROOT)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure this server beside its alternatives."
    )
    parser.add_argument(
        "--only", action="append", choices=list(WORKS), help="only this work; may be repeated"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, one round: to see that it works"
    )
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="the whole ends after so many (default 15)"
    )
    parser.add_argument(
        "--rounds", type=int, help="measure everything at most so often (default: 2 to 10, by work)"
    )
    parser.add_argument(
        "--build",
        choices=["compiled", "pure"],
        default="compiled",
        help="which build of ours is measured (default: compiled, and pure beside it in the relay)",
    )
    parser.add_argument("--dry", action="store_true", help="do not write into docs/benchmarks.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
