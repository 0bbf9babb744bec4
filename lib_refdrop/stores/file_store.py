"""What stores that keep a file a reference have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..references.reference import Reference
from .interface import Saved, save_whole


class FileStore:
    """The part of a :class:`~.interface.Store` that follows from its ``names``, ``load`` and ``writer``."""

    def newest(self) -> str | None:
        return next(reversed(self.names()), None)

    @contextmanager
    def using(self, name: str) -> Iterator[Reference]:
        reference = self.load(name)
        try:
            yield reference
        finally:
            reference.features.close()

    def save(self, reference: Reference, name: str, replace: bool = False) -> Saved:
        return save_whole(self.writer(name, replace, reference.nbytes), reference)
