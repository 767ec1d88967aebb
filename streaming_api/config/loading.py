"""Bring the sources together: command line over environment over YAML over defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import attrs

from streaming_api.config.environment import variables
from streaming_api.config.field import REFUSED, Setting, settings_of
from streaming_api.config.problems import ConfigError, Problem, describe, did_you_mean, shorten
from streaming_api.config.schema import StreamingConfig
from streaming_api.config.yaml_file import Document, read_text, read_yaml

SETTINGS: Mapping[str, Setting] = settings_of(StreamingConfig)
"""Every setting by its flat name, section by section."""

DEFAULT = "default"
COMMAND_LINE = "command line"
_PATHS = {row.path: name for name, row in SETTINGS.items()}
_SECTIONS = tuple(dict.fromkeys(row.section for row in SETTINGS.values()))
_NOTHING: Mapping[str, object] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class Loaded:
    """A configuration and where it comes from.

    Attributes:
        config: The configuration.
        origins: For each field ``FILE:LINE``, ``environment NAME``, ``command line`` or
            ``default``.
    """

    config: StreamingConfig
    origins: Mapping[str, str]


@attrs.frozen(kw_only=True)
class _Given:
    """A raw value for one setting, and where it stands, to be named if it does not fit."""

    row: Setting
    raw: object
    source: str
    file: Document | None = None
    where: str = ""

    @property
    def origin(self) -> str:
        if self.file is None:
            return self.source
        return f"{Path(self.source).name}:{self.file.line_of(self.where)}"

    def problem(self, inside: str, message: str, fields: tuple[str, ...] = ()) -> Problem:
        return Problem(
            path=self.row.path + inside,
            message=message,
            source=self.source,
            line=self.file.line_of(self.where + inside) if self.file else None,
            fields=fields or (self.row.name,),
        )

    def problems(self, error: Exception) -> Iterator[Problem]:
        refused = self.file.refused if self.file else ()
        for inside, sentence in self.row.refusals(error):
            if self.where + inside not in refused:
                yield self.problem(inside, sentence)


def load(
    path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object] = _NOTHING
) -> Loaded:
    """Read and check everything.

    Args:
        path: The YAML file, or None for none.
        environ: The environment; variables of ours that are unknown are problems.
        overrides: Values by flat name, from the command line.

    Raises:
        ConfigError: Something is wrong; it lists all of it, for all sources. A wrong value is a
            problem even where another source overrides it.
    """
    problems: list[Problem] = []
    sources = [
        *_from_yaml(path, problems),
        *_from_credentials(environ, problems),
        *_from_environment(environ, problems),
        *(
            _Given(row=SETTINGS[name], raw=raw, source=COMMAND_LINE)
            for name, raw in overrides.items()
        ),
    ]
    unreadable = {name for problem in problems for name in problem.fields}
    accepted: dict[str, object] = {}
    given: dict[str, _Given] = {}
    for one in sources:
        given[one.row.name] = one
        try:
            accepted[one.row.name] = one.row.accept(one.raw)
        except REFUSED as error:
            problems += one.problems(error)
            unreadable.add(one.row.name)
    config = _together(accepted, given, unreadable, problems)
    if problems or config is None:
        files = list(dict.fromkeys(problem.source for problem in problems))
        raise ConfigError(sorted(problems, key=lambda p: (files.index(p.source), p.line or 0)))
    origins = {name: given[name].origin if name in given else DEFAULT for name in SETTINGS}
    return Loaded(config=config, origins=MappingProxyType(origins))


def _together(
    accepted: Mapping[str, object],
    given: Mapping[str, _Given],
    unreadable: set[str],
    problems: list[Problem],
) -> StreamingConfig | None:
    """Return the configuration, or None after adding problems with values that conflict."""
    try:
        return StreamingConfig(**accepted)  # type: ignore[arg-type]
    except ConfigError as error:
        for problem in error.problems:
            name = problem.fields[0]
            if unreadable.isdisjoint(problem.fields) and name in given:
                problems.append(given[name].problem("", problem.message, problem.fields))
    return None


def _from_yaml(path: Path | None, problems: list[Problem]) -> list[_Given]:
    if path is None:
        return []
    file = read_yaml(path)
    given = list(_given_in(file))
    problems += file.problems
    return given


def _given_in(file: Document) -> Iterator[_Given]:
    if file.value is None or "" in file.refused:
        return
    if not isinstance(file.value, dict):
        found = describe(file.value)
        file.complain(f"found {found}, needs sections with settings", line=file.line_of(""))
        return
    for section, settings in file.value.items():
        if section not in _SECTIONS:
            message = f'unknown section "{shorten(section)}"{_nearest(section, _SECTIONS)}'
            file.complain(message, section, file.line_of(section))
        elif section in file.refused:
            continue
        elif not isinstance(settings, dict):
            message = f"found {describe(settings)}, needs settings under it"
            file.complain(message, section, file.line_of(section))
        else:
            yield from _given_in_section(file, section, settings)


def _given_in_section(
    file: Document, section: str, settings: Mapping[str, object]
) -> Iterator[_Given]:
    keys = [path.partition(".")[2] for path in _PATHS if path.startswith(f"{section}.")]
    for key, raw in settings.items():
        where = f"{section}.{key}"
        if where in _PATHS:
            row = SETTINGS[_PATHS[where]]
            yield _Given(row=row, raw=raw, source=file.source, file=file, where=where)
        else:
            file.complain(
                f'unknown key "{shorten(key)}"{_nearest(key, keys)}', where, file.line_of(where)
            )


def _nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return where `word` belongs, if it is another section's setting, or the word most like it."""
    if word in SETTINGS:
        return f" (write it as {SETTINGS[word].path})"
    at_home = [path for path in _PATHS if path.partition(".")[2] == word]
    return f" (did you mean {at_home[0]}?)" if at_home else did_you_mean(word, known)


def _from_credentials(environ: Mapping[str, str], problems: list[Problem]) -> list[_Given]:
    """Return what is in systemd's credentials (systemd.exec(5), LoadCredential).

    ``api_keys`` is the list of keys, ``api_gateway_key`` the key for the gateway, ``cluster`` the
    URL of the store.
    """
    directory = environ.get("CREDENTIALS_DIRECTORY")
    names = {"api_keys": "api_keys", "api_gateway_key": "gateway_api_key", "cluster": "cluster_url"}
    given = []
    for name, field in names.items():
        path = Path(directory or "", name)
        if directory and _is_there(path):
            file = read_yaml(path) if name == "api_keys" else _read_line(path)
            problems += file.problems
            if file.value is not None:
                given.append(
                    _Given(row=SETTINGS[field], raw=file.value, source=str(path), file=file)
                )
    return given


def _read_line(path: Path) -> Document:
    """Read a file that holds nothing but a text, whatever YAML would make of that."""
    document = Document(source=str(path), lines={"": 1})
    text = read_text(path, document)
    document.value = (text or "").strip() or None
    return document


def _is_there(path: Path) -> bool:
    """Return whether there is a file, be it one that cannot be read: that must not mean no keys."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _from_environment(environ: Mapping[str, str], problems: list[Problem]) -> list[_Given]:
    values, wrong = variables(SETTINGS, environ)
    problems += wrong
    return [
        _Given(row=SETTINGS[name], raw=raw, source=f"environment {SETTINGS[name].env}")
        for name, raw in values.items()
    ]
