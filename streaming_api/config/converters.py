"""Strict conversion of raw values to the types that settings have; knows no setting by name.

Nothing is guessed: ``"false"`` is not a boolean, ``1.9`` and ``true`` are not whole numbers, text
is not a list, NaN and infinity are not numbers. Values that have their type already pass unchanged.
"""

import ipaddress
import math
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import attrs
import cattrs
from cattrs.cols import homogenous_tuple_structure_factory, mapping_structure_factory
from cattrs.gen import make_dict_structure_fn

from streaming_api.config.problems import describe, did_you_mean
from streaming_api.config.types import AtLeast, IPNetwork, Pattern


class Unfit(ValueError):
    """A value that does not fit; never leaves this package.

    Attributes:
        found: The value.
        needs: What would fit, to stand after the word "needs".
        secret: The value may hold a secret, whatever the setting.
    """

    def __init__(self, found: object, needs: str, *, secret: bool = False) -> None:
        """Keep everything; only `sentence` knows whether the value may be shown."""
        super().__init__(needs)
        self.found = found
        self.needs = needs
        self.secret = secret

    def sentence(self, *, secret: bool) -> str:
        """Return ``found ..., needs ...``, without what was found when that is `secret`."""
        hidden = secret or self.secret
        shown = "a value that does not fit (not shown)" if hidden else describe(self.found)
        return f"found {shown}, needs {self.needs}"


def structure(raw: object, kind: type) -> Any:  # noqa: ANN401 - the type is the argument
    """Return `raw` as a value of type `kind`.

    Raises:
        Unfit: It is a plain value of another type.
        cattrs.BaseValidationError: It is a list or a mapping with entries that do not fit.
    """
    return _converter.structure(raw, kind)


def sentences(error: Exception, *, secret: bool) -> list[tuple[str, str]]:
    """List what `structure` objected to: pairs of where inside the value it is and a sentence."""

    def sentence_of(cause: BaseException, _: type | None) -> str:
        match cause:
            case Unfit():
                return cause.sentence(secret=secret)
            case cattrs.ForbiddenExtraKeysError():
                known = [field.name for field in attrs.fields(cause.cl)]
                extra = sorted(cause.extra_fields)
                return "; ".join(f'unknown key "{e}"{did_you_mean(e, known)}' for e in extra)
            case KeyError():
                return "is missing"
            case _:
                return f"does not fit ({type(cause).__name__})"

    found = (line.rpartition(" @ $") for line in cattrs.transform_error(error, "$", sentence_of))
    return [(re.sub(r"\['([^']*)'\]", r".\1", where), sentence) for sentence, _, where in found]


def _boolean(raw: object, _: object) -> bool:
    if not isinstance(raw, bool):
        raise Unfit(raw, "true or false")
    return raw


def _whole_number(raw: object, _: object) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise Unfit(raw, "a whole number")
    return raw


def _finite_number(raw: object, _: object) -> float:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise Unfit(raw, "a number")
    if isinstance(raw, float) and not math.isfinite(raw):
        raise Unfit(raw, "a finite number")
    return raw


def _text(raw: object, _: object) -> str:
    if not isinstance(raw, str):
        raise Unfit(raw, "text (in quotes, if it looks like something else)")
    return raw


def _path(raw: object, _: object) -> Path:
    if not isinstance(raw, str | Path) or not str(raw):
        raise Unfit(raw, "the path of a file")
    return Path(raw)


