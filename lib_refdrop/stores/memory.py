"""References kept in this process's memory, gone when it ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from ..references.contents import passes_of
from ..references.names import checked, free, missing, new
from ..references.on_device import pinned
from ..references.reference import Reference
from .budget import MemoryBudget
from .interface import LimitReached, Saved, save_whole


class _Kept(NamedTuple):
    reference: Reference
    key: object  # of its bytes in the budget: its own, so that a successor of the same name has another


class MemoryStore:
    """A named collection of references; page and API threads may use it at once.

    ``budget`` is a number of bytes, None for no limit, or a budget that is shared with others.
    """

    def __init__(self, budget: MemoryBudget | int | None = None) -> None:
        self.budget = budget if isinstance(budget, MemoryBudget) else MemoryBudget(budget)
        self._kept: dict[str, _Kept] = {}
        self._lock = Lock()

    def names(self) -> list[str]:
        with self._lock:
            return list(self._kept)

    def newest(self) -> str | None:
        return next(reversed(self.names()), None)

    def load(self, name: str) -> Reference:
        kept = self._find(name)
        self.budget.touch(kept.key)
        return kept.reference

    @contextmanager
    def using(self, name: str) -> Iterator[Reference]:
        kept = self._find(name)
        with self.budget.using(kept.key):
            yield kept.reference

    def writer(self, name: str, replace: bool = False, expected: int = 0, limit: int | None = None) -> MemoryWriter:
        return MemoryWriter(self, checked(name) if replace else new(name), replace, expected, limit)

    def save(self, reference: Reference, name: str, replace: bool = False) -> Saved:
        return save_whole(self.writer(name, replace, reference.nbytes), reference)

    def delete(self, name: str) -> None:
        name = checked(name)
        with self._lock:
            kept = self._kept.pop(name, None)
        if kept is None:
            raise missing(name, self.names(), "in memory")
        self.budget.remove(kept.key)

    def _find(self, name: str) -> _Kept:
        name = checked(name)
        with self._lock:
            kept = self._kept.get(name)
        if kept is None:
            raise missing(name, self.names(), "in memory")
        return kept

    def _publish(self, kept: _Kept, name: str, replace: bool) -> None:
        """Keeps a reference, under the first free name unless it may replace another."""
        with self._lock:
            reference = kept.reference
            reference.name = reference.manifest["name"] = (
                name if replace else free(name, self._kept.__contains__))
            old = self._kept.pop(reference.name, None)
            self._kept[reference.name] = kept
        if old is not None:
            self.budget.remove(old.key)

    def _drop(self, kept: _Kept) -> None:
        with self._lock:
            if self._kept.get(kept.reference.name) is kept:
                del self._kept[kept.reference.name]


class MemoryWriter:
    """A :class:`~.interface.Writer` whose bytes count from the beginning, and until it is done or nobody has it any
    more: a generation that fails need not say so."""

    def __init__(self, store: MemoryStore, name: str, replace: bool, expected: int, limit: int | None) -> None:
        self._store, self._name, self._replace, self._limit = store, name, replace, limit
        expected = expected if limit is None else min(expected, limit)
        self._tensors: dict[str, Tensor] = {}
        self._key, self._what = object(), f"Reference {name!r}"
        self._bytes, self._reserved, self._closed = 0, expected, False
        self._dropped = store.budget.put(self._key, expected, self._what)
        self._freed = store.budget.owned_by(self, self._key)

    @property
    def left(self) -> int | None:
        return None if self._limit is None else self._limit - self._bytes

    def add(self, name: str, tensor: Tensor) -> None:
        if self._closed or name in self._tensors:
            raise ValueError(f"the writer of {self._name!r} is closed" if self._closed else f"{name} is there already")
        own = _own(tensor)
        if self._limit is not None and self._bytes + _held(own) > self._limit:
            raise LimitReached(self._name, self._limit, self._bytes + _held(own) - self._limit)
        self._tensors[name] = own
        self._bytes += _held(own)
        if self._bytes > self._reserved:
            self._reserved = self._bytes
            self._count(self._bytes)

    def drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._bytes -= _held(self._tensors.pop(name))

    def commit(self, manifest: dict) -> Saved:
        if self._closed:
            raise ValueError(f"the writer of {self._name!r} is closed")
        try:
            nbytes = sum(tensor.nbytes for tensor in self._tensors.values())
            own = dict(manifest)
            kept = _Kept(Reference(self._name, own, passes_of(own, self._tensors), self._tensors, nbytes), self._key)
            self._store._publish(kept, self._name, self._replace)
            self._closed = True
            self._freed.detach()
            self._dropped += self._store.budget.put(self._key, self._bytes, f"Reference {kept.reference.name!r}",
                                                    lambda: self._store._drop(kept))
        finally:
            self.abort()
        manifest["name"] = kept.reference.name
        notes = tuple(f"{what} was dropped from memory to make room." for what in self._dropped)
        return Saved(kept.reference.name, nbytes, 0, None, notes)

    def abort(self) -> None:
        if not self._closed:
            self._closed, self._tensors = True, {}
            self._freed()

    def _count(self, nbytes: int) -> None:
        try:
            self._dropped += self._store.budget.put(self._key, nbytes, self._what)
        except BaseException:
            self.abort()
            raise


def _own(tensor: Tensor) -> Tensor:
    """A copy of our own on the CPU, in memory that a GPU can fetch from by itself where there is CUDA.

    A tensor that owns all of its memory is kept as it is: the recorder's is a copy already.
    """
    tensor = tensor.detach().to("cpu")
    if not tensor.is_contiguous() or tensor.untyped_storage().nbytes() > tensor.nbytes:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return pinned(tensor)


def _held(tensor: Tensor) -> int:
    """The bytes a tensor takes: CUDA's allocator hands out pinned memory in powers of two."""
    pinned = torch.cuda.is_available() and tensor.is_pinned()
    return 1 << (tensor.nbytes - 1).bit_length() if pinned and tensor.nbytes else tensor.nbytes
