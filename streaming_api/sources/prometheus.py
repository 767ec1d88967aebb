"""A Prometheus server: instant queries and its alerts; knows nothing of who asks or how often."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import aiohttp
import attrs
import orjson
import yaml

from streaming_api.sources.fetch import (
    MAX_JSON_BYTES,
    TIMEOUT,
    Reply,
    StatusError,
    fetch,
    parse_json,
)
from streaming_api.sources.values import (
    Alert,
    AlertList,
    Sample,
    SourceError,
    clip_labels,
    make_alert,
    make_sample,
    parse_time,
    texts,
)
from streaming_api.text import one_line

MAX_SAMPLES = 1000
"""Samples of one query that are kept."""

MAX_ALERTS = 1000
"""Alerts of one poll that are kept, firing ones before pending ones."""

AT_ONCE = 4
"""Queries under way at one time, over all callers."""

CONFIG_TIMEOUT = 2.0
"""Seconds at most for the configuration, which other answers do not wait for longer."""

MAX_WARNINGS = 3
"""Warnings of one answer that are passed on; the same bound holds for its notes."""

T = TypeVar("T", "QueryResult", AlertList)

_WHAT = "Prometheus' HTTP API"
_GLOBAL = re.compile(r"^global:\n(?:[ ].*\n?)*", re.MULTILINE)


@attrs.frozen
class QueryResult:
    """The result of one query.

    Attributes:
        samples: The values.
        dropped: How many more were left out because there were too many.
        warnings: What the server says about it, such as that it is only a part.
    """

    samples: tuple[Sample, ...]
    dropped: int = 0
    warnings: tuple[str, ...] = ()


class Prometheus:
    """Asks one Prometheus server through its HTTP API, version 1.

    Args:
        base_url: With the path prefix, if it has one: `http://host:9090` or `https://host/prom`.
        session: From `open_session`; the caller owns it.
        timeout: Seconds that one call may take, however many queries it makes.
    """

    def __init__(
        self, base_url: str, session: aiohttp.ClientSession, *, timeout: float = TIMEOUT
    ) -> None:
        self._api = base_url.rstrip("/") + "/api/v1"
        self._session = session
        self._timeout = timeout
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def query(self, queries: Mapping[str, str]) -> dict[str, QueryResult | SourceError]:
        """Evaluate each PromQL expression now; never raises for a fault of the server.

        Args:
            queries: PromQL by name.

        Returns:
            By the same names, in the same order, the result or why there is none. A code of
            `query` says that this one expression is at fault; any other is about the server.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        results = await asyncio.gather(*(self._one(q, deadline) for q in queries.values()))
        return dict(zip(queries, results, strict=True))

    async def alerts(self) -> AlertList:
        """Return the firing and pending alerts.

        Raises:
            SourceError: There is no answer, or it is not Prometheus's.
        """
        url = f"{self._api}/alerts"
        reply = await fetch(self._session, url, max_bytes=MAX_JSON_BYTES, seconds=self._timeout)
        return _decode(reply, _alert_list)

    async def external_labels(self) -> dict[str, str]:
        """Return the labels that it adds to whatever leaves it, alerts among them.

        Raises:
            SourceError: There is no answer, or it does not show its configuration.
        """
        url = f"{self._api}/status/config"
        seconds = min(self._timeout, CONFIG_TIMEOUT)
        reply = await fetch(self._session, url, max_bytes=MAX_JSON_BYTES, seconds=seconds)
        try:
            return _external_labels(_data(parse_json(reply, _WHAT)))
        except (ValueError, yaml.YAMLError) as error:
            reason = f"{reply.url} shows no configuration ({one_line(str(error), 100)})."
            raise SourceError(reason, "format") from None

    async def _one(self, expression: str, deadline: float) -> QueryResult | SourceError:
        """Wait for a slot and evaluate one expression, both before the deadline."""
        form = {"query": expression, "timeout": f"{self._timeout:g}"}
        try:
            async with asyncio.timeout_at(deadline), self._slots:
                reply = await fetch(
                    self._session,
                    f"{self._api}/query",
                    max_bytes=MAX_JSON_BYTES,
                    form=form,
                    seconds=self._timeout,
                )
            return _decode(reply, _result)
        except StatusError as error:
            return _refused_query(error.body) or error
        except SourceError as error:
            return error
        except TimeoutError:
            reason = (
                f"{self._api} did not answer every query within {self._timeout:g} s:"
                " check its load, or make the queries cheaper."
            )
            return SourceError(reason, "timeout")


