"""Imports run one way: who may know whom, read from the source; what only types need is allowed."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent.parent
PACKAGE: Final = "streaming_api"
PURE: Final = (
    "messages", "framing", "frame_parser", "commands", "json_text", "deflate", "checksum", "log",
    "errors",
)  # fmt: skip
FACES: Final = (
    "faces.translator", "faces.responses", "faces.response_request", "faces.ui_messages",
    "faces.ui_request",
)  # fmt: skip
IMPURE: Final = {"aiohttp", "asyncio", "uvloop", "socket", "ssl", "threading", "logging"}
HTTP: Final = {"aiohttp", "aiohttp_sse", "aiohttp_jinja2", "httptools"}
ABOVE: Final = ("app", "service", "selftest", "cli", "__main__", "hxp_enterprise_llm")
ENGINE: Final = ("stream", "viewer", "connection", "connection_manager")


def module_name(path: Path) -> str:
    """``web.sse`` for streaming_api/web/sse.py, ``web`` for its __init__.py."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Final = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def is_type_checking(node: ast.stmt) -> bool:
    """Whether this is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def run_at_import(statements: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """The statements that importing a module runs, those of classes and conditions included."""
    for node in statements:
        if is_type_checking(node):
            assert isinstance(node, ast.If)
            yield from run_at_import(node.orelse)
            continue
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "orelse", "finalbody", "handlers"):
                yield from run_at_import(getattr(node, block, ()))


def imported(source: str, package: str) -> set[str]:
    """Full names of what a source imports when it is imported itself."""
    found: set[str] = set()
    for node in run_at_import(ast.parse(source).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


@cache
def named(module: str) -> frozenset[str]:
    """Our modules that this one names in an import."""
    path = MODULES[module]
    name = f"{PACKAGE}.{module}".rstrip(".")
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for full in imported(path.read_text(), package):
        name = full.removeprefix(f"{PACKAGE}.")
        if name != full:  # a module of ours, or what is in one
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return frozenset(found & MODULES.keys() - {module})


@cache
def direct(module: str) -> frozenset[str]:
    """Our modules that this one imports; importing a.b imports a as well."""
    found: set[str] = set()
    for name in named(module):
        parts = name.split(".")
        found |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return frozenset(found & MODULES.keys() - {module})


@cache
def others(module: str) -> frozenset[str]:
    """Top-level names of everybody else's packages that this module imports."""
    names = imported(MODULES[module].read_text(), PACKAGE)
    return frozenset({name.split(".")[0] for name in names} - {PACKAGE})


