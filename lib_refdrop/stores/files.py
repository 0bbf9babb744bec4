"""What stores that keep a file a reference have in common."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..references.names import checked, missing, new
from ..references.reference import Reference
from ..words import ReferenceProblem
from .interface import Saved, save_whole
from .writer import FileWriter

logger = logging.getLogger("RefDrop")


class FileStore(ABC):
    """The part of a :class:`~.interface.Store` that follows from its listing, from opening one file, and from the
    writer that it opens. ``where`` is the folder or URL, for sentences; ``beside`` a folder of this computer for small
    things that belong to it."""

    where: str
    beside: Path

    @abstractmethod
    def names(self) -> list[str]: ...

    @abstractmethod
    def _opened(self, name: str) -> Reference | None:
        """The reference of that name; None where there is none."""

    @abstractmethod
    def _deleted(self, name: str) -> bool:
        """Whether there was one of that name, which is no more."""

    @abstractmethod
    def _writer(self, name: str, replace: bool, expected: int, limit: int | None) -> FileWriter: ...

    def newest(self) -> str | None:
        for name in reversed(self.names()):
            try:
                with self.using(name):
                    return name
            except ReferenceProblem as problem:
                logger.info("Passed over, while the newest reference was looked for: %s", problem)
        return None

    def load(self, name: str) -> Reference:
        name = checked(name)
        reference = self._opened(name)
        if reference is None:
            raise missing(name, self.names(), f"in {self.where}")
        return reference

    @contextmanager
    def using(self, name: str) -> Iterator[Reference]:
        reference = self.load(name)
        try:
            yield reference
        finally:
            reference.close()

    def writer(self, name: str, replace: bool = False, expected: int = 0, limit: int | None = None) -> FileWriter:
        return self._writer(checked(name) if replace else new(name), replace, expected, limit)

    def save(self, reference: Reference, name: str, replace: bool = False) -> Saved:
        return save_whole(self.writer(name, replace, reference.nbytes), reference)

    def delete(self, name: str) -> None:
        name = checked(name)
        if not self._deleted(name):
            raise missing(name, self.names(), f"in {self.where}")
