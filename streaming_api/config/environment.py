"""Settings from environment variables and environment files; knows settings only as table rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, get_origin

import attrs
import orjson

from streaming_api.config.field import Setting
from streaming_api.config.problems import ConfigError, Problem, did_you_mean
from streaming_api.config.yaml_file import Document, parse_yaml, read_text

CONFIG_VARIABLE: Final = "STREAMING_API_CONFIG"
"""Names the YAML file where the command line does not."""

FILE_SUFFIX: Final = "_FILE"
"""Appended to the variable of a secret, names the file that holds it (Docker, Kubernetes)."""

_OURS = "STREAMING_"
_LINK = re.compile(
    r"[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)"
)
"""Variables that Kubernetes and Docker set for a Service named like ours, in its neighbours."""
_LINK_URL = re.compile(r"(tcp|udp|sctp)://.*")
_BOOLEANS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
    ("false", "0", "no", "off"), False
)
_WHOLE = re.compile(r"[-+]?[0-9]{1,400}")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")


def variables(
    table: Mapping[str, Setting], environ: Mapping[str, str]
) -> tuple[dict[str, object], list[Problem]]:
    """Return raw values by flat name, and the problems with what cannot be read or is unknown."""
    values: dict[str, object] = {}
    problems: list[Problem] = []
    for name, row in table.items():
        text = _text(row, environ, problems)
        if text is None or _is_a_link(row.env, text):
            continue
        try:
            values[name] = raw_value(row, text.strip())
        except ValueError:
            message = f"cannot be read, needs {_spelling(row)}"
            problems.append(_problem(row.env, message, path=row.path, fields=(name,)))
    problems += [
        _problem(name, f"is not a setting{did_you_mean(name, [row.env for row in table.values()])}")
        for name in _unknown(table, environ)
    ]
    return values, problems


def _text(row: Setting, environ: Mapping[str, str], problems: list[Problem]) -> str | None:
    """Return a variable's text; for a secret also that of the file which ``NAME_FILE`` names."""
    text, named = environ.get(row.env), row.env + FILE_SUFFIX
    if not row.secret or named not in environ:
        return text
    document = Document(source=environ[named])
    if text is not None:
        message = f"is set, and so is {row.env}; keep one of them"
        problems.append(_problem(named, message, path=row.path, fields=(row.name,)))
        return None
    text = read_text(Path(environ[named]), document)
    problems += [attrs.evolve(p, path=row.path, fields=(row.name,)) for p in document.problems]
    return text


def raw_value(row: Setting, text: str) -> object:
    """Return `text` as what YAML would have given; text that is nothing of the kind stays text.

    Lists and mappings are JSON or YAML; lists of plain words may use commas alone; empty means
    unset where the setting may be unset.

    Raises:
        ValueError: It should be JSON or YAML and is neither.
    """
    if row.kind is bool:
        return _BOOLEANS.get(text.lower(), text)
    if row.plain in {int, float}:
        return None if row.optional and not text else _number(text)
    if get_origin(row.kind) is tuple:
        if text.startswith(("[", "{", "-")) or (row.secret and text):
            return _structured(text)
        return [word.strip() for word in text.split(",")] if text else []
    if get_origin(row.kind) is Mapping:
        return _structured(text) if text else {}
    return None if row.optional and not text else text


def _structured(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        document = parse_yaml(text, Document(source=""))
        if document.problems:
            raise
        return document.value


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables in a file, read as systemd reads an EnvironmentFile (systemd.exec(5)).

    Lines of ``NAME=value``; comments begin a line with # or ;. A value may be quoted with ' or ",
    over several lines too; a backslash escapes, and joins lines. The last of two equal names wins.
    A line that systemd would silently ignore is a problem here.

    Raises:
        ConfigError: It cannot be read, or a line is not an assignment.
    """
    document = Document(source=str(path))
    text = read_text(path, document)
    found = dict(_assignments(text, document)) if text is not None else {}
    if document.problems:
        raise ConfigError(document.problems)
    return found


def _assignments(text: str, document: Document) -> Iterator[tuple[str, str]]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    at = 0
    while beginning := _BEGINNING.match(text, at):
        start, at = beginning.start(1), beginning.end()
        line = text.count("\n", 0, start) + 1
        if text[start] in "#;":
            continue
        name, equals, _ = beginning[1].partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.rstrip()):
            document.complain("is not NAME=value", line=line)
            continue
        value, at = _quoted_or_bare(text, start + len(name) + 1)
        if value is None:
            document.complain("a quote is opened and never closed", name.rstrip(), line)
        else:
            yield name.rstrip(), value


_BEGINNING = re.compile(r"[ \t\n]*([^ \t\n][^\n]*)")
_BLANK = re.compile(r"[ \t]*")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r"(?:[^\\\n]|\\.|\\\Z)*", re.DOTALL)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)


def _quoted_or_bare(text: str, at: int) -> tuple[str | None, int]:
    """Return the value that begins at `at` (None if a quote is not closed) and where it ends."""
    parts: list[str] = []
    while True:
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] not in {"'", '"'}:
            break
        single = text[at] == "'"
        quoted = (_SINGLE if single else _DOUBLE).match(text, at)
        if quoted is None:
            return None, len(text)
        parts.append(quoted[1] if single else _ESCAPE.sub(_unescape_quoted, quoted[1]))
        at = quoted.end()
    bare = _BARE.match(text, at)
    assert bare is not None
    parts.append(_ESCAPE.sub(_unescape, _without_trailing_blanks(bare[0])))
    return "".join(parts), bare.end()


def _without_trailing_blanks(bare: str) -> str:
    stripped = bare.rstrip(" \t\n")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return bare[: len(stripped) + backslashes % 2]  # an escaped blank stays


def _unescape(escape: re.Match[str]) -> str:
    return "" if escape[1] == "\n" else escape[1]


def _unescape_quoted(escape: re.Match[str]) -> str:
    if escape[1] in {'"', "\\", "`", "$"}:
        return escape[1]
    return "" if escape[1] == "\n" else escape[0]


def _number(text: str) -> object:
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _unknown(table: Mapping[str, Setting], environ: Mapping[str, str]) -> list[str]:
    known = {row.env for row in table.values()} | {CONFIG_VARIABLE}
    known |= {row.env + FILE_SUFFIX for row in table.values() if row.secret}
    return sorted(
        name
        for name, text in environ.items()
        if name.startswith(_OURS) and name not in known and not _is_a_link(name, text)
    )


def _is_a_link(name: str, text: str) -> bool:
    """Return whether a variable is a link, no setting: ``STREAMING_API_PORT=tcp://10.0.0.1:9096``."""
    return bool(_LINK.fullmatch(name)) or (
        name.endswith("_PORT") and bool(_LINK_URL.fullmatch(text))
    )


def _spelling(row: Setting) -> str:
    if get_origin(row.kind) is Mapping:
        return 'JSON such as {"name": "expression"}, or YAML'
    words = "" if row.secret else ", or words with commas between them"
    return f"a list in JSON or YAML{words}"


def _problem(variable: str, message: str, path: str = "", fields: tuple[str, ...] = ()) -> Problem:
    return Problem(path=path, message=message, source=f"environment {variable}", fields=fields)
