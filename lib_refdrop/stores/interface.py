"""The interface every store has, and what a save answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from ..words import ReferenceProblem
from ..references.reference import Reference


class Saved(NamedTuple):
    """What a save left behind; ``path`` is a URL in a shared library, None in memory; ``notes`` are sentences for the
    user (which references were dropped from memory to make room, say)."""

    name: str
    bytes: int
    files: int
    path: Path | str | None
    notes: tuple[str, ...] = ()


class Writer(Protocol):
    """A reference on its way into a store, tensor by tensor. Who opens one calls :meth:`commit` or :meth:`abort`."""

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes a tensor of any device, which nobody may change afterwards.

        Raises :class:`StoreProblem` where there is no room, with nothing left behind, and ValueError for a name that
        came before, a number type that no file can hold, or after the end.
        """

    def drop(self, names: Iterable[str]) -> None:
        """Takes tensors back that were added. KeyError for one that was not."""

    def commit(self, manifest: dict) -> Saved:
        """Keeps what was added, whole, and sets ``manifest["name"]``. Raises :class:`StoreProblem`."""

    def abort(self) -> None:
        """Leaves nothing behind. Does nothing after a commit or another abort."""


class Store(Protocol):
    """The interface of :class:`MemoryStore`, :class:`DiskStore` and :class:`SharedStore`."""

    def names(self) -> list[str]:
        """Every reference's name, oldest first."""

    def newest(self) -> str | None:
        """The name saved last, or None."""

    def load(self, name: str) -> Reference:
        """The reference. Raises :class:`ReferenceProblem` when it is missing or damaged."""

    def using(self, name: str) -> AbstractContextManager[Reference]:
        """The reference, for as long as the ``with`` lasts: it is not dropped from memory meanwhile, and its file is
        closed at the end. Raises as :meth:`load` does."""

    def writer(self, name: str, replace: bool = False, expected: int = 0) -> Writer:
        """Begins a reference that comes tensor by tensor, of about ``expected`` bytes (0: unknown).

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


def free_name(name: str, taken: Callable[[str], bool]) -> str:
    """``name``, or the first of ``name-2``, ``name-3``… for which ``taken`` is false."""
    number, free = 1, name
    while taken(free):
        number += 1
        free = f"{name}-{number}"
    return free


def missing(name: str, names: list[str], where: str) -> ReferenceProblem:
    """The sentence for a reference that is not there."""
    have = f"there are: {', '.join(names[-8:])}" if names else "save one first"
    return ReferenceProblem(f"There is no reference {name!r} {where}; {have}.")
