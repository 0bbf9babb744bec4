"""The rows of a model call's batch, as the host lays them out: never assumed, always told by an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

COND, UNCOND = "cond", "uncond"
BRANCHES = (COND, UNCOND)


class Kind(NamedTuple):
    """What a reference keeps features by: a branch, and the part of an ``AND`` prompt. ``str`` gives "cond" or, of a
    second part, "cond.1"."""

    branch: str
    part: int = 0

    def __str__(self) -> str:
        return f"{self.branch}.{self.part}" if self.part else self.branch

    @classmethod
    def parse(cls, text: str) -> Kind:
        """The inverse of ``str``. Raises ValueError for anything else."""
        branch, _, part = text.partition(".")
        found = cls(branch, int(part or 0))
        if branch not in BRANCHES or str(found) != text:
            raise ValueError(f"no rows are called {text!r}")
        return found


class Row(NamedTuple):
    """One row: its branch, which image of the batch it belongs to, and which part of that image's ``AND`` prompt."""

    branch: str
    image: int = 0
    part: int = 0

    @property
    def kind(self) -> Kind:
        return Kind(self.branch, self.part)


class Run(NamedTuple):
    """Neighbouring rows of one kind: a view of the batch, not a copy."""

    kind: Kind
    rows: slice


def runs(rows: Sequence[Row]) -> Iterator[Run]:
    """The rows of a batch as runs of one kind, in order."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end].kind != rows[start].kind:
            yield Run(rows[start].kind, slice(start, end))
            start = end


def chunks(kinds: Sequence[Kind], images: int) -> list[Row]:
    """Rows that come chunk by chunk, every chunk with all images, as in Forge and its kin."""
    return [Row(kind.branch, image, kind.part) for kind in kinds for image in range(images)]