def _refused_query(body: bytes) -> SourceError | None:
    """Return Prometheus's objection to one expression, if that is what the body holds."""
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    match parsed:
        case {"status": "error", "errorType": "bad_data" | "execution", "error": str(words)}:
            return SourceError(f"Prometheus refuses this query: {one_line(words)}", "query")
        case _:
            return None


def _decode(reply: Reply, parse: Callable[[object], T]) -> T:
    """Return what `parse` makes of the answer's `data`; its ValueError says what is wrong."""
    answer = parse_json(reply, _WHAT)
    try:
        return attrs.evolve(parse(_data(answer)), warnings=_warnings(answer))
    except ValueError as error:
        why = one_line(str(error), 200)
        reason = f"{reply.url} served JSON that is not {_WHAT}'s ({why}): check what is there."
        raise SourceError(reason, "format") from None


def _warnings(answer: object) -> tuple[str, ...]:
    """Return the `warnings` (a partial answer) and `infos` beside the data."""
    if not isinstance(answer, dict):
        return ()
    warnings: list[str] = []
    for name in ("warnings", "infos"):
        words = answer.get(name)
        if isinstance(words, list):
            warnings += [one_line(text) for text in words[:MAX_WARNINGS] if isinstance(text, str)]
    return tuple(warnings)


def _data(answer: object) -> object:
    match answer:
        case {"status": "success", "data": data}:
            return data
        case {"status": "error", "error": str(words)}:
            why = one_line(words)
        case _:
            why = "it has no status and data"
    raise ValueError(why)


def _result(data: object) -> QueryResult:
    """Return the samples of an answer to an instant query."""
    match data:
        case {"resultType": "vector", "result": [*items]}:
            kept = tuple(_vector_sample(item) for item in items[:MAX_SAMPLES])
            return QueryResult(kept, max(0, len(items) - MAX_SAMPLES))
        case {"resultType": "scalar", "result": [int() | float(), str(value)]}:
            return QueryResult((make_sample("", {}, float(value)),))
        case {"resultType": "string", "result": [int() | float(), str()]}:
            return QueryResult((make_sample("", {}, None),))
        case {"resultType": "matrix"}:
            reason = (
                "this query gives a range of values per series (a matrix), not one value:"
                " wrap it, as in rate(...) or avg_over_time(...), or take its [range] away."
            )
            raise SourceError(reason, "query")
        case _:
            why = "it has no result of a known type"
            raise ValueError(why)


def _external_labels(data: object) -> dict[str, str]:
    """Return ``global.external_labels`` of a configuration, of which only that part is read."""
    match data:
        case {"yaml": str(text)}:
            part = _GLOBAL.search(text)
        case _:
            why = "it has no yaml"
            raise ValueError(why)
    match yaml.safe_load(part[0]) if part is not None else None:
        case {"global": {"external_labels": {**labels}}}:
            return clip_labels({str(k): v for k, v in labels.items() if isinstance(v, str) and v})
        case _:
            return {}


def _vector_sample(item: object) -> Sample:
    """Return one element of a vector; a native histogram has no one value."""
    match item:
        case {"metric": labels, "value": [int() | float(), str(value)]}:
            name, rest = _split_name(labels)
            return make_sample(name, rest, float(value))
        case {"metric": labels, "histogram": [int() | float(), _]}:
            name, rest = _split_name(labels)
            return make_sample(name, rest, None)
        case _:
            why = "a sample has no metric and value"
            raise ValueError(why)


def _split_name(metric: object) -> tuple[str, dict[str, str]]:
    labels = dict(texts(metric))
    return labels.pop("__name__", ""), labels


def _alert_list(data: object) -> AlertList:
    """Return the alerts, firing ones first, so that they are the last to be dropped."""
    match data:
        case {"alerts": [*items]}:
            items.sort(key=_fires, reverse=True)
            kept = tuple(_alert(item) for item in items[:MAX_ALERTS])
            return AlertList(kept, max(0, len(items) - MAX_ALERTS))
        case _:
            why = "it has no list of alerts"
            raise ValueError(why)


def _fires(item: object) -> bool:
    return isinstance(item, dict) and item.get("state") == "firing"


def _alert(item: object) -> Alert:
    match item:
        case {
            "labels": labels,
            "state": "firing" | "pending" as state,
            "activeAt": str(active_at),
            **others,
        }:
            starts_at = parse_time(active_at)
            if starts_at is None:
                why = "an alert that is active has no time since when"
                raise ValueError(why)
            return make_alert(
                labels=texts(labels),
                annotations=texts(others.get("annotations") or {}),
                state=state,
                starts_at=starts_at,
                source="prometheus",
            )
        case _:
            why = "an alert has no labels, state and activeAt"
            raise ValueError(why)
