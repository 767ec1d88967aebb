"""`python -m tests.soak`: 1,000 WebSockets, 500 event streams, answers and faults, for 10 minutes.

It stops by itself, prints what it saw, and exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp
import uvloop

from tests.bench.processes import raise_descriptor_limit
from tests.fakes.fault_proxy import FaultProxy
from tests.soak import scenarios
from tests.soak.figures import Report, percentile, slope
from tests.soak.load import EVENT_STREAMS, WEBSOCKETS, Load, load
from tests.soak.memory import memory
from tests.soak.processes import Gateway, Process, Server
from tests.soak.work import work

TOKENS: Final = 100
TEXT: Final = "".join(f"t{number} " for number in range(TOKENS))
WARM_UP_CYCLES: Final = 50_000
"""Connections that do not count: after them as many names of answers are remembered as ever are."""
CYCLES: Final = 10_000
KILLS: Final = 20
CUTS: Final = 1_000
WARM_UP: Final = 0.25
"""Share of the load whose samples do not count: what is kept for a while is not in balance yet."""
GROWTH: Final = 10.0
"""MiB an hour that the line through the samples may rise, beyond three times its own error."""
ABORT_ROUNDS: Final = 3
"""What leaks, leaks in each of them; a peak of this machine's making is in one."""
LEFT: Final = 0.5
"""KiB that one connection may leave on average. One that leaked would leave 6 or more."""
SETTLE: Final = 60.0
MEMORY_FROM: Final = 6.0
"""Minutes of a soak that has the loads on memory and on the event loop."""
MEMORY: Final = 300.0
"""Seconds that they take."""
AFTERWARDS: Final = 75.0
"""Seconds that what comes after the load takes."""


