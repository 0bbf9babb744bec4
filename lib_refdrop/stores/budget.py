"""One limit for everything that RefDrop keeps in memory: the least recently used goes first, what is in use stays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from ..words import StoreProblem
from ..words import said


@dataclass
class _Entry:
    what: str
    nbytes: int
    evict: Callable[[], None] | None
    pins: int = 0
    removed: bool = False  # by its owner while in use: its bytes are free when the last user is done


class MemoryBudget:
    """Counts bytes; who holds them is told to let go by a callback. Threads may use it at once.

    ``limit`` is in bytes, None for none, and may be changed at any time.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # least recently used first
        self._lock = Lock()

    @property
    def used(self) -> int:
        """Bytes held now."""
        with self._lock:
            return self._sum()

    def put(self, key: Hashable, nbytes: int, what: str, evict: Callable[[], None] | None = None) -> list[str]:
        """Counts ``nbytes`` under ``key``, or changes what it counts for; answers what had to go, as ``what`` names it.

        ``what`` begins a sentence ("Reference 'hero'"). ``evict`` is called, outside of any lock, when the bytes must
        go; without it they never do. Raises :class:`StoreProblem`, with nothing changed, where they do not fit.
        """
        with self._lock:
            old = self._entries.get(key)
            victims = self._victims(key, nbytes, what)
            gone = [self._entries.pop(victim) for victim in victims]
            self._entries[key] = _Entry(what, nbytes, evict, old.pins if old else 0)
            self._entries.move_to_end(key)
        for entry in gone:
            entry.evict()
        return [entry.what for entry in gone]

    def touch(self, key: Hashable) -> None:
        """Marks as used just now."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)

    def pin(self, key: Hashable) -> None:
        """In use: stays until as many calls of :meth:`unpin`."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                self._entries[key].pins += 1

    def unpin(self, key: Hashable) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            entry.pins = max(0, entry.pins - 1)
            if entry.removed and not entry.pins:
                del self._entries[key]

    @contextmanager
    def using(self, key: Hashable) -> Iterator[None]:
        """Pinned for as long as the ``with`` lasts."""
        self.pin(key)
        try:
            yield
        finally:
            self.unpin(key)

    def remove(self, key: Hashable) -> None:
        """The owner lets go by itself; no callback. Does nothing for a key that is not there."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.pins:
                entry.removed = True
            elif entry is not None:
                del self._entries[key]

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._entries

    def _sum(self) -> int:
        return sum(entry.nbytes for entry in self._entries.values())

    def _victims(self, key: Hashable, nbytes: int, what: str) -> list[Hashable]:
        if self.limit is None:
            return []
        if key in self._entries and nbytes <= self._entries[key].nbytes:
            return []  # letting go of something is always possible
        if nbytes > self.limit:
            raise StoreProblem(f"{what} needs {said(nbytes)}, more than the {said(self.limit)} that RefDrop may keep "
                               "in memory; keep it on Disk, keep less of it, or raise --refdrop-memory.")
        others = {other: entry for other, entry in self._entries.items() if other != key}
        needed = sum(entry.nbytes for entry in others.values()) + nbytes - self.limit
        victims = []
        for other, entry in others.items():
            if needed <= 0:
                break
            if not entry.pins and entry.evict is not None and entry.nbytes:
                victims.append(other)
                needed -= entry.nbytes
        if needed > 0:
            raise StoreProblem(f"{what} needs {said(nbytes)}, which of the {said(self.limit)} that RefDrop may keep in "
                               "memory are not free while a generation uses the rest; try again after it, keep it on "
                               "Disk, or raise --refdrop-memory.")
        return victims
