"""A reference's file, read: the manifest at once, tensors one by one when asked for."""

from __future__ import annotations

import hashlib
import json
import os
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO, cast

import torch
from torch import Tensor

from ..references.contents import passes_of, version_of
from ..references.reference import FORMAT_VERSION, GIVEN, Reference, is_trajectory
from ..words import ReferenceProblem, first_line, no_memory, shortened
from . import safetensors
from .safetensors import CHECK, DTYPES, MANIFEST, SUMS, Entry, Header

ORDER = "order"  # in a manifest: a number that is larger than that of every reference saved earlier in that folder
_LARGEST_ORDER = 2**62
_ERRORS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, OSError)


def read_reference(path: Path, name: str) -> Reference:
    """The reference in a file, which stays open as long as the reference lives: replacing the file leaves it as it is.

    Raises :class:`ReferenceProblem` with one sentence for a file that is no reference, damaged, or too new, and OSError
    for one that cannot be opened.
    """
    file = open(path, "rb", buffering=0)
    try:
        size = os.fstat(file.fileno()).st_size
        header = safetensors.read(file, size)
        manifest, entries = _checked(header, size, path, name)
        passes = passes_of(manifest, entries)
    except _ERRORS as error:
        file.close()
        raise _damaged(name, f"its header or manifest is unreadable: {first_line(error)}") from error
    except BaseException:
        file.close()
        raise
    tensors = FileTensors(file, name, entries, header.start)
    content = header.digest if SUMS in header.metadata else _content(header, tensors)
    return Reference(name, _tidy(manifest, name), passes, tensors, size, content)


def order_of(path: Path) -> int | None:
    """:func:`order_in` a file. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return order_in(file, os.fstat(file.fileno()).st_size)


def order_in(file: BinaryIO | FileIO, size: int) -> int | None:
    """What a reference is ordered by, without reading its tensors' descriptions: its number, or when it was made, in
    nanoseconds; None for a file that tells neither. Raises OSError."""
    try:
        metadata = safetensors.read_metadata(cast(BinaryIO, file), size)
        manifest = json.loads(metadata[MANIFEST])
        number = manifest.get(ORDER)
        if type(number) is not int or not 0 < number < _LARGEST_ORDER:
            made = datetime.fromisoformat(manifest["created"])
            number = int((made if made.tzinfo else made.replace(tzinfo=timezone.utc)).timestamp() * 1e9)
        return number
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def next_order(known: Iterable[int | None]) -> int:
    """A number above those that a folder has, whatever the clock says; at the very end of the numbers their last, where
    the times of files decide."""
    return min(_LARGEST_ORDER - 1, max([time.time_ns(), *(1 + order for order in known if order)]))


class FileTensors(Mapping[str, Tensor]):
    """The tensors of an open file, each read into memory of its own when asked for, and held against its checksum.

    Not mapped into memory: mapped pages count as this process's, and a file cut short would end the process.
    """

    def __init__(self, file: FileIO, name: str, entries: dict[str, Entry], start: int) -> None:
        self._file, self._name, self._entries, self._start = file, name, entries, start
        self._lock = Lock()
        self._opened = _state(file)
        self.close = weakref.finalize(self, file.close)

    def changed(self) -> bool:
        """Whether somebody wrote into the file since it was opened: what was read of it may be of two references."""
        return not self._file.closed and _state(self._file) != self._opened

    def __getitem__(self, key: str) -> Tensor:
        entry = self._entries[key]
        try:
            tensor = torch.empty(entry.stop - entry.start, dtype=torch.uint8)
            whole = block = memoryview(tensor.numpy())
            with self._lock:
                self._file.seek(self._start + entry.start)
                while block:
                    count = self._file.readinto(block)
                    if not count:
                        raise ValueError("it was cut short")
                    block = block[count:]
            if entry.crc is not None and zlib.crc32(whole) != entry.crc:
                raise ValueError(f"the numbers of {key} are not those that were saved")
        except (OSError, ValueError, RuntimeError) as error:
            if no_memory(error):
                raise
            raise _damaged(self._name, first_line(error)) from error
        return tensor.view(entry.dtype).view(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries  # Mapping's own would read the tensor


def _checked(header: Header, size: int, path: Path, name: str) -> tuple[dict, dict[str, Entry]]:
    if MANIFEST not in header.metadata:
        raise ReferenceProblem(f"{shortened(path.name)} is a safetensors file but not a RefDrop reference; choose "
                               "another.")
    manifest = json.loads(header.metadata[MANIFEST])
    version = version_of(manifest)
    if version > FORMAT_VERSION:
        raise ReferenceProblem(f"Reference {name!r} was saved by a newer RefDrop (format "
                               f"{shortened(str(manifest['format']), 20)}); update to use it.")
    entries, sums = safetensors.entries_of(header, size - header.start), header.metadata.get(SUMS)
    if header.metadata.get(CHECK) != safetensors.checksum(entries, header.metadata[MANIFEST], sums):
        raise ValueError("its checksum is wrong")
    if sums is None and version > 1:
        raise ValueError("it has no checksums of its tensors")
    lacking = {entry.kind for entry in entries.values()} - set(DTYPES)
    if lacking:
        raise ReferenceProblem(f"Reference {name!r} holds numbers of type {min(lacking)}, which this PyTorch does not "
                               "know; update PyTorch, or save the reference in another precision.")
    return manifest, entries


def _content(header: Header, tensors: FileTensors) -> str:
    """What tells a file without checksums from others: the header, and the numbers that features are computed from."""
    digest = hashlib.sha256(header.digest.encode())
    for name in sorted(filter(is_trajectory, tensors)):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _tidy(manifest: dict, name: str) -> dict:
    """The manifest of a file that may have been renamed, or written by anybody: texts that can be shown and sent on."""
    found = {key: value.encode(errors="replace").decode() if isinstance(value, str) else value
             for key, value in manifest.items() if key != GIVEN or version_of(manifest) > 1}
    return {**found, "name": name, "family": shortened(found.get("family", "?"))}


def _state(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _damaged(name: str, reason: str) -> ReferenceProblem:
    return ReferenceProblem(f"Reference {name!r} is damaged or not a reference ({reason}); delete the file and save "
                            "the reference again.")
