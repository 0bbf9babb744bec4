"""Writes a reference's file as its tensors come, so that a reference of any size needs the memory of one tensor."""

from __future__ import annotations

import errno
import json
import os
import shutil
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..references.contents import passes_of
from ..references.names import free
from ..words import StoreProblem, shortened
from . import safetensors
from .interface import LimitReached, Saved
from .partial import PartialFile, clean, sync
from .reading import ORDER
from .safetensors import Entry

_HEADROOM = 16 * 2**20  # left free on the disk, for the header and for the system
_MANIFEST = 2**12  # of a limit, kept for the manifest until that is known
_BLOCK = 8 * 2**20
_TRIES = 50


class Place(Protocol):
    """Where a finished file goes."""

    where: str  # a folder or URL, for sentences

    def taken(self) -> Callable[[str], bool]:
        """Tells, as it is now, which names are in use."""

    def next_order(self) -> int:
        """A number above that of everything saved there, as far as that can be known."""

    def publish(self, partial: Path, name: str, replace: bool) -> Path | str:
        """Gives the finished file its name and says where it is. Raises FileExistsError where the name was taken
        meanwhile, other OSErrors, and :class:`StoreProblem`."""


class FileWriter:
    """A :class:`~.interface.Writer` over a partial file in ``folder``.

    The header comes first in the file and is known last. Room is left for it, about a hundredth of what is expected,
    which is more than it takes; where it is not, the tensors are moved up once.
    """

    def __init__(self, place: Place, folder: Path, name: str, replace: bool = False, expected: int = 0,
                 limit: int | None = None) -> None:
        """Raises :class:`StoreProblem` where there is no room, or no folder."""
        self._place, self._name, self._replace, self._limit = place, name, replace, limit
        expected = expected if limit is None else min(expected, limit)
        self._entries: dict[str, Entry] = {}
        self._room = safetensors.room(expected)
        self._end = self._held = 0
        self._letters = _MANIFEST  # of the header
        self._holes: dict[int, list[int]] = {}  # by size, where tensors stood that were dropped
        self._closed: Exception | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            clean(folder)
            if shutil.disk_usage(folder).free < expected + _HEADROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._partial = PartialFile(folder)
        except OSError as error:
            raise not_saved(name, place.where, error) from error
        self._discard = weakref.finalize(self, self._partial.discard)

    @property
    def left(self) -> int | None:
        return None if self._limit is None else self._limit - self._held - max(self._room, self._letters)

    def add(self, name: str, tensor: Tensor) -> None:
        self._check_open()
        if name in self._entries or name == "__metadata__":
            raise ValueError(f"a tensor named {name} is there already")
        if tensor.dtype not in safetensors.NAMES:
            raise ValueError(f"a file cannot hold numbers of type {tensor.dtype}")
        name.encode()  # half a character cannot be written: UnicodeEncodeError is a ValueError
        tensor = tensor.detach().to("cpu").contiguous()
        content = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
        holes = self._holes.get(tensor.nbytes)
        start = holes[-1] if holes else self._end
        entry = Entry(safetensors.NAMES[tensor.dtype], tuple(tensor.shape), start, start + tensor.nbytes,
                      zlib.crc32(content))
        letters = safetensors.letters_of(name, entry)
        self._check_limit(max(self._room, self._letters + letters) + self._held + tensor.nbytes)
        with self._whole_or_nothing():
            self._write(self._room + start, content)
        if holes:
            holes.pop()
        self._entries[name] = entry
        self._end = max(self._end, entry.stop)
        self._held += tensor.nbytes
        self._letters += letters

    def drop(self, names: Iterable[str]) -> None:
        """The room is used again by the next tensor of that size: features of one site are alike at every noise
        level."""
        self._check_open()
        for name in names:
            entry = self._entries.pop(name)
            self._holes.setdefault(entry.stop - entry.start, []).append(entry.start)
            self._held -= entry.stop - entry.start
            self._letters -= safetensors.letters_of(name, entry)

    def commit(self, manifest: dict) -> Saved:
        self._check_open()
        with self._whole_or_nothing():
            passes_of(manifest, self._entries)  # nobody could read a file with wrong or missing names
            manifest[ORDER] = self._place.next_order()
            for tried in range(_TRIES):
                name = self._name if self._replace else free(self._name, self._place.taken())
                manifest["name"] = name
                self._finish(json.dumps(manifest))
                self._partial.release()
                try:
                    path = self._place.publish(self._partial.path, name, self._replace)
                    break
                except FileExistsError:  # taken since we looked; or else in the way, which trying again does not change
                    if self._replace or tried == _TRIES - 1:
                        raise
        self._close(ValueError(f"reference {name!r} is saved already"))
        return Saved(name, self._room + self._end, 1, path)

    def abort(self) -> None:
        if not self._closed:
            self._close(ValueError(f"saving {self._name!r} was given up"))

    def _finish(self, manifest: str) -> None:
        """Writes the header and waits until everything is on the disk."""
        start = safetensors.encode(self._entries, manifest)
        self._check_limit(max(self._room, len(start)) + self._held)
        if self._holes:
            self._close_holes()
            start = safetensors.encode(self._entries, manifest)
        if len(start) > self._room:
            self._move_up(len(start) - self._room)
            self._room = len(start)
        self._write(0, memoryview(safetensors.padded(start[8:], self._room)))
        self._partial.file.truncate(self._room + self._end)  # a file of empty tensors ends in the room
        sync(self._partial.file)

    def _move_up(self, by: int) -> None:
        """Moves all tensors ``by`` bytes towards the end, block by block from there."""
        place = self._room + self._end
        while place > self._room:
            start = max(self._room, place - _BLOCK)
            block = bytearray(place - start)
            self._read(start, memoryview(block))
            self._write(start + by, memoryview(block))
            place = start

    def _close_holes(self) -> None:
        """Moves tensors down over what was dropped: the format knows no holes."""
        end = 0
        for name, entry in sorted(self._entries.items(), key=lambda item: (item[1].start, item[1].stop)):
            size = entry.stop - entry.start
            for done in range(0, size if entry.start > end else 0, _BLOCK):
                block = memoryview(bytearray(min(_BLOCK, size - done)))
                self._read(self._room + entry.start + done, block)
                self._write(self._room + end + done, block)
            self._entries[name] = entry._replace(start=end, stop=end + size)
            end += size
        self._end, self._holes = end, {}

    def _read(self, place: int, block: memoryview) -> None:
        self._partial.file.seek(place)
        while block:
            count = self._partial.file.readinto(block)
            if not count:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            block = block[count:]

    def _write(self, place: int, block: memoryview) -> None:
        self._partial.file.seek(place)
        while block:  # the system may take a part only: of very large blocks, and of the last one on a full disk
            block = block[self._partial.file.write(block):]

    def _check_limit(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise LimitReached(self._name, self._limit, size - self._limit)

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        try:
            yield
        except LimitReached:
            raise
        except OSError as error:
            problem = not_saved(self._name, self._place.where, error)
            self._close(problem)
            raise problem from error
        except BaseException:
            self.abort()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed

    def _close(self, why: Exception) -> None:
        """The end; ``why`` is what anybody who goes on adding is told."""
        self._closed = why
        self._discard()


def not_saved(name: str, where: str, error: OSError) -> StoreProblem:
    """The sentence for a save that the system refused."""
    return StoreProblem(f"Reference {name!r} could not be saved in {where}: {reason(error)}; nothing that was saved "
                        "before is lost.")


def reason(error: OSError) -> str:
    """Why the system refused, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full, free some space or choose another folder (--refdrop-dir)"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "the folder cannot be written to, change its permissions or choose another (--refdrop-dir)"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file stands where the folder should be, move it or choose another folder (--refdrop-dir)"
    return shortened(error.strerror or str(error) or type(error).__name__, 300)
