"""What other people's clients can do beyond hello: loops of tools, structured output, errors.

The programs are in tests/other_clients/programs; each checks for itself what it gets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from streaming_api.service import StreamingService
from tests import programs
from tests.conftest import StartServer
from tests.embedded import missing_model
from tests.fakes.cutter import cutter
from tests.fakes.upstream import FakeUpstream, Script

PROGRAMS: Final = programs.ROOT / "tests/other_clients/programs"
LANGUAGES: Final = {suffix: language for language, suffix in programs.SUFFIXES.items()}
IN_LITELLMS: Final = frozenset({"litellm_loop", "instructor_modes", "hello_litellm"})
SOCKET: Final = PROGRAMS / "responses_socket.mjs"
HELLOS: Final = sorted(PROGRAMS.glob("hello*"))
FILES: Final = sorted({*PROGRAMS.iterdir()} - {SOCKET, *HELLOS})
MISSING: Final = missing_model()
"""Why there is no embedded model here, if there is none."""

pytestmark = pytest.mark.skipif(not programs.INSTALLED, reason="needs: tests/other_clients/install")


@pytest.fixture
async def server(start_server: StartServer, upstream: FakeUpstream) -> StreamingService:
    """A server that waits for nobody who has left, where the clients leave answers."""
    return await start_server(api_gateway_endpoint=upstream.url, resume_grace=0.5)


async def run(file: Path, url: str, folder: Path) -> str:
    venv = "litellm" if file.stem in IN_LITELLMS else "python"
    return await programs.run(file.read_text(), LANGUAGES[file.suffix], url, folder, venv)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
async def test_a_feature_works_as_against_openai_itself(
    file: Path, server: StreamingService, upstream: FakeUpstream, tmp_path: Path
) -> None:
    said = await run(file, server.url, tmp_path)
    assert said.endswith("done\n"), said
    for generation in upstream.generations:
        asked: dict[str, Any] = generation.request.json()
        results = [m["content"] for m in asked["messages"] if m["role"] == "tool"]
        assert results in ([], ["3", "2"]), "the results of the calls came back in order"
    await upstream.until(lambda: not upstream.running)  # also those that were left


async def test_nodes_socket_goes_on_after_cuts(
    server: StreamingService, upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.scripts["cut"] = Script(tokens=60, rate=300)
    async with cutter(server.url, [2_000, 3_000, 4_000]) as line:
        said = await run(SOCKET, line.url, tmp_path)
    text, last, _ = said.split("\n")
    assert (text, last) == (upstream.scripts["cut"].text(), "3 cuts, done")
    assert line.cuts == 3


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
async def test_each_kind_of_client_hears_the_embedded_model(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = await start_server(embedded_model="auto")
    for file in HELLOS:
        assert (await run(file, server.url, tmp_path)).endswith("done\n"), file.name
