"""Writes a reference's file as its tensors come, so that a reference of any size needs the memory of one tensor."""

from __future__ import annotations

import errno
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..words import StoreProblem
from . import header
from .file_format import assembled
from .interface import Saved, free_name
from .partial import PartialFile, clean

_HEADROOM = 16 * 2**20  # left free on the disk, for the header and for the system
_BLOCK = 8 * 2**20
_TRIES = 50


class FileWriter:
    """A :class:`~.interface.Writer` over a partial file in ``folder``.

    The header comes first in the file and is known last. Room is left for it, about a hundredth of what is expected,
    which is more than it takes; where it is not, the tensors are moved up once.
    """

    def __init__(self, folder: Path, name: str, replace: bool, expected: int, taken: Callable[[str], bool],
                 publish: Callable[[Path, str, bool], Path | str],
                 problem: Callable[[str, OSError], StoreProblem]) -> None:
        """``taken`` tells whether a name is in use. ``publish(path, name, replace)`` gives the finished file its name
        and says where it is, or raises FileExistsError where ``name`` was taken meanwhile. ``problem`` makes the
        sentence. Raises :class:`StoreProblem` where there is no room, or no folder.
        """
        self._name, self._replace = name, replace
        self._taken, self._publish, self._problem = taken, publish, problem
        self._entries: dict[str, header.Entry] = {}
        self._room = min(max(expected // 100, 2**13), 2**20) // header.ALIGNMENT * header.ALIGNMENT
        self._end = 0
        self._holes: dict[int, list[int]] = {}  # by size, where tensors stood that were dropped
        self._closed: Exception | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            clean(folder)
            if shutil.disk_usage(folder).free < expected + _HEADROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._partial = PartialFile(folder)
        except OSError as error:
            raise problem(name, error) from error
        self._discard = weakref.finalize(self, self._partial.discard)

    def add(self, name: str, tensor: Tensor) -> None:
        self._check_open()
        if name in self._entries or name == "__metadata__":
            raise ValueError(f"a tensor named {name} is there already")
        if tensor.dtype not in header.NAMES:
            raise ValueError(f"a file cannot hold numbers of type {tensor.dtype}")
        name.encode()  # half a character cannot be written: UnicodeEncodeError is a ValueError
        tensor = tensor.detach().to("cpu").contiguous()
        with self._whole_or_nothing():
            holes = self._holes.get(tensor.nbytes)
            start = holes.pop() if holes else self._end
            self._write(self._room + start, memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
            end = start + tensor.nbytes
            self._entries[name] = header.Entry(header.NAMES[tensor.dtype], tuple(tensor.shape), start, end)
            self._end = max(self._end, end)

    def drop(self, names: Iterable[str]) -> None:
        """The room is used again by the next tensor of that size: features of one site are alike at every noise level."""
        self._check_open()
        for name in names:
            entry = self._entries.pop(name)
            self._holes.setdefault(entry.stop - entry.start, []).append(entry.start)

    def commit(self, manifest: dict) -> Saved:
        self._check_open()
        with self._whole_or_nothing():
            assembled(manifest, self._entries)  # nobody could read a file with wrong or missing names
            for tried in range(_TRIES):
                name = self._name if self._replace else free_name(self._name, self._taken)
                manifest["name"] = name
                self._finish(json.dumps(manifest))
                self._partial.release()
                try:
                    place = self._publish(self._partial.path, name, self._replace)
                    break
                except FileExistsError:  # taken since we looked; or else in the way, which trying again does not change
                    if self._replace or tried == _TRIES - 1:
                        raise
        self._close(ValueError(f"reference {name!r} is saved already"))
        return Saved(name, self._room + self._end, 1, place)

    def abort(self) -> None:
        if not self._closed:
            self._close(ValueError(f"saving {self._name!r} was given up"))

    def _finish(self, manifest: str) -> None:
        """Writes the header and waits until everything is on the disk."""
        self._close_holes()
        start = header.encode(self._entries, manifest)
        if len(start) > self._room:
            self._move_up(len(start) - self._room)
            self._room = len(start)
        self._write(0, memoryview(header.padded(start[8:], self._room)))
        self._partial.file.truncate(self._room + self._end)  # a file of empty tensors ends in the room
        os.fsync(self._partial.file.fileno())

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

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            problem = self._problem(self._name, error)
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
