"""Starts and stops the embedded model; knows nothing of how anybody talks to it.

llama.cpp's own server runs inside this process and speaks OpenAI's HTTP and Prometheus'
exposition on a loopback port. What is done here is done because of what was measured:

- Its import can end the process (see `model_file`), so the processor is asked first.
- Constructing the server holds the GIL, about a second for a small model. So nothing is loaded
  before `start`, which is to be called when the application already listens.
- Dropping the server holds the GIL until every open request has ended, and ending the process
  without dropping it crashes. So `stop` cuts the connections first, from the server's side.
- That a client left during prefill is noticed between two batches, after a second in which no
  other answer moved; so batches are small.
- An open request occupies one of its HTTP threads for as long as it lasts; without spare ones,
  /metrics and /health wait for the answers.
- Once it is loaded, the process must not fork without exec.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from stat import S_ISSOCK
from typing import Final, Literal, Protocol

from streaming_api.upstreams.model_file import ModelFile, NoModelError, check_machine, find_model

State = Literal["absent", "loading", "ready", "failed"]

SLOTS: Final = 4
"""Answers that are generated at once; llama.cpp queues the others."""
SLOT_TOKENS: Final = 1024
"""Context of one answer, its prompt included, in tokens."""
ANSWER_TOKENS: Final = 512
"""Length of an answer whose request sets no `max_tokens`; the context bounds all others."""
BATCH_TOKENS: Final = 64
SPARE_HTTP_THREADS: Final = 8
MAX_HTTP_THREADS: Final = 512
CUT_TIMEOUT: Final = 5.0
"""Seconds that llama.cpp gets to let go of the connections that `stop` has cut."""
_CUT_POLL: Final = 0.02

log = logging.getLogger(__name__)


class _Server(Protocol):
    """The part of `xllamacpp.Server` that is used."""

    listening_address: str


class EmbeddedModel:
    """A language model in this process, as an HTTP server on a loopback port.

    Args:
        model: `auto` (the demonstration model, if installed), `none`, or the path of a GGUF file.
        threads: CPU threads that compute. Keep to one on two cores: two of them collapse under
            load, because the event loop needs a core too.
        max_requests: requests that may be open at once.
    """

    def __init__(self, model: str = "auto", threads: int = 1, *, max_requests: int = 100) -> None:
        self._model = model
        self._threads = threads
        self._max_requests = max_requests
        self._api_key = secrets.token_urlsafe(32)
        self._state: State = "absent"
        self._reason: str | None = "The embedded model has not been started."
        self._name: str | None = None
        self._server: _Server | None = None
        self._loading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedModel {self._name or self._model} {self._state}>"

    @property
    def state(self) -> State:
        """`absent` (there is nothing to start), `loading`, `ready` or `failed`."""
        return self._state

    @property
    def reason(self) -> str | None:
        """Why it is absent or failed and what to do about it; None otherwise."""
        return self._reason

    @property
    def url(self) -> str | None:
        """``http://127.0.0.1:PORT`` while ready, None otherwise."""
        return self._server.listening_address if self._server and self.state == "ready" else None

    @property
    def api_key(self) -> str:
        """The key that it requires as ``Authorization: Bearer``, on every path but ``/health``."""
        return self._api_key

    @property
    def model_name(self) -> str | None:
        """The name that it answers to, known from `loading` on."""
        return self._name

    async def start(self) -> None:
        """Begin to load, in a thread, and return; call it only once."""
        try:
            check_machine()
            file = find_model(self._model)
        except NoModelError as error:
            self._change("absent", str(error))
            return
        self._name = file.name
        self._change("loading")
        self._loading = asyncio.create_task(self._load(file), name="load the embedded model")

    async def wait_ready(self) -> bool:
        """Wait for the end of loading; return True when ready, False when there is a `reason`."""
        if self._loading is not None:
            await asyncio.shield(self._loading)
        return self._state == "ready"

    async def stop(self) -> None:
        """Cut its open requests, free its memory and its port; may be called again.

        Takes some 100 ms when nobody uses it, seconds when somebody does (at most
        `CUT_TIMEOUT`), and waits for the end of loading.
        """
        await self.wait_ready()
        if self._server is None:
            return
        self._change("absent", "The embedded model has been stopped.")
        port = int(self._server.listening_address.rpartition(":")[2])
        if not await _cut_connections(port):
            log.error("the embedded model holds on to its connections: stopping may take long")
        self._server = None  # the last reference: this line frees the port and the memory

    async def _load(self, file: ModelFile) -> None:
        try:
            self._server = await asyncio.to_thread(self._construct, file)
        except Exception as error:  # noqa: BLE001 - whatever a native library raises is a reason
            self._change("failed", _explain(file, error))
        else:
            self._change("ready")

    def _construct(self, file: ModelFile) -> _Server:
        _read_through(file.path)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # libgomp reads it when loaded
        llama = import_module("xllamacpp")
        params = llama.CommonParams()
        params.model.path = str(file.path)
        params.model_alias = {file.name}
        params.offline = True
        params.fit_params = False  # the limits below are meant
        params.n_parallel = SLOTS
        params.n_ctx = SLOTS * SLOT_TOKENS
        params.n_predict = ANSWER_TOKENS
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.cache_ram_mib = 0  # else a cache of prompts would grow to 8 GiB
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        params.n_threads_http = min(self._max_requests + SPARE_HTTP_THREADS, MAX_HTTP_THREADS)
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [self._api_key]
        params.cors_origins = ""  # its default lets any origin in
        params.cors_credentials = False
        params.endpoint_metrics = True
        params.endpoint_slots = False
        params.ui = False
        params.sse_ping_interval = 1
        params.verbosity = -1
        server: _Server = llama.Server(params)
        return server

    def _change(self, state: State, reason: str | None = None) -> None:
        self._state, self._reason = state, reason
        log.info("embedded model: %s%s", state, f" ({reason})" if reason else "")


def _explain(file: ModelFile, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"xllamacpp cannot be loaded ({error}): apt-get install libgomp1 libstdc++6."
    return f"llama.cpp cannot load {file.path} ({error}): set service.embedded_model to another."


def _read_through(path: Path) -> None:
    """Bring a file into the page cache: other threads run meanwhile, unlike during the load."""
    buffer = bytearray(2**20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


async def _cut_connections(port: int) -> bool:
    """Shut down the sockets accepted on `port` until their owner has closed them all."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CUT_TIMEOUT
    cut: set[int] = set()
    while loop.time() < deadline:
        accepted, sockets = await asyncio.to_thread(_shut_down, port)
        cut |= accepted
        if not cut & sockets:
            return True
        await asyncio.sleep(_CUT_POLL)
    return False


def _shut_down(port: int) -> tuple[set[int], set[int]]:
    """Shut down the sockets accepted on `port`; return their inodes, and those of all sockets."""
    accepted: set[int] = set()
    sockets: set[int] = set()
    for fd in _duplicates():
        status = os.fstat(fd)
        if not S_ISSOCK(status.st_mode):
            os.close(fd)
            continue
        sockets.add(status.st_ino)
        with socket.socket(fileno=fd) as sock, suppress(OSError):  # not connected any more
            if _is_accepted(sock, port):
                accepted.add(status.st_ino)
                sock.shutdown(socket.SHUT_RDWR)
    return accepted, sockets


def _is_accepted(sock: socket.socket, port: int) -> bool:
    return (
        sock.family == socket.AF_INET
        and sock.getsockname()[1] == port
        and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )


def _duplicates() -> Iterator[int]:
    """Duplicate each open file of this process, so that none can be closed under the reader."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            yield os.dup(int(link.name))
