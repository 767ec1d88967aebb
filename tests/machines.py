"""Three machines with one store, each a network namespace: restarted in turn, and cut off.

Run in a namespace of its own, where clients, upstream and store are; nothing leaves it:

    unshare --net python -m tests.machines rolling
    unshare --net python -m tests.machines partition=out,in,both

Each machine has two links, one to the clients and the upstream (front) and one to the store (back),
with addresses that are reserved for documentation (RFC 5737).
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar, Final

import aiohttp
import orjson

from tests.clients import UNIT, Message, content, eventually, is_end, question
from tests.fakes.upstream import FakeUpstream, Script
from tests.stores import real_store
from tests.workers import ROOT

FRONT, BACK = "203.0.113", "198.51.100"
PORT: Final = 9096
ANSWERS: Final = 200
LEASE: Final = 2
WRONG: Final = "02:00:00:00:00:01"
"""Nobody's address: what is sent there arrives nowhere."""


def run(*command: str) -> None:
    """Run a command of the system."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Machine:
    """One machine: a namespace, its links, and the server that runs in it.

    Args:
        number: 1 and up.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.url = f"http://{FRONT}.{4 * number + 2}:{PORT}"
        self.server: asyncio.subprocess.Process | None = None
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])

    def is_apart(self) -> bool:
        """Whether its namespace is there."""
        mine, its = (Path(f"/proc/{pid}/ns/net") for pid in ("self", self._holder.pid))
        return mine.readlink() != its.readlink()

    def inside(self, *command: str) -> tuple[str, ...]:
        """A command that runs in the namespace."""
        return ("nsenter", "--target", str(self._holder.pid), "--net", *command)

    def link(self) -> None:
        """Connect it with where the clients and the store are."""
        for name, net in (("front", FRONT), ("back", BACK)):
            ours, theirs = (f"{net}.{4 * self.number + end}/30" for end in (1, 2))
            here = f"{name}{self.number}"
            run("ip", "link", "add", here, "type", "veth",
                "peer", "name", name, "netns", str(self._holder.pid))  # fmt: skip
            run("ip", "address", "add", ours, "dev", here)
            run("ip", "link", "set", here, "up")
            run(*self.inside("ip", "address", "add", theirs, "dev", name))
            run(*self.inside("ip", "link", "set", name, "up"))

    def cut(self, direction: str) -> None:
        """Lose all packets to the store (``out``), from it (``in``), or ``both``."""
        if direction in {"out", "both"}:
            store = f"{BACK}.{4 * self.number + 1}"
            run(*self.inside("ip", "neighbour", "replace", store, "lladdr", WRONG, "dev", "back",
                             "nud", "permanent"))  # fmt: skip
        if direction in {"in", "both"}:
            mine = f"{BACK}.{4 * self.number + 2}"
            run("ip", "neighbour", "replace", mine, "lladdr", WRONG, "dev", f"back{self.number}",
                "nud", "permanent")  # fmt: skip

    def heal(self) -> None:
        """Lose nothing any more."""
        run(*self.inside("ip", "neighbour", "flush", "dev", "back", "nud", "permanent"))
        run("ip", "neighbour", "flush", "dev", f"back{self.number}", "nud", "permanent")

    async def start(self, upstream: int, store: int) -> None:
        """Start the server and wait until it may be sent traffic."""
        self.server = await asyncio.create_subprocess_exec(
            *self.inside(sys.executable, "-m", "streaming_api", "serve",
                         "--host", "0.0.0.0", "--port", str(PORT), "--log-level", "ERROR"),
            cwd=ROOT,
            env={
                **os.environ,
                "STREAMING_EMBEDDED_MODEL": "none", "STREAMING_COMMANDS_PER_SECOND": "10000",
                "STREAMING_DRAIN_DELAY": "0", "CONNECTION_POOL_SIZE": "400",
                "STREAMING_MAX_CONNECTIONS_PER_IP": "2000",
                "STREAMING_CLUSTER": f"redis://{BACK}.{4 * self.number + 1}:{store}",
                "STREAMING_CLUSTER_LEASE": str(LEASE),
                "API_GATEWAY_ENDPOINT": f"http://{FRONT}.{4 * self.number + 1}:{upstream}",
            },
        )  # fmt: skip
        async with asyncio.timeout(4 * UNIT), aiohttp.ClientSession() as session:
            while True:
                with suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/readyz") as reply:
                        if reply.status == 200:
                            return
                await asyncio.sleep(0.05)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.server is not None
        with suppress(ProcessLookupError):
            self.server.send_signal(signal.SIGTERM)
        return await self.server.wait()

    async def remove(self) -> None:
        """End everything in it."""
        if self.server is not None and self.server.returncode is None:
            self.server.kill()
            await self.server.wait()
        self._holder.kill()
        self._holder.wait()


