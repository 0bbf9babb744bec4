"""The interface every store has, and what a save answers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import ReferenceProblem
from ..reference import Reference


class Saved(NamedTuple):
    """What a save left behind."""

    name: str
    bytes: int
    files: int
    path: Path | None


class Store(Protocol):
    """The interface of :class:`MemoryStore` and :class:`DiskStore`."""

    def names(self) -> list[str]:
        """Every reference's name, oldest first."""

    def newest(self) -> str | None:
        """The name saved last, or None."""

    def load(self, name: str) -> Reference:
        """The reference. Raises :class:`ReferenceProblem` when it is missing or damaged."""

    def save(self, reference: Reference, name: str, replace: bool = False) -> Saved:
        """Keeps it whole or not at all, under ``name`` or, where that is taken and not to be replaced, the next free
        ``name-2``, ``name-3``. Raises :class:`StoreProblem`."""

    def delete(self, name: str) -> None:
        """Forgets it. Raises :class:`ReferenceProblem` when there is none."""


def free_name(name: str, taken) -> str:
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
