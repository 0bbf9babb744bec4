"""The interface every store has, and what a save answers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from ..references.reference import Reference
from ..words import StoreProblem, said


class Saved(NamedTuple):
    """What a save left behind; ``path`` is a URL in a shared library, None in memory; ``notes`` are sentences for the
    user (which references were dropped from memory to make room, say)."""

    name: str
    bytes: int
    files: int
    path: Path | str | None
    notes: tuple[str, ...] = ()


class LimitReached(StoreProblem):
    """What was to be added, or the manifest, makes a reference ``excess`` bytes larger than it may become. Nothing was
    changed and the writer is still open: who can do with less drops something and tries again."""

    def __init__(self, name: str, limit: int, excess: int) -> None:
        super().__init__(f"Reference {name!r} does not fit into the {said(limit)} that it may take; allow more, or "
                         "keep less of it.")
        self.excess = excess


class Writer(Protocol):
    """A reference on its way into a store, tensor by tensor. Who opens one calls :meth:`commit` or :meth:`abort`."""

    @property
    def left(self) -> int | None:
        """How many bytes may still be added, names and all; None without a limit."""

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes a tensor of any device, which nobody may change afterwards.

        Raises :class:`LimitReached`; :class:`StoreProblem` where there is no room, with nothing left behind; and
        ValueError for a name that came before, a number type that no file can hold, or after the end.
        """

    def drop(self, names: Iterable[str]) -> None:
        """Takes tensors back that were added. KeyError for one that was not."""

    def commit(self, manifest: dict) -> Saved:
        """Keeps what was added, whole, and sets ``manifest["name"]``. Raises :class:`LimitReached`,
        :class:`StoreProblem`."""

    def abort(self) -> None:
        """Leaves nothing behind. Does nothing after a commit or another abort."""


class Store(Protocol):
    """The interface of :class:`MemoryStore`, :class:`DiskStore` and :class:`SharedStore`.

    Names are taken in any form that :func:`~lib_refdrop.references.names.checked` knows; every method that takes one
    raises :class:`SettingsError` for what is none. A place that cannot be reached is a :class:`StoreProblem`.
    """

    def names(self) -> list[str]:
        """Every reference's name, oldest first."""

    def newest(self) -> str | None:
        """The name saved last of those that can be loaded, or None."""

    def load(self, name: str) -> Reference:
        """The reference. Raises :class:`ReferenceProblem` when it is missing or damaged."""

    def using(self, name: str) -> AbstractContextManager[Reference]:
        """The reference, for as long as the ``with`` lasts: it is not dropped from memory meanwhile, and its file is
        closed at the end. Raises as :meth:`load` does."""

    def writer(self, name: str, replace: bool = False, expected: int = 0, limit: int | None = None) -> Writer:
        """Begins a reference that comes tensor by tensor, of about ``expected`` bytes (0: unknown) and at most
        ``limit``: of a file all of it counts, in memory the tensors do.

        Raises :class:`StoreProblem` where these have no room.
        """

    def save(self, reference: Reference, name: str, replace: bool = False) -> Saved:
        """Keeps it whole or not at all, under ``name`` or, where that is taken and not to be replaced, the next free
        ``name-2``, ``name-3``. Raises :class:`StoreProblem`."""

    def delete(self, name: str) -> None:
        """Forgets it. Raises :class:`ReferenceProblem` when there is none."""


def save_whole(writer: Writer, reference: Reference) -> Saved:
    """Hands a reference to a writer, one tensor in memory at a time, and gives it the name it got."""
    try:
        for name in reference.features:
            writer.add(name, reference.features[name])
        saved = writer.commit(reference.manifest)
    finally:
        writer.abort()
    reference.name = saved.name
    return saved
