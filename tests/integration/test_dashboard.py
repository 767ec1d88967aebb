"""Dashboard and rules against a real Prometheus that has scraped a loaded server."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from tests.clients import UNIT, http, question, websocket
from tests.conftest import StartServer
from tests.fakes.prometheus import RealPrometheus
from tests.fakes.upstream import FakeUpstream

CONF = Path(__file__).parents[2] / "conf"
EMPTY = {"Certificate"}
"""Panels that have nothing to show for this server: it speaks plain HTTP."""


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((CONF / "grafana-dashboard.json").read_text())[
        "panels"
    ]
    return [panel for panel in found if panel["type"] != "row"]


def rules() -> list[str]:
    groups = yaml.safe_load((CONF / "prometheus-rules.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


async def test_every_query_is_valid_and_shows_something(
    tmp_path: Path, start_server: StartServer, upstream: FakeUpstream
) -> None:
    key = {"name": "page", "sha256": hashlib.sha256(b"page").hexdigest(), "scopes": ["chat"]}
    watch = {"name": "watch", "sha256": hashlib.sha256(b"watch").hexdigest(), "scopes": ["watch"]}
    async with RealPrometheus(tmp_path / "source") as source:
        server = await start_server(
            api_gateway_endpoint=upstream.url,
            metrics_server_endpoint=source.url,
            api_keys=[key, watch],
        )
        target = server.url.removeprefix("http://")
        prometheus = RealPrometheus(tmp_path / "prometheus", targets=[target], credential="watch")
        async with (
            prometheus,
            http(server.url, timeout=4 * UNIT) as client,
            http(prometheus.url) as asked,
            websocket(server.url, additional_headers={"Authorization": "Bearer watch"}) as viewer,
        ):
            await viewer.send(message_type="status_update")

            async def load() -> None:
                for model in ("fake", "rate-limited"):
                    await client.post(
                        "/v1/chat/completions",
                        json=question(model),
                        headers={"Authorization": "Bearer page"},
                    )

            async def results(expression: str) -> list[Any]:
                text = expression.replace("$instance", ".*").replace("$model", ".*")
                reply = await asked.get("/api/v1/query", params={"query": text})
                assert reply.status_code == 200, f"{text}: {reply.text}"
                found: list[Any] = reply.json()["data"]["result"]
                return found

            scraped = 'changes(streaming_key_answers_total{key="page",result="failed"}[1m]) > 1'
            async with asyncio.timeout(12 * UNIT):
                while not await results(scraped):
                    await load()
            for expression in rules():
                await results(expression)
            for panel in panels():
                shown = [await results(target["expr"]) for target in panel["targets"]]
                assert any(shown) or panel["title"] in EMPTY, panel["title"]


def test_one_row_answers_why_it_is_slow() -> None:
    found = json.loads((CONF / "grafana-dashboard.json").read_text())["panels"]
    (row,) = [panel for panel in found if panel["title"].startswith("Why is it slow?")]
    below = [panel for panel in found if panel["gridPos"]["y"] == row["gridPos"]["y"] + 1]
    assert [panel["title"].partition(":")[0] for panel in below] == [
        "Waiting here", "Waiting for the model", "Waiting for the model", "Delivering",
    ]  # fmt: skip
