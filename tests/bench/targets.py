"""The project's own targets, each computed from a run: met, not met, or not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs

from tests.bench.measure import MIB, Results
from tests.bench.peers.ours import OPENAI, PURE, SSE, WEBSOCKET
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
    wire_bytes,
)

NGINX = "nginx proxy_pass"
RELAY_FACES = (WEBSOCKET, SSE, OPENAI)
WATCH_FACES = ((WEBSOCKET, "Nchan WebSocket"), (SSE, "Nchan EventSource"))
HUNDRED = relay.case(relay.PACED, 100)
FIVE_HUNDRED = relay.case(relay.PACED, 512)
KIB = 1024


@attrs.frozen
class Target:
    """One line of the list.

    Attributes:
        what: The work and the face.
        limit: What is allowed, in words.
        figure: What was measured, in words; empty: it was not.
        met: Whether it is within the limit; None: not measured.
    """

    what: str
    limit: str
    figure: str = ""
    met: bool | None = None


def at_most(what: str, value: float | None, limit: float, show: Callable[[float], str]) -> Target:
    """A target that is met at or below its limit."""
    words = f"at most {show(limit)}"
    return (
        Target(what, words) if value is None else Target(what, words, show(value), value <= limit)
    )


def at_least(what: str, value: float | None, limit: float, show: Callable[[float], str]) -> Target:
    """A target that is met at or above its limit."""
    words = f"at least {show(limit)}"
    return (
        Target(what, words) if value is None else Target(what, words, show(value), value >= limit)
    )


def times(other: str) -> Callable[[float], str]:
    """Shows a ratio: ``1.2 x nginx``."""
    return lambda value: f"{value:.2f} x {other}"


def less(value: float) -> str:
    """Shows how much less ours needs."""
    return f"{value:.3g} x less"


def milliseconds(value: float) -> str:
    """Shows a time."""
    return f"{value:.3g} ms"


def kibibytes(value: float) -> str:
    """Shows memory per connection."""
    return f"{value:.3g} KiB"


def microseconds(value: float) -> str:
    """Shows CPU time."""
    return f"{value:.3g} µs"


def all_targets(results: Results) -> list[Target]:
    """Every target, in the order of the works."""
    makers = (
        _relay, _gaps, _first_token, _faces, _wire, _broadcast, _connections, _cluster, _promise,
        _growth,
    )  # fmt: skip
    return [target for make in makers for target in make(results)]


def _inverse(ratio: float | None) -> float | None:
    return 1 / ratio if ratio else None


def _relay(results: Results) -> Iterator[Target]:
    flat = relay.case(relay.FLAT, 10)
    for face in RELAY_FACES:
        what = f"relay, 100 answers at 50 tokens/s, {face}"
        yield at_most(what, results.ratio(relay.WORK, HUNDRED, face, NGINX), 1.5, times("nginx"))
        like = "FastAPI WebSocket" if face == WEBSOCKET else "FastAPI SSE"
        for other, limit in ((like, 3), ("LiteLLM", 30)):
            ratio = _inverse(results.ratio(relay.WORK, HUNDRED, face, other))
            yield at_least(f"{what}, beside {other}", ratio, limit, less)
    ratio = results.ratio(relay.WORK, HUNDRED, PURE, NGINX)
    yield at_most(f"relay, 100 answers at 50 tokens/s, {PURE}", ratio, 2.2, times("nginx"))
    for face in RELAY_FACES:
        ratio = results.ratio(relay.WORK, flat, face, NGINX)
        yield at_most(f"relay flat out, {face}", ratio, 1.5, times("nginx"))


def _gaps(results: Results) -> Iterator[Target]:
    for face in RELAY_FACES:
        gap = results.median(relay.WORK, FIVE_HUNDRED, face, "gap_ms")
        what = f"relay, 512 answers at 50 tokens/s, p99.9 of the gaps, {face}"
        yield at_most(what, gap, 40.0, milliseconds)


def _first_token(results: Results) -> Iterator[Target]:
    for answers, figure, limit, how in (
        (0, "p50_ms", 0.3, "idle, median"),
        (100, "p99_ms", 3.0, "beside 100 answers, p99"),
    ):
        case = first_token.case(answers)
        direct = results.median(first_token.WORK, case, "direct", "p50_ms")
        for face in RELAY_FACES:
            ours = results.median(first_token.WORK, case, face, figure)
            added = None if ours is None or direct is None else ours - direct
            what = f"first token, {how} over the direct median, {face}"
            yield at_most(what, added, limit, milliseconds)


def _faces(results: Results) -> Iterator[Target]:
    ratio = results.ratio(responses.WORK, HUNDRED, responses.RESPONSES, OPENAI)
    yield at_most("responses, 100 answers at 50 tokens/s", ratio, 1.3, times("chat completions"))
    for case in passing_on.PATHS:
        ratio = results.ratio(passing_on.WORK, case, passing_on.OURS, passing_on.NGINX)
        yield at_most(f"passing on, {case}", ratio, 1.5, times("nginx"))
    opened = results.median(kept_tls.WORK, kept_tls.LATER, OPENAI, "handshakes")
    yield at_most(
        "kept TLS, handshakes for the answers after the first",
        opened,
        0,
        lambda value: f"{value:.0f}",
    )


def _wire(results: Results) -> Iterator[Target]:
    for face in (WEBSOCKET, SSE):
        read = results.median(wire_bytes.WORK, wire_bytes.COMPRESSED, face, "wire")
        yield at_most(f"wire, compressed, a token, {face}", read, 40, lambda n: f"{n:.3g} bytes")


def _broadcast(results: Results) -> Iterator[Target]:
    for ours, theirs in WATCH_FACES:
        for viewers in (1_000, 8_000):
            for burst, limit, how in ((1, 1.0, ""), (10, 0.4, " in bursts of ten")):
                case = broadcast.case(viewers, 1_000, burst)
                ratio = results.ratio(broadcast.WORK, case, ours, theirs)
                yield at_most(
                    f"broadcast, 1 kB to {viewers:,}{how}, {ours}", ratio, limit, times(theirs)
                )
    for ours, _ in WATCH_FACES:
        for burst, how in ((1, ""), (10, " in bursts of ten")):
            plain = broadcast.case(1_000, 1_000, burst)
            compressed = broadcast.case(1_000, 1_000, burst, compressed=True)
            ratio = results.ratio_of_cases(broadcast.WORK, compressed, plain, ours)
            what = f"compressed broadcast, 1 kB to 1,000{how}, {ours}"
            yield at_most(what, ratio, 1.1, times("plain"))


def _connections(results: Results) -> Iterator[Target]:
    case = (results.cases(connections.WORK) or [connections.case(8_000)])[0]
    for ours, limit in ((WEBSOCKET, 12), (SSE, 6)):
        held = results.median(connections.WORK, case, ours, "memory")
        what = f"memory of an idle connection, {ours}"
        yield at_most(what, None if held is None else held / KIB, limit, kibibytes)
    for ours, theirs in WATCH_FACES:
        cost = results.median(connections.WORK, case, ours)
        other = results.median(connections.WORK, case, theirs)
        most = max(150.0, 4 * other) if other else 150.0
        what = f"accepting a connection (150 µs or 4 x Nchan), {ours}"
        yield at_most(what, cost, most, microseconds)


def _cluster(results: Results) -> Iterator[Target]:
    for answers in cluster.SIZES:
        size = cluster.case(answers)
        ratio = results.ratio(cluster.WORK, size, cluster.OWNER, cluster.WITHOUT)
        what = f"the owner with a store, entries deflated, {size}"
        yield at_most(what, ratio, 1.25, times("without"))
        for how in (cluster.ALONE, cluster.WATCHED):
            size = cluster.case(answers, how)
            cost = results.median(cluster.WORK, size, cluster.STORE)
            if how == cluster.ALONE:
                yield at_most(f"the store, a token, {size}", cost, 2.5, microseconds)
            for face in (cluster.OWNER, cluster.OTHER)[: 1 + bool(how)]:
                trips = [s.units / s.wall_s for s in results.of(cluster.TRIPS, size, face)]
                what = f"round trips a second, {size}: {face}"
                yield at_most(what, max(trips, default=None), 45, lambda n: f"{n:.0f}")
    watched = [cluster.case(answers, cluster.WATCHED) for answers in cluster.SIZES]
    p50 = results.median(cluster.WORK, watched[0], cluster.OTHER, "p50_ms")
    yield at_most(f"to who watches elsewhere, p50, {watched[0]}", p50, 15.5, milliseconds)
    ratio = results.ratio_of_cases(cluster.WORK, watched[1], watched[0], cluster.STORE)
    yield at_most("the store, a token, 400 watched elsewhere", ratio, 1.3, times("100"))
    own, servers = (
        results.median(cluster.FIRST, first_token.IDLE, face, "p50_ms")
        for face in (cluster.OWN_ID, cluster.SERVERS_ID)
    )
    added = None if own is None or servers is None else own - servers
    yield at_most("first token, for an id of the client's, median", added, 0.5, milliseconds)
    hundred = cluster.case(100)
    ratio = results.ratio(cluster.WORK, hundred, cluster.STORE, cluster.THEIR_STORE)
    yield at_most("the store, a token, 100 answers", ratio, 0.2, times("XADD and PUBLISH each"))


def _promise(results: Results) -> Iterator[Target]:
    for case in (promise.TOKENS, promise.METRICS):
        p99 = results.median(promise.WORK, case, "streaming-api", "p99_ms")
        yield at_most(f"the promise, p99 of {case}", p99, 25.0, milliseconds)
    memory = results.median(promise.WORK, promise.TOKENS, "streaming-api", "memory")
    used = None if memory is None else memory / MIB
    yield at_most("the promise, memory", used, 150.0, lambda value: f"{value:.0f} MiB")


def _growth(results: Results) -> Iterator[Target]:
    answers = [relay.case(relay.PACED, n) for n in (10, 100, 512)]
    answers.append(relay.case(relay.SLOW, 1_000))
    for face in RELAY_FACES:
        costs = [results.median(relay.WORK, case, face) for case in answers]
        yield _flat(f"cost per token from 10 to 1,000 answers, {face}", costs)
    for face, _ in WATCH_FACES:
        costs = [
            results.median(broadcast.WORK, broadcast.case(n, 1_000), face)
            for n in (100, 1_000, 8_000)
        ]
        yield _flat(f"cost per delivery from 100 to 8,000 viewers, {face}", costs)


def _flat(what: str, costs: Sequence[float | None]) -> Target:
    """The largest size may cost a fifth more per unit than the smallest; less is no failure."""
    known = [cost for cost in costs if cost is not None]
    growth = known[-1] / known[0] if len(known) == len(costs) else None
    return at_most(what, growth, 1.2, times("the smallest size"))
