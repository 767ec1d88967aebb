"""The programs of docs/clients.md, each run as it stands there: real clients, unmodified."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from streaming_api.service import StreamingService
from tests import programs
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script

HERE: Final = "http://127.0.0.1:9096"
TEN: Final = "".join(f"t{number} " for number in range(10)).strip()
_BLOCK: Final = re.compile(r"```(python|js|sh)\n(.*?)```", re.DOTALL)
_EXPECTED: Final = {"instructor": "Paris 2"}
_IN_LITELLMS: Final = frozenset({"litellm", "instructor"})

pytestmark = pytest.mark.skipif(not programs.INSTALLED, reason="needs: tests/other_clients/install")


@attrs.frozen
class Program:
    """One program of the document."""

    client: str
    language: str
    text: str
    number: int

    def __str__(self) -> str:
        return f"{self.client}-{self.number}"


def documented() -> Iterator[Program]:
    """Yield the programs of the document, but for the page."""
    document = (programs.ROOT / "docs/clients.md").read_text()
    for section in re.split(r"^## ", document, flags=re.MULTILINE)[1:]:
        client = section.partition("\n")[0]
        for number, found in enumerate(_BLOCK.finditer(section)):
            yield Program(client, found[1], found[2], number)


PROGRAMS: Final = tuple(documented())


@pytest.fixture
async def server(start_server: StartServer, upstream: FakeUpstream) -> StreamingService:
    upstream.default = Script(rate=200)
    return await start_server(api_gateway_endpoint=upstream.url)


async def run(program: Program, url: str, folder: Path) -> str:
    """Run a program with the server's address in it; what the model said."""
    venv = "litellm" if program.client in _IN_LITELLMS else "python"
    text = program.text.replace(HERE, url)
    said = await programs.run(text, program.language, url, folder, venv)
    if program.client == "curl":
        return "".join(re.findall(r'"type":"response.output_text.delta".*?"delta":"(.*?)"', said))
    return said


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
async def test_each_program_of_the_documents_works_as_it_stands(
    program: Program, server: StreamingService, tmp_path: Path
) -> None:
    said = await run(program, server.url, tmp_path)
    expected = _EXPECTED.get(program.client, TEN)
    times = 2 if str(program) == "openai (Node)-0" else 1
    assert said.count(expected) == times, said


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 12
