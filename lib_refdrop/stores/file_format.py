"""A reference as one ``.safetensors`` file, read: the manifest at once, tensors one by one when asked for."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import torch
from torch import Tensor

from ..words import ReferenceProblem
from ..references.reference import FORMAT_VERSION, GIVEN, PassRecord, RecordedCall, Reference, check_names, passes_from
from . import header


def read_reference(path: Path, name: str) -> Reference:
    """The reference in a file, which stays open as long as the reference lives: replacing the file leaves it as it is.

    Raises :class:`ReferenceProblem` with one sentence for a file that is no reference, damaged, or too new, and OSError
    for one that cannot be opened.
    """
    file = open(path, "rb", buffering=0)
    try:
        manifest, entries, start, size = _checked(file, path, name)
        passes = assembled(manifest, entries)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, OSError) as error:
        file.close()
        raise _damaged(name, f"its header or manifest is unreadable: {_line(error)}") from error
    except BaseException:
        file.close()
        raise
    manifest["name"] = name  # a file may have been renamed
    return Reference(name, manifest, passes, _LazyTensors(file, name, entries, start), size)


def assembled(manifest: dict, names: Mapping) -> dict[str, PassRecord]:
    """What a manifest and the names of tensors say about the recorded passes. Raises ValueError and its kin."""
    calls = {pass_name: [RecordedCall(float(sigma), int(visit)) for sigma, visit in listed]
             for pass_name, listed in manifest["passes"].items()}
    if not isinstance(manifest["lineage"], str):
        raise ValueError("it has no lineage")
    check_names(names, calls, manifest[GIVEN] if int(manifest["format"]) > 1 else None)
    return passes_from(calls, names, float(manifest.get("kept", {}).get("save_percent", 100)))


def _checked(file: BinaryIO, path: Path, name: str) -> tuple[dict, dict[str, header.Entry], int, int]:
    size = os.fstat(file.fileno()).st_size
    metadata, tensors, start = header.read(file, size)
    if header.MANIFEST not in metadata:
        raise ReferenceProblem(f"{path.name} is a safetensors file but not a RefDrop reference; choose another.")
    manifest = json.loads(metadata[header.MANIFEST])
    version = int(manifest["format"])
    if version > FORMAT_VERSION:
        raise ReferenceProblem(f"Reference {name!r} was saved by a newer RefDrop (format {version}); update to use it.")
    entries = header.entries_of(tensors, size - start)
    if metadata.get(header.CHECK) != header.checksum(entries, metadata[header.MANIFEST]):
        raise ValueError("its checksum is wrong")
    lacking = {entry.dtype for entry in entries.values()} - set(header.DTYPES)
    if lacking:
        raise ReferenceProblem(f"Reference {name!r} holds numbers of type {min(lacking)}, which this PyTorch does not "
                               "know; update PyTorch, or save the reference in another precision.")
    return manifest, entries, start, size


class _LazyTensors(Mapping[str, Tensor]):
    """The tensors of an open file, each read into memory of its own when asked for.

    Not mapped into memory: mapped pages count as this process's, and a file cut short would end the process.
    """

    def __init__(self, file: BinaryIO, name: str, entries: dict[str, header.Entry], start: int) -> None:
        self._file, self._name, self._entries, self._start = file, name, entries, start
        self._lock = Lock()
        self.close = weakref.finalize(self, file.close)

    def __getitem__(self, key: str) -> Tensor:
        entry = self._entries[key]
        try:
            tensor = torch.empty(entry.stop - entry.start, dtype=torch.uint8)
            block = memoryview(tensor.numpy())
            with self._lock:
                self._file.seek(self._start + entry.start)
                while block:
                    count = self._file.readinto(block)
                    if not count:
                        raise ValueError("it was cut short")
                    block = block[count:]
        except (OSError, ValueError, RuntimeError) as error:
            raise _damaged(self._name, _line(error)) from error
        return tensor.view(header.DTYPES[entry.dtype]).view(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries  # Mapping's own would read the tensor


def _damaged(name: str, reason: str) -> ReferenceProblem:
    return ReferenceProblem(f"Reference {name!r} is damaged or not a reference ({reason}); delete the file and save "
                            "the reference again.")


def _line(error: Exception) -> str:
    """An error in one short line."""
    text = " ".join((str(error) or type(error).__name__).split())
    return text if len(text) <= 200 else text[:200] + "…"
