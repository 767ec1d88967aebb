"""The library's documented calls, each whole: only the addresses are 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import StartServer
from tests.fakes.upstream import FakeUpstream

ROOT: Final = Path(__file__).parents[2]
CONFIG: Final = """\
from hxp_enterprise_llm.api.streaming.config import StreamingConfig
from hxp_enterprise_llm.schemas.configuration.api_schemas import APIConfigSchema

config = StreamingConfig(
    port=9096,
    memory_gb=2,
    cpu_cores=4,
    connection_timeout=300,
    websocket_enabled=True,
    max_connections=1000,
    heartbeat_interval=30,
    message_size_limit=1048576,
    sse_enabled=True,
    sse_max_connections=500,
    sse_retry_timeout=5000,
    sse_keep_alive_interval=30,
    streaming_chat_enabled=True,
    streaming_metrics_enabled=True,
    streaming_alerts_enabled=True,
    streaming_status_enabled=True,
    buffer_size=8192,
    flush_interval=100,
    compression_enabled=True,
    batch_size=10
)
"""
WEBSOCKET: Final = """\
from hxp_enterprise_llm.api.streaming.service import StreamingService
service = StreamingService(config)
print(service.get_websocket_performance())        # above 95
"""
SSE: Final = """\
from hxp_enterprise_llm.api.sse import SSEService
service = SSEService(config)
print(service.get_sse_performance())              # above 90
"""
STABILITY: Final = """\
from hxp_enterprise_llm.api.streaming.connection_manager import ConnectionManager
manager = ConnectionManager(config)
print(manager.get_connection_stability())         # above 99
"""
CHAT: Final = """\
import websockets
import asyncio
import json

async def test_websocket():
    uri = 'ws://127.0.0.1:9096/streaming/websocket/chat'
    async with websockets.connect(uri) as websocket:
        message = {
            'message_type': 'chat_completion',
            'model_id': 'mixtral-8x7b',
            'messages': [{'role': 'user', 'content': 'Hello'}],
            'stream': True
        }
        await websocket.send(json.dumps(message))
        response = await websocket.recv()
        print(json.loads(response))

asyncio.run(test_websocket())
"""
MODULES: Final = (
    "hxp_enterprise_llm.api.base", "hxp_enterprise_llm.api.streaming",
    "hxp_enterprise_llm.api.streaming.config", "hxp_enterprise_llm.api.streaming.service",
    "hxp_enterprise_llm.api.streaming.connection_manager", "hxp_enterprise_llm.api.websocket",
    "hxp_enterprise_llm.api.sse", "hxp_enterprise_llm.orchestration.streaming_orchestrator",
    "hxp_enterprise_llm.schemas.configuration.api_schemas",
)  # fmt: skip
IMPORT_ALL: Final = "".join(f"import {module}\n" for module in MODULES)
HEALTH: Final = {"status", "service", "websocket_enabled", "sse_enabled", "timestamp"}


def python(code: str, folder: Path, interpreter: Path | str = sys.executable) -> str:
    """What a program prints, run away from the checkout."""
    done = subprocess.run(
        [interpreter, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_a_loop(code: str) -> str:
    """The same program, run by a coroutine: an event loop runs meanwhile."""
    body = "".join(f"    {line}\n" for line in code.splitlines())
    return f"import asyncio\nasync def main():\n{body}asyncio.run(main())\n"


class TestPython:
    @pytest.mark.parametrize("wrap", [str, in_a_loop], ids=["plain", "in a running loop"])
    @pytest.mark.parametrize(
        ("call", "target"), [(WEBSOCKET, 95), (SSE, 90), (STABILITY, 99)], ids=["ws", "sse", "all"]
    )
    def test_each_figure_is_printed_and_above_its_target(
        self, call: str, target: float, wrap: type[str], tmp_path: Path
    ) -> None:
        assert target < float(python(wrap(CONFIG + call), tmp_path)) <= 100

    def test_every_module_named_is_in_the_wheel(self, tmp_path: Path) -> None:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        source = tmp_path / "source"  # a copy: the build leaves files beside what it builds
        ignored = shutil.ignore_patterns(".*", "build", "dist", "tests", "*.egg-info")
        shutil.copytree(ROOT, source, ignore=ignored)
        subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=120)
        (wheel,) = tmp_path.glob("*.whl")
        environment = tmp_path / "environment"
        venv.create(environment, symlinks=True)
        (packages,) = environment.glob("lib/*/site-packages")
        zipfile.ZipFile(wheel).extractall(packages)  # what pip does with a pure wheel
        dependencies = {Path(path) for path in sys.path if path.endswith("site-packages")}
        # Plain paths: the .pth file of the editable installation is not read from them.
        code = f"import sys\nsys.path += {[str(path) for path in dependencies]!r}\n{IMPORT_ALL}"
        code += f"{CONFIG}import streaming_api\nprint(streaming_api.__file__)"
        ours = python(code, tmp_path, environment / "bin" / "python")
        assert Path(ours.strip()).is_relative_to(environment)

    async def test_the_chat_program_prints_the_first_message(
        self, start_server: StartServer, upstream: FakeUpstream, tmp_path: Path
    ) -> None:
        server = await start_server(api_gateway_endpoint=upstream.url)
        program = CHAT.replace("127.0.0.1:9096", server.url.removeprefix("http://"))
        printed = await asyncio.to_thread(python, program, tmp_path)
        assert "'message_type': 'chat_completion'" in printed
        assert "'object': 'chat.completion.chunk'" in printed


async def sh(line: str, url: str, *, seconds: float = 30) -> str:
    """What a line of shell prints; a stream that does not end is cut after its first seconds."""
    line = line.replace("http://127.0.0.1:9096", url).replace("curl ", "curl -sS -i --max-time 2 ")
    process = await asyncio.create_subprocess_shell(
        line, stdout=asyncio.subprocess.PIPE, env={"PATH": "/usr/bin:/bin"}
    )
    async with asyncio.timeout(seconds):
        printed, _ = await process.communicate()
    return printed.decode()


class TestShell:
    async def test_each_line_shows_what_is_documented(self, start_server: StartServer) -> None:
        url = (await start_server()).url
        health = await sh("curl -X GET http://127.0.0.1:9096/health", url)
        assert health.startswith("HTTP/1.1 200")
        assert json.loads(health.splitlines()[-1]).keys() == HEALTH
        upgrade = await sh("curl -X GET http://127.0.0.1:9096/streaming/websocket", url)
        assert upgrade.startswith("HTTP/1.1 426")
        assert "\r\nUpgrade: websocket\r\n" in upgrade
        for line in (
            "curl -X GET http://127.0.0.1:9096/streaming/sse/metrics",
            'curl -N -H "Accept: text/event-stream" http://127.0.0.1:9096/streaming/sse/metrics',
        ):
            events = await sh(line, url)
            assert "Content-Type: text/event-stream" in events
            assert "event: metrics_update" in events
        for path in ("connections", "status", "metrics"):
            shown = await sh(f"curl -X GET http://127.0.0.1:9096/streaming/{path}", url)
            assert shown.startswith("HTTP/1.1 200")
            assert json.loads(shown.splitlines()[-1])
        scrape = await sh("curl -X GET http://127.0.0.1:9096/metrics | grep streaming", url)
        assert "streaming_connections" in scrape
