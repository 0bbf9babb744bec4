"""One value of a request or an option: its type and range, checked with one sentence."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .errors import ApiError, shown

_LONGEST_PROMPT = 10_000  # letters; models know some hundred words


class Field(NamedTuple):
    """A field's default, which also says its type, and its range. ``optional``: None has a meaning of its own."""

    default: Any
    least: float = -math.inf
    most: float = math.inf
    multiple: int = 1
    optional: bool = False

    @property
    def value(self) -> Any:
        """What stands for a field that is left out."""
        return None if self.optional else self.default


def check(name: str, value: Any, field: Field) -> Any:
    """The value in the field's own type; None is its default. Raises :class:`ApiError` 422."""
    if value is None:
        return field.value
    kind = type(field.default)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return check_text(name, value)
    if kind in (bool, str, list, dict):
        wanted = {bool: "true or false", str: "text", list: "a list", dict: "an object"}[kind]
        if isinstance(value, kind):
            return value
        raise ApiError(422, f"{name} must be {wanted}, not {shown(value)}.")
    number = _number(value)
    wanted = f"a {'whole number' if kind is int else 'number'} from {field.least:g} to {field.most:g}"
    if field.multiple > 1:
        wanted += f" and a multiple of {field.multiple}"
    fits = number is not None and field.least <= number <= field.most and (kind is float or number == int(number))
    if number is None or not fits or (field.multiple > 1 and number % field.multiple):
        raise ApiError(422, f"{name} must be {wanted}, not {shown(value)}.")
    return kind(number)


def check_text(name: str, text: str) -> str:
    """Raises :class:`ApiError` 422 for text that no file and no answer can hold, and for a prompt whose words would
    take minutes to count."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ApiError(422, f"{name} holds half of a character (a lone surrogate); send it as UTF-8.") from None
    if name.endswith("prompt") and len(text) > _LONGEST_PROMPT:
        raise ApiError(422, f"{name} has {len(text)} letters; write at most {_LONGEST_PROMPT}.")
    return text


def _number(value: Any) -> int | float | None:
    """The number meant by a JSON number or by text that is one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, int):
        return value
    try:
        return int(value) if isinstance(value, str) else _finite(value)
    except ValueError:
        return _finite(value)


def _finite(value: float | str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
