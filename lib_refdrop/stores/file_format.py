"""A reference as one ``.safetensors`` file: tensors named by :class:`Key`, the manifest as JSON in the metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ReferenceProblem
from ..reference import FORMAT_VERSION, Call, Key, Reference, keys_of, passes_from

MANIFEST = "refdrop"


def write_reference(path: Path, reference: Reference) -> None:
    """Writes the file and waits until it is on the disk. Raises OSError."""
    tensors = {name: reference.features[name] for name in reference.features}
    try:
        save_file(tensors, path, metadata={"format": "pt", MANIFEST: json.dumps(reference.manifest)})
    except SafetensorError as error:
        raise _as_os_error(error) from error
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def read_reference(path: Path, name: str) -> Reference:
    """Reads the manifest; tensors are read one by one when asked for.

    Raises :class:`ReferenceProblem` with one sentence for a file that is no reference, damaged, or too new.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(name, str(error)) from error
    if MANIFEST not in metadata:
        raise ReferenceProblem(f"{path.name} is a safetensors file but not a RefDrop reference; choose another.")
    try:
        manifest = json.loads(metadata[MANIFEST])
        version = int(manifest["format"])
        if version > FORMAT_VERSION:
            raise ReferenceProblem(f"Reference {name!r} was saved by a newer RefDrop (format {version}); update to use it.")
        calls = {pass_name: [Call(float(sigma), int(visit)) for sigma, visit in listed]
                 for pass_name, listed in manifest["passes"].items()}
        if {key.tensor_name(part) for key in keys_of(names) for part in ("k", "v")} != set(names):
            raise ValueError("a K is without its V")
        if any(key.call >= len(calls[key.pass_name]) for key in keys_of(names)) or not isinstance(manifest["lineage"], str):
            raise ValueError("features without a call")
        passes = passes_from(calls, names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(name, f"its manifest is unreadable: {error}") from error
    return Reference(name, manifest, passes, _LazyTensors(path, name, names), path.stat().st_size)


class _LazyTensors(Mapping[str, Tensor]):
    """The tensors of a file, each read when asked for. The file is opened once: its header is long."""

    def __init__(self, path: Path, name: str, names: list[str]) -> None:
        self._path, self._name, self._names = path, name, dict.fromkeys(names)
        self._file = None

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._names:
            raise KeyError(key)
        try:
            if self._file is None:
                self._file = safe_open(self._path, framework="pt")
            return self._file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise _damaged(self._name, str(error)) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _damaged(name: str, reason: str) -> ReferenceProblem:
    return ReferenceProblem(f"Reference {name!r} is damaged or not a reference ({reason}); delete the file and save the "
                            "reference again.")


def _as_os_error(error: SafetensorError) -> OSError:
    """safetensors wraps the system's errors into text; this brings the number back where it can be read."""
    text = str(error)
    start = text.find("os error ")
    digits = text[start + 9:].split(")")[0] if start >= 0 else ""
    return OSError(int(digits), os.strerror(int(digits))) if digits.isdigit() else OSError(text)
