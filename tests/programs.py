"""Programs of other people's clients, run as processes: Python, Node or shell."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
CLIENTS: Final = ROOT / ".clients"
"""Where `tests/other_clients/install` puts the clients."""
INSTALLED: Final = (CLIENTS / "node/node_modules").is_dir()
SECONDS: Final = 240.0
"""What a program may take, its imports included."""
SUFFIXES: Final = {"python": ".py", "js": ".mjs", "sh": ".sh"}


async def run(text: str, language: str, url: str, folder: Path, venv: str = "python") -> str:
    """Run a program; what it prints.

    Args:
        text: the program.
        language: python, js or sh.
        url: of the server, which the program finds in ``BASE``.
        folder: where the program is written, and its home.
        venv: the environment of Python that it runs in.
    """
    programs = CLIENTS / venv / "bin"
    if language == "js":
        node = shutil.which("node")
        assert node is not None
        file = CLIENTS / "node" / f"{folder.name}.mjs"  # its imports are found beside it
        command = [node, str(file)]
    else:
        file = folder / f"program{SUFFIXES[language]}"
        command = ["bash" if language == "sh" else str(programs / "python"), str(file)]
    file.write_text(text)
    process = await asyncio.create_subprocess_exec(
        *command,
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "BASE": url,
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
        if language == "js":
            file.unlink()
    assert process.returncode == 0, err.decode() + out.decode()
    return out.decode()
