"""Fields of a request as another standard has them, each fault reported with its name. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from streaming_api.errors import BadRequest

Fields = Mapping[str, object]


def missing(name: str) -> BadRequest:
    """Return the error for a field that is missing."""
    return BadRequest(f"{name} is missing.", "missing_required_parameter", param=name)


def invalid(name: str, expected: str) -> BadRequest:
    """Return the error for a field with a wrong value."""
    return BadRequest(f"{name} must be {expected}.", "invalid_value", param=name)


def unsupported(name: str, value: object = None) -> BadRequest:
    """Return the error for what chat completions cannot express."""
    given = f" ({value[:100]})" if isinstance(value, str) else ""
    message = f"{name}{given} is not supported here: answers come from chat completions."
    return BadRequest(message, "unsupported_parameter", param=name)


def boolean(fields: Fields, name: str, *, default: bool, path: str = "") -> bool:
    """Return a boolean; null stands for the default. ``path``: as for `optional_text`.

    Raises:
        BadRequest: the value is not a boolean.
    """
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid(path or name, "true or false")
    return value


def whole_number(
    fields: Fields, name: str, *, least: int = 0, most: int | None = None
) -> int | None:
    """Return a whole number within bounds, or None.

    Raises:
        BadRequest: the value is no such number.
    """
    value = fields.get(name)
    if value is None:
        return None
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < least
        or (most is not None and value > most)
    ):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise invalid(name, f"a whole number {bounds}")
    return value


def optional_text(fields: Fields, name: str, path: str = "") -> str | None:
    """Return a string, or None.

    Args:
        fields: the object that may hold it.
        name: its name there.
        path: its name in the whole request, if that is longer.

    Raises:
        BadRequest: the value is not a string.
    """
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(path or name, "a string")
    return value


def optional_object(fields: Fields, name: str, path: str = "") -> Fields:
    """Return an object; an empty one if the field is absent.

    Raises:
        BadRequest: the value is not an object.
    """
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise invalid(path or name, "an object")
    return value


def texts(fields: Fields, name: str) -> list[str]:
    """Return a list of strings; an empty one if the field is absent.

    Raises:
        BadRequest: the value is not a list of strings.
    """
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(name, "a list of strings")
    return value