def _network(raw: object, _: object) -> IPNetwork:
    if isinstance(raw, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return raw
    needs = "an IP address or network, such as 10.0.0.0/8 or ::1"
    if not isinstance(raw, str):
        raise Unfit(raw, needs)
    try:
        return ipaddress.ip_network(raw)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(raw, strict=False)
    except ValueError:
        raise Unfit(raw, needs) from None
    raise Unfit(raw, f"a network without host bits, such as {meant}")


def _choice(raw: object, kind: Any) -> Any:  # noqa: ANN401 - any Literal
    choices = get_args(kind)
    if raw not in choices:
        raise Unfit(raw, "one of " + ", ".join(choices))
    return raw


def _matching_text(raw: object, kind: Any) -> str:  # noqa: ANN401 - any Annotated
    text = _text(raw, str)
    pattern = next(extra for extra in get_args(kind)[1:] if isinstance(extra, Pattern))
    if not re.fullmatch(pattern.regex, text):
        raise Unfit(text, pattern.needs)
    return text


def _count(raw: object, kind: Any) -> int:  # noqa: ANN401 - any Annotated
    rule = next(extra for extra in get_args(kind)[1:] if isinstance(extra, AtLeast))
    if type(raw) is not int or raw < rule.least:
        raise Unfit(raw, f"a whole number from {rule.least}")
    return raw


def _is_count(kind: Any) -> bool:  # noqa: ANN401 - any type expression
    return get_origin(kind) is Annotated and any(isinstance(x, AtLeast) for x in get_args(kind))


def _is_pattern(kind: Any) -> bool:  # noqa: ANN401 - any type expression
    return get_origin(kind) is Annotated and any(isinstance(x, Pattern) for x in get_args(kind))


def _is_a(origin: object) -> Callable[[Any], bool]:
    return lambda kind: get_origin(kind) is origin


Structure = Callable[[Any, Any], Any]


def _tuple_factory(kind: Any, converter: cattrs.BaseConverter) -> Structure:  # noqa: ANN401
    of_list: Structure = homogenous_tuple_structure_factory(kind, converter)

    def structure_tuple(raw: object, kind: object) -> object:
        if not isinstance(raw, list | tuple):
            raise Unfit(raw, "a list")
        return of_list(raw, kind)

    return structure_tuple


def _set_factory(kind: Any, converter: cattrs.BaseConverter) -> Structure:  # noqa: ANN401
    as_tuple = types.GenericAlias(tuple, (*get_args(kind), ...))
    of_list = _tuple_factory(as_tuple, converter)

    def structure_set(raw: object, _: object) -> frozenset[object]:
        listed = sorted(raw) if isinstance(raw, set | frozenset) else raw
        return frozenset(of_list(listed, as_tuple))

    return structure_set


def _mapping_factory(kind: Any, converter: cattrs.BaseConverter) -> Structure:  # noqa: ANN401
    of_mapping: Structure = mapping_structure_factory(kind, converter)

    def structure_mapping(raw: object, kind: object) -> object:
        if not isinstance(raw, Mapping):
            raise Unfit(raw, "a mapping of names to values")
        return of_mapping(raw, kind)

    return structure_mapping


def _record_factory(kind: Any, converter: cattrs.BaseConverter) -> Structure:  # noqa: ANN401
    of_mapping = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

    def structure_record(raw: object, kind: Any) -> object:  # noqa: ANN401
        if isinstance(raw, kind):
            raw = attrs.asdict(raw, recurse=False)
        if not isinstance(raw, Mapping):
            needed = [field.name for field in attrs.fields(kind) if field.default is attrs.NOTHING]
            names = ", ".join(needed)
            raise Unfit(raw, f"a mapping with {names}")
        return of_mapping(dict(raw), kind)

    return structure_record


def _strict_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook(bool, _boolean)
    converter.register_structure_hook(int, _whole_number)
    converter.register_structure_hook(float, _finite_number)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(Path, _path)
    converter.register_structure_hook_func(lambda kind: kind == IPNetwork, _network)
    converter.register_structure_hook_func(_is_a(Literal), _choice)
    converter.register_structure_hook_func(_is_pattern, _matching_text)
    converter.register_structure_hook_func(_is_count, _count)
    converter.register_structure_hook_factory(_is_a(tuple), _tuple_factory)
    converter.register_structure_hook_factory(_is_a(frozenset), _set_factory)
    converter.register_structure_hook_factory(_is_a(Mapping), _mapping_factory)
    converter.register_structure_hook_factory(attrs.has, _record_factory)
    return converter


_converter = _strict_converter()
