"""The pictures that a sequence goes by, as references in memory: its first, and the one before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..references.reference import Reference
from ..settings import BOTH, FIRST, PREVIOUS
from ..stores import MemoryStore
from ..stores.interface import Writer
from ..techniques.reference.recording import Recording
from ..words import ReferenceProblem
from .shelf import Shelf

_THE_FIRST, _THE_PREVIOUS = "first", "previous"
FIRSTS_SHARE = 0.5  # of the coefficient, where both guide


class Pictures:
    """They share the limit of all that is kept in memory and never lie on the disk.

    Without a name nobody else finds them, and :meth:`close` forgets them; with one they are references in RAM, NAME
    first and NAME previous, that later generations go on with. The second picture of a sequence has one before it that
    is the first: it is kept once.
    """

    def __init__(self, shelf: Shelf, name: str = "") -> None:
        self.name = name
        self._replays = shelf.replays
        self._store = shelf.memory if name else MemoryStore(shelf.memory.budget)
        self._made: set[str] = set()  # by us: where one is gone, it had to make room
        self.count = 0  # of those drawn here

    def guiding(self, sequence: str) -> list[tuple[str, float]]:
        """Which are there to guide the next picture, and the part of the strength that each gets: together 1. None
        before the first picture. Raises :class:`ReferenceProblem` where one is there no more."""
        there = set(self._store.names())
        if gone := [which for which in sorted(self._made) if self._key(which) not in there]:
            raise ReferenceProblem(f"The {gone[0]} picture of the sequence had to go from memory to make room; raise "
                                   "--refdrop-memory, or choose to keep less.")
        first, previous = (self._key(which) in there for which in (_THE_FIRST, _THE_PREVIOUS))
        if sequence == BOTH and first and previous:
            return [(_THE_FIRST, FIRSTS_SHARE), (_THE_PREVIOUS, 1 - FIRSTS_SHARE)]
        if previous and sequence == PREVIOUS:
            return [(_THE_PREVIOUS, 1.0)]
        return [(_THE_FIRST, 1.0)] if first else []

    @contextmanager
    def using(self, which: str) -> Iterator[Reference]:
        """One of them, which stays in memory meanwhile."""
        with self._store.using(self._key(which)) as reference:
            yield reference

    def next(self, sequence: str) -> str | None:
        """As what the picture that is drawn now is to be kept; None where no later one goes by it."""
        started = self._key(_THE_FIRST) in self._store.names()
        if sequence == PREVIOUS:
            return _THE_PREVIOUS
        return _THE_FIRST if not started else _THE_PREVIOUS if sequence == BOTH else None

    def writer(self, which: str, expected: int, limit: int | None) -> Writer:
        """Takes the place of what was kept as such. Raises :class:`StoreProblem` where there is no room."""
        return self._store.writer(self._key(which), True, expected, limit)

    def keep(self, which: str, recording: Recording) -> None:
        """Finishes a recording into :meth:`writer`'s. Raises :class:`~lib_refdrop.words.RefDropError`."""
        self._forget_replays(which)
        recording.commit()
        self._made.add(which)

    def close(self) -> None:
        """The sequence is over, unless it has a name. More than once does no harm."""
        for which in (_THE_FIRST, _THE_PREVIOUS):
            self._forget_replays(which)
            if not self.name and self._key(which) in self._store.names():
                self._store.delete(self._key(which))
        self._made.clear()

    def _forget_replays(self, which: str) -> None:
        if self._key(which) in self._store.names():
            self._replays.forget(self._store.load(self._key(which)).content)

    def _key(self, which: str) -> str:
        return f"{self.name} {which}" if self.name else f"{which} picture"


def by_which(sequence: str) -> str:
    """For people: what later pictures are guided by."""
    return {FIRST: "the first", PREVIOUS: "the one before", BOTH: "the first and the one before"}[sequence]
