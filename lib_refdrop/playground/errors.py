"""The error that becomes an HTTP answer, and how a value is quoted in its sentence."""

from __future__ import annotations

from typing import Any

from ..words import shortened

_LONGEST = 100  # letters of a value in a sentence


class ApiError(Exception):
    """``status`` is the HTTP status, ``str(error)`` the sentence that goes into ``{"detail": …}``."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def shown(value: Any) -> str:
    """A value in a sentence: one line, short, and never what cannot be sent."""
    if isinstance(value, str):
        value = value[:_LONGEST + 1]  # before it is quoted: it may be megabytes
    try:
        return shortened(repr(value), _LONGEST)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists a thousand deep
        return f"such a {type(value).__name__}"
