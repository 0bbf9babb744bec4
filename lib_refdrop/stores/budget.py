"""One limit for everything that RefDrop keeps in memory: the least recently used goes first, what is in use stays."""

from __future__ import annotations

import gc
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from ..words import StoreProblem, said


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
        self._ended: deque[tuple[Callable[[Hashable], None], Hashable]] = deque()  # by finalizers, which must not wait

    @property
    def used(self) -> int:
        """Bytes held now."""
        with self._locked():
            return self._sum()

    def put(self, key: Hashable, nbytes: int, what: str, evict: Callable[[], None] | None = None,
            user: object = None) -> list[str]:
        """Counts ``nbytes`` under ``key``, or changes what it counts for; answers what had to go, as ``what`` names it.

        ``what`` begins a sentence ("Reference 'hero'"). ``evict`` is called, outside of any lock, when the bytes must
        go; without it they never do. With a ``user`` they are in use from the first moment, as by :meth:`use`. Raises
        :class:`StoreProblem`, with nothing changed, where they do not fit.
        """
        try:
            gone = self._put(key, nbytes, what, evict, user)
        except StoreProblem:
            gc.collect()  # generations that failed are told from those that run only by nobody having them any more
            gone = self._put(key, nbytes, what, evict, user)
        for entry in gone:
            if entry.evict is not None:  # as of all victims
                entry.evict()
        return [entry.what for entry in gone]

    def touch(self, key: Hashable) -> None:
        """Marks as used just now."""
        with self._locked():
            if key in self._entries:
                self._entries.move_to_end(key)

    def use(self, key: Hashable, user: object) -> None:
        """In use, and so not to go, for as long as ``user`` is there: any object that weak references can be made to.
        Does nothing for a key that is not there."""
        with self._locked():
            if key in self._entries:
                self._used_by(key, user)

    @contextmanager
    def using(self, key: Hashable) -> Iterator[None]:
        """In use for as long as the ``with`` lasts."""
        with self._locked():
            self._pin(key)
        try:
            yield
        finally:
            with self._locked():
                self._unpin(key)

    def remove(self, key: Hashable) -> None:
        """The owner lets go by itself; no callback. Does nothing for a key that is not there."""
        with self._locked():
            self._remove(key)

    def owned_by(self, owner: object, key: Hashable) -> weakref.finalize:
        """Removes a key when its owner is no more, or when the answer is called; its ``detach()`` ends that."""
        ending = weakref.finalize(owner, self._end, self._remove, key)
        ending.atexit = False
        return ending

    def __contains__(self, key: Hashable) -> bool:
        with self._locked():
            return key in self._entries

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            while self._ended:
                act, key = self._ended.popleft()
                act(key)
            yield

    def _end(self, act: Callable[[Hashable], None], key: Hashable) -> None:
        """From a finalizer, which may run anywhere, inside our own lock too: done by whoever comes next."""
        self._ended.append((act, key))

    def _put(self, key: Hashable, nbytes: int, what: str, evict: Callable[[], None] | None,
             user: object) -> list[_Entry]:
        with self._locked():
            old = self._entries.get(key)
            gone = [self._entries.pop(victim) for victim in self._victims(key, nbytes, what)]
            self._entries[key] = _Entry(what, nbytes, evict, old.pins if old else 0)
            self._entries.move_to_end(key)
            if user is not None:
                self._used_by(key, user)
            return gone

    def _used_by(self, key: Hashable, user: object) -> None:
        self._pin(key)
        weakref.finalize(user, self._end, self._unpin, key).atexit = False

    def _pin(self, key: Hashable) -> None:
        if key in self._entries:
            self._entries.move_to_end(key)
            self._entries[key].pins += 1

    def _unpin(self, key: Hashable) -> None:
        entry = self._entries.get(key)
        if entry is None:
            return
        entry.pins = max(0, entry.pins - 1)
        if entry.removed and not entry.pins:
            del self._entries[key]

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.get(key)
        if entry is not None and entry.pins:
            entry.removed = True
        elif entry is not None:
            del self._entries[key]

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