async def soak(minutes: float, report: Report) -> None:
    """All of it, in about so many minutes."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        async with (
            Gateway(folder, rate=20, tokens=TOKENS) as gateway,
            FaultProxy(gateway.url) as upstream,
            Server(folder, upstream.url) as server,
        ):
            await scenarios.connect_and_abort(server.url, WARM_UP_CYCLES, seed=0)
            before = await _settled(server, None)
            tasks = Counter(await server.tasks())
            await _cycles(server, report, before)
            await _cuts_and_storm(server, report)
            left = minutes * 60 - (time.monotonic() - begun) - AFTERWARDS
            left -= MEMORY if minutes >= MEMORY_FROM else 0
            seconds = max(30.0, left)
            await _load(server, upstream, seconds, report)
            await _returns(server, before, tasks, report)
            await _kills(server, report)
            report.promise("the server ends by itself on SIGTERM", await server.stop() == 0)
        if minutes >= MEMORY_FROM:
            await memory(folder, report)
            await work(folder, report)
    report.say(f"took {(time.monotonic() - begun) / 60:.1f} minutes")


async def _alone(part: Callable[[Path, Report], Awaitable[None]], report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        await part(Path(name), report)


async def _settled(server: Process, wanted: int | None) -> int:
    """Descriptors when nobody is connected: the number wanted, or that which stays."""
    deadline = time.monotonic() + SETTLE
    same, last = 0, -1
    while time.monotonic() < deadline and same < 10:
        now = server.descriptors()
        same = same + 1 if now == last and wanted in {None, now} else 0
        last = now
        await asyncio.sleep(0.2)
    return last


async def _cycles(server: Server, report: Report, before: int) -> None:
    report.say(f"{ABORT_ROUNDS} times {CYCLES:,} connections opened and aborted")
    grown = []
    for number in range(ABORT_ROUNDS):
        memory = server.memory()
        begun = time.monotonic()
        await scenarios.connect_and_abort(server.url, CYCLES, seed=number + 1)
        seconds = time.monotonic() - begun
        after = await _settled(server, before)
        await asyncio.sleep(22)  # an answer runs for 5 s, is kept for 10 s, looked for every 5 s
        grown.append(server.memory() - memory)
        speed = CYCLES / seconds
        report.say(f"  {speed:,.0f} a second; memory {memory:.1f} MiB, then {grown[-1]:+.1f} MiB")
        report.promise(f"no descriptor is left: {before} before, {after} after", before == after)
    each = statistics.median(grown) * 1024 / CYCLES
    report.promise(f"no memory is left: {each:.2f} KiB a connection, at most {LEFT:g}", each < LEFT)


async def _cuts_and_storm(server: Server, report: Report) -> None:
    report.say(f"{CUTS:,} cuts at random places")
    cut = await scenarios.cut_and_resume(server.url, cuts=CUTS, text=TEXT, answers=60, seconds=120)
    report.say(f"  {cut.cuts:,} cuts, {cut.visits:,} connections, gaps told: {cut.gaps or 'none'}")
    report.promise(f"nothing is lost ({cut.lost})", not cut.lost)
    report.promise(f"nothing is doubled ({cut.doubled})", not cut.doubled)
    report.promise(f"every answer arrived whole ({len(cut.broken)} not)", not cut.broken)
    storm = await scenarios.reconnect_all(server.url, WEBSOCKETS, EVENT_STREAMS)
    report.say(f"{storm.cut:,} connections cut at once")
    report.say(f"  all back after {storm.seconds:.1f} s, caught up after {storm.caught_up:.1f} s")
    kept = not storm.lost and not storm.doubled and not storm.gaps
    told = f"{storm.lost} lost, {storm.doubled} doubled, gaps {storm.gaps or 'none'}"
    report.promise(f"all of them go on where they were: {told}", kept)


async def _load(server: Server, upstream: FaultProxy, seconds: float, report: Report) -> None:
    report.say(
        f"{WEBSOCKETS:,} WebSockets, {EVENT_STREAMS} event streams and answers, "
        f"{seconds / 60:.1f} minutes"
    )
    done = await load(server, upstream, TEXT, seconds)
    _say_load(done, report)
    steady = [sample for sample in done.samples if sample.when > WARM_UP * seconds]
    line = slope(steady)
    report.say(
        f"  memory {min(s.memory for s in steady):.1f} to {max(s.memory for s in steady):.1f} MiB; "
        f"slope {line.per_hour:+.1f} ± {line.error:.1f} MiB/hour over {line.samples} samples"
    )
    allowed = GROWTH + 3 * line.error
    report.promise(f"memory does not grow: below {allowed:.0f} MiB/hour", line.per_hour < allowed)
    async with (
        aiohttp.ClientSession(trust_env=False) as session,
        session.get(f"{server.url}/streaming/metrics") as reply,
    ):
        latency = (await reply.json())["delivery_latency_seconds"]
    for kind, figures in latency.items():
        report.say(
            f"  {kind}: {figures['count']:,} deliveries; the server saw p50 <= {figures['p50']} s, "
            f"p99 <= {figures['p99']} s in the last 5 minutes, slow links included"
        )


def _say_load(done: Load, report: Report) -> None:
    watched, control, answers = done.watched, done.control, done.answers
    report.say(
        f"  {done.visits:,} connections, {done.cuts:,} cut, {done.silenced:,} silenced, "
        f"{done.storms} times all at once; {done.upstream_cuts} upstream connections cut"
    )
    alerts = watched.delivered + control.delivered
    report.say(f"  {alerts:,} alerts seen; answers: {answers.by_reason}")
    p50, p99 = (percentile(control.latencies, share) for share in (0.5, 0.99))
    report.say(
        f"  delivery to clients beside the proxy: p50 {p50:.1f} ms, p99 {p99:.1f} ms "
        f"({len(control.latencies):,})"
    )
    report.promise(
        f"watchers behind faults: {watched.lost} lost, {watched.doubled} doubled, gaps told: "
        f"{watched.gaps or 'none'}",
        not watched.lost and not watched.doubled,
    )
    report.promise(
        f"watchers beside them: {control.lost} lost, {control.doubled} doubled, gaps: "
        f"{control.gaps or 'none'}",
        not control.lost and not control.doubled and not control.gaps,
    )
    report.promise(f"all see the last alert ({done.behind} do not)", not done.behind)
    kept = not answers.lost and not answers.doubled and not answers.dishonest
    report.promise(
        f"answers: {answers.lost} lost, {answers.doubled} doubled, dishonest: "
        f"{answers.dishonest[:3] or 'none'}",
        kept,
    )


async def _returns(server: Server, before: int, tasks: Counter[str], report: Report) -> None:
    after = await _settled(server, before)
    report.promise(f"descriptors return: {before} before, {after} after", before == after)
    now = Counter(await server.tasks())
    left = now - tasks
    report.promise(f"no task is left over ({dict(left) or 'none'})", not left)
    errors = [line for line in server.log.read_text().splitlines() if "ERROR" in line]
    report.promise(f"no error in its log ({errors[:2] or 'none'})", not errors)


async def _kills(server: Server, report: Report) -> None:
    report.say(f"kill -9 under load, {KILLS} times")
    problems = []
    for number in range(KILLS):
        killed = await scenarios.kill_under_load(server, number, readers=40, viewers=40)
        problems += killed.problems()
    report.promise(
        f"every answer is told to be gone, every topic resumes with a gap notice "
        f"({len(problems)} were not told: {problems[:2] or 'none'})",
        not problems,
    )


def main() -> int:
    """Parse the command line, soak, and say whether all promises were kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="of the whole, 3 or more")
    parser.add_argument("--memory", action="store_true", help="only the loads on memory")
    parser.add_argument("--work", action="store_true", help="only the attacks on the event loop")
    options = parser.parse_args()
    raise_descriptor_limit()
    report = Report()
    only = memory if options.memory else work if options.work else None
    uvloop.run(soak(options.minutes, report) if only is None else _alone(only, report))
    if report.broken:
        report.say("\n  ".join([f"{len(report.broken)} promises are broken:", *report.broken]))
        return 1
    report.say("All promises are kept.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
