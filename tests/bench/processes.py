"""Processes under measurement: starting them on a core, their CPU time and memory from /proc."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

KIB = 1024
SCHEDULER_CLOCK = 2
"""The kind of CPU clock that counts what the scheduler gave a process (CPUCLOCK_SCHED in Linux)."""
STOP_TIMEOUT = 15.0
"""Seconds a process has to leave after SIGTERM."""


@attrs.frozen
class Cores:
    """Which core does what; with two cores the emitter and the load generator share one.

    Attributes:
        server: Core of the server under test, and of nothing else that we start.
        emitter: Core of the upstream.
        load: Core of the load generator, which is this process.
    """

    server: int
    emitter: int
    load: int


def choose_cores() -> Cores:
    """One core for the server under test, the others for the load."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores(server=cores[0], emitter=cores[1 % len(cores)], load=cores[-1])


def raise_descriptor_limit() -> int:
    """Raise the soft limit of file descriptors to the hard one, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def spawn(
    command: Sequence[str],
    *,
    core: int,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process, and all that it will start, in a session of its own and on one core."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    for pid in family(process.pid):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, {core})
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that `spawn` started, and everything in its session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """A process and everything below it."""
    pids = [pid]
    for parent in pids:
        for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids.extend(int(child) for child in tasks.read_text().split())
    return pids


def cpu_ns(pids: Sequence[int]) -> int:
    """CPU time used so far, user and system, of these processes, in nanoseconds.

    All threads, ended ones too. It is the counter that /proc/PID/stat shows as utime + stime in
    ticks of 10 ms, read in full through the process's CPU clock (clock_getcpuclockid(3)); where
    that cannot be read, those ticks.
    """
    return sum(_cpu_ns(pid) for pid in pids)


def _cpu_ns(pid: int) -> int:
    with contextlib.suppress(OSError):
        return time.clock_gettime_ns((~pid << 3) | SCHEDULER_CLOCK)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 10**9 // os.sysconf("SC_CLK_TCK")


def _busy_seconds() -> float:
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(None, 8)[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


@attrs.define
class Bystanders:
    """What everything else on the machine used of its CPUs since this was made.

    Other work on the same cores changes every figure: a server that is kept waiting reads more at
    once and seems cheaper.
    """

    _started: float = attrs.field(factory=time.monotonic, init=False)
    _busy: float = attrs.field(factory=_busy_seconds, init=False)
    _own: float = attrs.field(factory=_own_seconds, init=False)

    def share(self) -> float:
        """Share of all CPUs; our own children must have ended."""
        wall = (time.monotonic() - self._started) * (os.cpu_count() or 1)
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, others / wall)


def memory_bytes(pids: Sequence[int]) -> int:
    """Proportional set size of these processes: what they would free if they ended."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * KIB
    return total