class Place:
    """Three machines, their store and their upstream."""

    def __init__(self, machines: list[Machine], upstream: FakeUpstream, store: int) -> None:
        self.machines = machines
        self.upstream = upstream
        self.store = store

    async def start(self, machine: Machine) -> None:
        """Start a machine's server."""
        await machine.start(self.upstream.port, self.store)


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    """All of it, serving."""
    run("ip", "link", "set", "lo", "up")
    async with AsyncExitStack() as stack:
        options = ("--bind", "0.0.0.0", "--protected-mode", "no")
        store = await stack.enter_async_context(real_store(*options, port=True))
        upstream = await stack.enter_async_context(FakeUpstream(host="0.0.0.0"))
        machines = []
        for number in (1, 2, 3):
            machine = Machine(number)
            stack.push_async_callback(machine.remove)
            await eventually(machine.is_apart)
            machine.link()
            machines.append(machine)
        there = Place(machines, upstream, store.port)
        await asyncio.gather(*map(there.start, machines))
        yield there


class Visitor:
    """A client of a load balancer: whatever happens to its connection, it goes on elsewhere.

    Attributes:
        seen: the messages of its answer that are numbered.
        gaps: notices of what is lost.
        visits: connections it needed.
        refusals: how often it was told to come back later, by status.
    """

    patience: ClassVar[dict[int, float]] = {429: 60.0, 503: 60.0}
    """Seconds for which a status is not taken for the last word."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str], request_id: str) -> None:
        self.request_id = request_id
        self.seen: list[Message] = []
        self.gaps: list[Message] = []
        self.visits = 0
        self.refusals: Counter[int] = Counter()
        self._refused_since = 0.0
        self._session = session
        self._urls = urls

    @property
    def last(self) -> int:
        """The number of what it saw last."""
        return int(self.seen[-1]["sequence_id"]) if self.seen else 0

    @property
    def done(self) -> bool:
        """Whether it has seen the end."""
        return bool(self.seen) and is_end(self.seen[-1])

    def leaves(self) -> bool:
        """Whether it goes away now, after a message, and comes back on another machine."""
        return False

    async def watch(self, model: str) -> None:
        """Ask and read to the end, or until it is told that there is none."""
        while not self.done:
            url = self._urls[self.visits % len(self._urls)]
            self.visits += 1
            try:
                if not await self._visit(url, model):
                    return
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.05)

    async def _visit(self, url: str, model: str) -> bool:
        """Ask one machine; return False if it is hopeless."""
        body = question(model, request_id=self.request_id)
        path = f"{url}/streaming/sse/chat"
        asking = (
            self._session.get(f"{path}/{self.request_id}?after={self.last}")
            if self.seen
            else self._session.post(path, json=body)
        )
        async with asking as reply:
            if reply.status != 200:
                return await self._refused(reply)
            self._refused_since = 0.0
            async for line in reply.content:
                if line.startswith(b"data: "):
                    message = orjson.loads(line[6:])
                    if message["message_type"] == "chat_completion":
                        (self.seen if "cursor" in message else self.gaps).append(message)
                    if self.done or self.leaves():
                        break
        return True

    async def _refused(self, reply: aiohttp.ClientResponse) -> bool:
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        self.refusals[reply.status] += 1
        if now - self._refused_since > self.patience.get(reply.status, 0.0):
            return False
        await asyncio.sleep(0.1)
        return True

    def check(self, expected: str) -> None:
        """Every message once, in order, and the whole text."""
        numbers = [message["sequence_id"] for message in self.seen]
        assert numbers == list(range(1, len(numbers) + 1)), (self.request_id, numbers, self.gaps)
        assert content(self.seen) == expected, (self.request_id, self.seen[-1])
        assert self.seen[-1]["data"]["finish_reason"] == "stop"


class Mover(Visitor):
    """A client that goes to another machine once, after so many messages; 0 for never."""

    def __init__(
        self, session: aiohttp.ClientSession, urls: list[str], request_id: str, after: int
    ) -> None:
        super().__init__(session, urls, request_id)
        self._after = after

    def leaves(self) -> bool:
        """See `Visitor`."""
        return len(self.seen) == self._after


async def rolling(there: Place) -> str:
    """Restart all three in turn while 200 answers run: none is lost, none is doubled."""
    chance = random.Random(1)
    script = Script(tokens=25, rate=10)
    there.upstream.scripts["paced"] = script
    over = asyncio.Event()
    running = asked = visits = 0

    async def visitor(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal running, asked, visits
        turn = 0
        while not over.is_set():
            turn += 1
            urls = [machine.url for machine in there.machines]
            chance.shuffle(urls)
            one = Mover(session, urls, f"v-{number}-{turn}", chance.choice((0, 5, 20)))
            running, asked = running + 1, asked + 1
            await one.watch("paced")
            running -= 1
            one.check(script.text())
            visits += one.visits

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        for number in range(ANSWERS):
            group.create_task(visitor(session, number))
        begun = time.monotonic()
        for machine in there.machines:
            await eventually(lambda: running == ANSWERS, 2 * UNIT)
            assert await machine.stop() == 0
            await there.start(machine)
        over.set()
    assert there.upstream.started == asked, "each was asked of the upstream once"
    seconds = time.monotonic() - begun
    return (
        f"3 machines restarted in turn in {seconds:.0f} s, {ANSWERS} answers running: {asked}"
        f" asked, {visits} connections, all whole: 0 lost, 0 doubled"
    )


async def partition(there: Place, directions: tuple[str, ...] = ("both",)) -> str:
    """Cut one machine off from the store: its viewers go on, the others' are told in time."""
    return "\n".join([await _partition(there, direction) for direction in directions])


