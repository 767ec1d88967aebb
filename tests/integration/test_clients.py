"""The programs of docs/clients.md, each run as it stands there: real clients, unmodified."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from streaming_api.service import StreamingService
from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream, Script

ROOT: Final = Path(__file__).parent.parent.parent
CLIENTS: Final = ROOT / ".clients"
HERE: Final = "http://127.0.0.1:9096"
TEN: Final = "".join(f"t{number} " for number in range(10)).strip()
SECONDS: Final = 60.0
"""What a program may take, its imports included."""
_BLOCK: Final = re.compile(r"```(python|js|sh)\n(.*?)```", re.DOTALL)
_EXPECTED: Final = {"instructor": "Paris 2"}
_IN_LITELLMS: Final = frozenset({"litellm", "instructor"})

pytestmark = pytest.mark.skipif(
    not (CLIENTS / "node/node_modules").is_dir(), reason="needs: tests/other_clients/install"
)


@attrs.frozen
class Program:
    """One program of the document."""

    client: str
    language: str
    text: str
    number: int

    def __str__(self) -> str:
        return f"{self.client}-{self.number}"


def programs() -> Iterator[Program]:
    """Yield the programs of the document, but for the page."""
    sections = re.split(r"^## ", (ROOT / "docs/clients.md").read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        client = section.partition("\n")[0]
        for number, found in enumerate(_BLOCK.finditer(section)):
            yield Program(client, found[1], found[2], number)


PROGRAMS: Final = tuple(programs())


@pytest.fixture
async def server(start_server: StartServer, upstream: FakeUpstream) -> StreamingService:
    upstream.default = Script(rate=200)
    return await start_server(api_gateway_endpoint=upstream.url)


async def run(program: Program, url: str, folder: Path) -> str:
    """Run a program with the server's address in it; what it prints."""
    text = program.text.replace(HERE, url)
    venv = CLIENTS / ("litellm" if program.client in _IN_LITELLMS else "python")
    if program.language == "js":
        node = shutil.which("node")
        assert node is not None
        file = CLIENTS / "node" / f"{folder.name}.mjs"  # its imports are found beside it
        command = [node, str(file)]
    else:
        file = folder / "program"
        command = ["bash" if program.language == "sh" else str(venv / "bin/python"), str(file)]
    file.write_text(text)
    environment = {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
        if program.language == "js":
            file.unlink()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
async def test_works_as_it_stands(
    program: Program, server: StreamingService, tmp_path: Path
) -> None:
    said = await run(program, server.url, tmp_path)
    expected = _EXPECTED.get(program.client, TEN)
    if program.client == "curl":
        said = "".join(re.findall(r'"type":"response.output_text.delta".*?"delta":"(.*?)"', said))
    times = 2 if program.client == "openai (Node)" else 1
    assert said.count(expected) == times, said


def test_there_are_programs() -> None:
    assert len(PROGRAMS) >= 12
