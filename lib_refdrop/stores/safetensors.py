"""The header of a ``.safetensors`` file: where each tensor lies, and the metadata.

The format (https://github.com/huggingface/safetensors): 8 bytes, the header's length as a little-endian number; the
header, a JSON object padded with spaces, ``{"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets"}}``;
then the tensors' bytes, row-major and little-endian, without holes. Nothing here knows what a tensor means.

Of our own there are three texts in the metadata: the manifest, a checksum of all that the header says, and one of each
tensor's bytes (CRC-32; format 1 has none).
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from typing import BinaryIO, NamedTuple

import torch

MANIFEST, CHECK, SUMS = "refdrop", "refdrop.check", "refdrop.sums"
ALIGNMENT = 8
LONGEST = 16 * 2**20  # bytes of header, some 100,000 tensors; reading a longer one could take gigabytes
SUM_LETTERS = 16 / 3  # that a tensor's checksum takes in the header
_MOST_NUMBERS = 2**40
_FIRST = b'{"__metadata__":'  # as every writer known begins, and ours
_FIRST_READ = 2**16

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    **{name: getattr(torch, dtype) for name, dtype in {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}.items()
       if hasattr(torch, dtype)},
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Entry(NamedTuple):
    """A tensor's type, by its name in a file, and shape, and where it lies: ``start`` and ``stop`` count bytes from the
    end of the header. ``crc`` is its bytes' CRC-32, None where a file has none."""

    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int
    crc: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Raises KeyError where this PyTorch lacks it."""
        return DTYPES[self.kind]


class Header(NamedTuple):
    """What stands before the tensors: ``start`` is where those begin, ``digest`` the SHA-256 of it all."""

    metadata: dict[str, str]
    tensors: dict[str, dict]
    start: int
    digest: str


def encode(entries: Mapping[str, Entry], manifest: str) -> bytes:
    """The beginning of the file, up to the first tensor; every entry has its ``crc``. Raises ValueError where it would
    be too long."""
    sums = base64.b64encode(struct.pack(f">{len(entries)}I", *(entries[name].crc for name in sorted(entries)))).decode()
    metadata = {"format": "pt", MANIFEST: manifest, CHECK: checksum(entries, manifest, sums), SUMS: sums}
    tensors = {name: {"dtype": entry.kind, "shape": entry.shape, "data_offsets": [entry.start, entry.stop]}
               for name, entry in entries.items()}
    text = json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":")).encode()
    if len(text) > LONGEST - ALIGNMENT:
        raise ValueError(f"{len(entries)} tensors are too many for one file")
    return padded(text, math.ceil(len(text) / ALIGNMENT) * ALIGNMENT + 8)


def room(expected: int) -> int:
    """The bytes left for the header of a file of about ``expected`` bytes while its tensors come: about a hundredth,
    which is more than it takes."""
    return min(max(expected // 100, 2**13), 2**20) // ALIGNMENT * ALIGNMENT


def padded(text: bytes, room: int) -> bytes:
    """The header ``text`` with its length in front, stretched to ``room`` bytes."""
    return (room - 8).to_bytes(8, "little") + text.ljust(room - 8)


def letters_of(name: str, entry: Entry) -> int:
    """At most so many bytes an entry takes in the header."""
    return math.ceil(len(json.dumps({name: [entry.kind, entry.shape]})) + 2 * len(str(entry.stop)) + SUM_LETTERS) + 50


def read(file: BinaryIO, size: int) -> Header:
    """The header of a file of ``size`` bytes.

    Nothing is allocated on the header's word alone: its length is held against the file's. Raises ValueError, OSError.
    """
    length = _length(file, size)
    text = _read(file, length)
    header = json.loads(text.decode()) if text.startswith(b"{") else None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no texts")
    return Header(metadata, header, 8 + length, hashlib.sha256(text.strip()).hexdigest())


def read_metadata(file: BinaryIO, size: int) -> dict[str, str]:
    """The metadata alone, as a rule without reading what the header says of tensors. Raises as :func:`read` does."""
    length = _length(file, size)
    text = _read(file, min(length, _FIRST_READ))
    if text.startswith(_FIRST):
        try:
            return json.JSONDecoder().raw_decode(text.decode(errors="replace"), len(_FIRST))[0]
        except ValueError:  # longer than what was read
            pass
    file.seek(0)
    return read(file, size).metadata


def entries_of(header: Header, nbytes: int) -> dict[str, Entry]:
    """The tensors that fill exactly ``nbytes``. Raises ValueError where a description makes no sense."""
    sums = _sums(header)
    found = {name: _entry(name, raw, None if sums is None else sums[name]) for name, raw in header.tensors.items()}
    end = 0
    for name, entry in sorted(found.items(), key=lambda pair: pair[1][2:4]):
        if entry.start != end:
            raise ValueError(f"{name} does not begin where the tensor before it ends")
        end = entry.stop
    if end != nbytes:
        raise ValueError(f"its tensors need {end} bytes, it has {nbytes}")
    return found


def checksum(entries: Mapping[str, Entry], manifest: str, sums: str | None = None) -> str:
    """SHA-256 of what a header says: one changed digit can leave a header that is valid and says something else.

    The places of the tensors are left out, so a file that the public library wrote again is still the same.
    """
    digest = hashlib.sha256(manifest.encode())
    for name in sorted(entries):
        digest.update(f"\n{name} {entries[name].kind} {list(entries[name].shape)}".encode())
    if sums is not None:
        digest.update(f"\n{sums}".encode())
    return digest.hexdigest()


def _length(file: BinaryIO, size: int) -> int:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError("the file ends in its header")
    if length > LONGEST:
        raise ValueError(f"its header has {length} bytes")
    return length


def _read(file: BinaryIO, length: int) -> bytes:
    text = b""
    while len(text) < length and (more := file.read(length - len(text))):
        text += more
    return text


def _sums(header: Header) -> dict[str, int] | None:
    """The tensors' checksums by name; None where the file has none."""
    if SUMS not in header.metadata:
        return None
    packed = base64.b64decode(header.metadata[SUMS], validate=True)
    if len(packed) != 4 * len(header.tensors):
        raise ValueError("it has more or fewer checksums than tensors")
    return dict(zip(sorted(header.tensors), struct.unpack(f">{len(header.tensors)}I", packed)))


def _entry(name: str, raw: dict, crc: int | None) -> Entry:
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has an impossible shape or place")
    if dtype not in _SIZES:
        raise ValueError(f"{name} has numbers of an unknown type, {dtype}")
    if math.prod(max(1, side) for side in shape) > _MOST_NUMBERS:
        raise ValueError(f"{name} has an impossible shape")
    if offsets[1] - offsets[0] != math.prod(shape) * _SIZES[dtype]:
        raise ValueError(f"{name} has another size than its shape")
    return Entry(dtype, tuple(shape), offsets[0], offsets[1], crc)


def _are_counts(numbers: Iterable) -> bool:
    return isinstance(numbers, list) and len(numbers) <= 64 and all(type(n) is int and n >= 0 for n in numbers)


# Known even where this torch lacks the type itself, so that the sentence can say so.
_SIZES = {"F8_E4M3": 1, "F8_E5M2": 1,
          **{name: torch.empty((), dtype=dtype).element_size() for name, dtype in DTYPES.items()}}