async def _partition(there: Place, direction: str) -> str:
    script = Script(tokens=120, rate=10)
    there.upstream.scripts["paced"] = script
    cut, other = there.machines[0], there.machines[1]
    await asyncio.sleep(LEASE)  # the store must have been the same for a lease
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        owned = Visitor(session, [cut.url], f"{direction}-owned")
        group.create_task(owned.watch("paced"))
        theirs = Visitor(session, [other.url], f"{direction}-theirs")
        whole = group.create_task(theirs.watch("paced"))
        await eventually(lambda: owned.last >= 5 and theirs.last >= 5)
        away = Visitor(session, [other.url], owned.request_id)
        group.create_task(away.watch("paced"))
        mirrored = Visitor(session, [cut.url], theirs.request_id)
        group.create_task(mirrored.watch("paced"))
        await eventually(lambda: away.last >= 10 and mirrored.last >= 10)
        cut.cut(direction)
        begun, seen = time.monotonic(), owned.last
        await eventually(lambda: away.done, 9)
        seconds = time.monotonic() - begun
        assert owned.last > seen + 5, "its own viewers go on"
        assert not owned.done
        cut.heal()
        await whole
    assert away.seen[-1]["data"]["error"]["code"] == "server_lost"
    assert owned.seen[-1]["data"]["error"]["code"] == "server_lost"
    theirs.check(script.text())
    mirrored.check(script.text())
    for one in (owned, away):
        numbers = [message["sequence_id"] for message in one.seen]
        assert numbers == list(range(1, len(numbers) + 1))
    return f"cut off from the store ({direction}): told elsewhere after {seconds:.1f} s"


async def main(scenario: str) -> str:
    """Run a scenario; what it has seen."""
    async with place() as there:
        if scenario == "rolling":
            return await rolling(there)
        return await partition(there, tuple(scenario.split("=")[1].split(",")))


def possible() -> str:
    """Why namespaces cannot be had here; empty if they can."""
    if shutil.which("ip") is None:
        return "ip is missing: apt-get install iproute2"
    tried = subprocess.run(
        ["unshare", "--net", "true"], capture_output=True, text=True, check=False
    )
    return tried.stderr.strip()


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1])))  # noqa: T201 - a command's output
