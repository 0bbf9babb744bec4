"""The error that becomes an HTTP answer."""

from __future__ import annotations

from ..words import shown

__all__ = ["ApiError", "shown"]


class ApiError(Exception):
    """``status`` is the HTTP status, ``str(error)`` the sentence that goes into ``{"detail": …}``."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