@cache
def reached(module: str) -> frozenset[str]:
    """Our modules that importing this one imports in the end."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        new = direct(waiting.pop()) - seen
        seen |= new
        waiting += new
    return frozenset(seen)


def inside(module: str, *packages: str) -> bool:
    """Whether a module is one of these, or lies in one of them."""
    return any(module == name or module.startswith(name + ".") for name in packages)


def modules(*packages: str) -> list[str]:
    found = [module for module in MODULES if inside(module, *packages)]
    assert found, f"nothing is called {packages}"
    return found


def forbidden(module: str, *packages: str) -> set[str]:
    """What a module imports of these, itself or through others."""
    return {name for name in reached(module) if inside(name, *packages)}


class TestTheReading:
    def test_only_what_runs_at_import_counts(self) -> None:
        source = (
            "from typing import TYPE_CHECKING\n"
            "import a.b\n"
            "from c import d\n"
            "from . import e\n"
            "from .f import g\n"
            "if TYPE_CHECKING:\n    import h\nelse:\n    import i\n"
            "try:\n    import j\nexcept ImportError:\n    import k\n"
            "class C:\n    import m\n"
            "def function():\n    import n\n"
        )
        found = imported(source, "streaming_api.web")
        assert found >= {"a.b", "c.d", "streaming_api.web.e", "streaming_api.web.f.g", "i", "j"}
        assert found >= {"k", "m"}
        assert not found & {"h", "n"}

    def test_the_graph_is_that_of_this_house(self) -> None:
        assert "stream" in reached("app")
        assert "web.sse" in direct("app")
        assert "aiohttp" in others("app")
        assert len(MODULES) > 50


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_only_each_other_and_no_io(module: str) -> None:
    assert reached(module) <= set(PURE)
    for name in (module, *reached(module)):
        assert not others(name) & (HTTP | IMPURE)


@pytest.mark.parametrize("module", FACES)
def test_what_a_face_says_is_pure(module: str) -> None:
    assert all(inside(name, "faces", "errors") for name in reached(module))
    for name in (module, *reached(module)):
        assert not others(name) & (HTTP | IMPURE)


@pytest.mark.parametrize("module", ["stream", "viewer"])
def test_streams_and_viewers_know_messages_and_nothing_above(module: str) -> None:
    assert reached(module) <= {"checksum", "framing", "log", "messages", "stream"}
    assert not others(module) & HTTP


@pytest.mark.parametrize("module", ["connection", "connection_manager", "telemetry", "doors"])
def test_connections_and_doors_know_no_http(module: str) -> None:
    assert not others(module) & HTTP
    assert not forbidden(module, "web", "chat", "topics", "upstreams", *ABOVE)


@pytest.mark.parametrize("module", modules("upstreams", "sources"))
def test_upstreams_and_sources_know_nothing_of_streams_or_the_web(module: str) -> None:
    assert not forbidden(module, *ENGINE, "framing", "chat", "topics", "web", "doors", *ABOVE)


@pytest.mark.parametrize("module", modules("upstreams"))
def test_upstreams_know_no_sources_of_topics(module: str) -> None:
    assert not forbidden(module, "sources") - {"sources", "sources.values", "sources.fetch"}


@pytest.mark.parametrize("module", modules("sources"))
def test_sources_know_no_upstreams(module: str) -> None:
    assert not forbidden(module, "upstreams")


@pytest.mark.parametrize("module", modules("topics"))
def test_topics_know_no_web_and_no_chat(module: str) -> None:
    assert not forbidden(module, "web", "chat", "upstreams", *ABOVE)


@pytest.mark.parametrize("module", modules("faces"))
def test_faces_know_no_web_no_http_and_no_topics(module: str) -> None:
    assert not forbidden(module, "web", "topics", "sources", *ABOVE)
    assert not others(module) & HTTP


def test_answers_know_no_faces() -> None:
    assert not forbidden("chat", "faces")
    assert not forbidden("generation", "faces")


def test_chat_knows_no_web_and_no_topics() -> None:
    assert not forbidden("chat", "web", "topics", "sources", *ABOVE)


@pytest.mark.parametrize("module", modules("config"))
def test_the_configuration_knows_nobody(module: str) -> None:
    assert all(inside(name, "config") for name in reached(module))
    assert not others(module) & HTTP


def test_the_web_is_imported_by_those_who_know_everything_alone() -> None:
    importers = {
        module
        for module in MODULES
        if not inside(module, "web") and any(inside(name, "web") for name in direct(module))
    }
    assert importers <= {"app", "service"}


@pytest.mark.parametrize("module", modules("web"))
def test_the_web_does_not_know_who_builds_it(module: str) -> None:
    assert not forbidden(module, *ABOVE)


def test_only_the_service_knows_the_application() -> None:
    importers = {module for module in MODULES if "app" in direct(module)}
    assert importers == {"service"}


def test_nobody_imports_in_a_circle() -> None:
    """What names nobody who is left goes first; who is left in the end is in a circle."""
    left = dict.fromkeys(MODULES)
    while free := [module for module in left if not named(module) & left.keys()]:
        for module in free:
            del left[module]
    assert list(left) == []


@pytest.mark.parametrize(
    "module", [name for name in modules("hxp_enterprise_llm") if MODULES[name].stat().st_size]
)
def test_the_documented_paths_hold_no_logic(module: str) -> None:
    allowed = (ast.ImportFrom, ast.Import, ast.Expr, ast.Assign)
    assert all(isinstance(node, allowed) for node in ast.parse(MODULES[module].read_text()).body)
