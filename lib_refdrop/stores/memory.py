"""References kept in this process's memory, gone when it ends."""

from __future__ import annotations

from threading import Lock

from ..reference import Reference
from .interface import Saved, free_name, missing


class MemoryStore:
    """A named collection of references; page and API threads may use it at once."""

    def __init__(self) -> None:
        self._references: dict[str, Reference] = {}
        self._lock = Lock()

    def names(self) -> list[str]:
        return list(self._references)

    def newest(self) -> str | None:
        return next(reversed(self.names()), None)

    def load(self, name: str) -> Reference:
        try:
            return self._references[name]
        except KeyError:
            raise missing(name, self.names(), "in memory") from None

    def save(self, reference: Reference, name: str, replace: bool = False) -> Saved:
        with self._lock:
            name = name if replace else free_name(name, self._references.__contains__)
            reference.name = reference.manifest["name"] = name
            self._references.pop(name, None)
            self._references[name] = reference
        return Saved(name, reference.nbytes, 0, None)

    def delete(self, name: str) -> None:
        with self._lock:
            if self._references.pop(name, None) is None:
                raise missing(name, self.names(), "in memory")
