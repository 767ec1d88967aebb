"""The short form of ``tests.soak.memory``: every attack on memory twice, in CI."""

from __future__ import annotations

from pathlib import Path

from tests.soak.figures import Report
from tests.soak.memory import SETTINGS, TOKENS, hostile, load, warmed_up
from tests.soak.processes import Gateway, Server


async def test_what_hostile_clients_hold_stays_below_the_budget_and_is_given_back(
    tmp_path: Path,
) -> None:
    report = Report()
    settings = SETTINGS | {"STREAMING_CHAT_RETENTION_SECONDS": "1"}
    async with (
        Gateway(tmp_path, rate=0, tokens=TOKENS) as gateway,
        Server(tmp_path, gateway.url, settings) as server,
    ):
        await warmed_up(server)
        attacks = hostile(server.url, rounds=2, seconds=0.5)
        await load(server, report, "hostile", attacks, at_once=20)
    assert not report.broken
