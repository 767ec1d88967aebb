"""What is known of each setting beside its name, type and default; knows no particular setting.

The classes of settings are the one table: the YAML and environment readers, the printed
configuration and the documentation are all derived from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args, get_origin

import attrs
import cattrs

from streaming_api.config.converters import Unfit, sentences, structure
from streaming_api.config.problems import Problem

T = TypeVar("T")
_KEY = "streaming_api.setting"


@attrs.frozen(kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: Flat name, the field of the class.
        kind: Type of its values.
        default: Value when no source gives one.
        path: Its place in the YAML, ``section.key``.
        env: Environment variable.
        help: One line on what it does.
        unit: Unit of a number, or empty.
        least: Smallest number allowed.
        most: Largest number allowed.
        choices: The words allowed, in their usual spelling; any case is accepted.
        secret: Its value is never shown.
        check: A rule of its own; returns the value, normalised, or raises `Unfit`.
    """

    name: str = ""
    kind: Any = None
    default: Any = None
    path: str
    env: str
    help: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False
    check: Callable[[Any], Any] | None = None

    @property
    def section(self) -> str:
        """The section of the YAML file."""
        return self.path.partition(".")[0]

    @property
    def needs(self) -> str:
        """What a value must be, as a phrase; a check may add to it."""
        limits = ""
        if self.least is not None and self.most is not None:
            limits = f" from {self.least:.15g} to {self.most:.15g}"
        of_unit = f" ({self.unit})" if self.unit else ""
        if self.kind is bool:
            return "true or false"
        if self.plain in {int, float}:
            return f"a {'whole ' if self.plain is int else ''}number{limits}{of_unit}"
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if get_origin(self.kind) is tuple:
            return "a list"
        if get_origin(self.kind) is Mapping:
            return "a mapping of names to text"
        return "the path of a file" if Path in get_args(self.kind) else "text"

    @property
    def plain(self) -> Any:  # noqa: ANN401 (a type of any form)
        """The type of its values where it is set: of ``float | None``, ``float``."""
        kinds = [kind for kind in get_args(self.kind) if kind is not type(None)]
        return kinds[0] if self.optional and len(kinds) == 1 else self.kind

    @property
    def optional(self) -> bool:
        """Whether it may be unset."""
        return type(None) in get_args(self.kind)

    def accept(self, raw: object) -> Any:  # noqa: ANN401 - `kind` says which
        """Return `raw` as a value of this setting.

        Raises:
            Unfit, cattrs.BaseValidationError: The value does not fit; `refusals` says why.
        """
        value = structure(raw, self.kind)
        if value is None:
            return None
        if self.choices:
            value = next((word for word in self.choices if word.upper() == value.upper()), None)
            if value is None:
                raise Unfit(raw, self.needs)
        if (self.least is not None and value < self.least) or (
            self.most is not None and value > self.most
        ):
            raise Unfit(raw, self.needs)
        return self.check(value) if self.check else value

    def refusals(self, error: Exception) -> list[tuple[str, str]]:
        """List what `accept` objected to: the place inside the value, and a sentence."""
        plain = self.plain in {int, float, bool} or self.choices
        if isinstance(error, Unfit) and plain:
            error = Unfit(error.found, self.needs)
        return sentences(error, secret=self.secret)


REFUSED = (Unfit, cattrs.BaseValidationError)
"""What `Setting.accept` raises."""


def setting(  # noqa: PLR0913 - one keyword for each column of the table
    path: str,
    default: T,
    help: str,  # noqa: A002 - the word argparse uses for it
    *,
    env: str = "",
    unit: str = "",
    between: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
    check: Callable[[Any], Any] | None = None,
) -> T:
    """Declare a field of a class of settings; without `env` it is ``STREAMING_`` + its name."""
    least, most = between or (None, None)
    row = Setting(
        path=path,
        env=env,
        help=help,
        unit=unit,
        least=least,
        most=most,
        choices=choices,
        secret=secret,
        check=check,
    )
    return attrs.field(default=default, metadata={_KEY: row}, repr=not secret)


@cache
def settings_of(cls: type[attrs.AttrsInstance]) -> Mapping[str, Setting]:
    """Return every setting of a class by its flat name, section by section."""
    rows = [_row(field) for field in attrs.fields(cls)]
    sections = list(dict.fromkeys(row.section for row in rows))
    rows.sort(key=lambda row: sections.index(row.section))
    return MappingProxyType({row.name: row for row in rows})


def _row(field: attrs.Attribute[Any]) -> Setting:
    declared: Setting = field.metadata[_KEY]
    return attrs.evolve(
        declared,
        name=field.name,
        kind=field.type,
        default=field.default,
        env=declared.env or f"STREAMING_{field.name.upper()}",
    )


def accept_values(settings: attrs.AttrsInstance) -> list[Problem]:
    """Replace the raw values of a new object by their accepted forms; return what does not fit.

    What does not fit is replaced by its default, so that the caller can still compare the rest.
    """
    problems = []
    for name, row in settings_of(type(settings)).items():
        try:
            object.__setattr__(settings, name, row.accept(getattr(settings, name)))
        except REFUSED as error:
            object.__setattr__(settings, name, row.default)
            problems += [
                Problem(path=name + inside, message=sentence, fields=(name,))
                for inside, sentence in row.refusals(error)
            ]
    return problems
