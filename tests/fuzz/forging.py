"""A reference's file taken apart and put together again, with checksums that are right whatever it says.

Written after the format's description, without the code that reads it: what is forged here is what others could write.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
         "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass
class Raw:
    """A tensor as a file has it."""

    dtype: str
    shape: list
    data: bytes

    @classmethod
    def zeros(cls, dtype: str, *shape: int) -> Raw:
        return cls(dtype, list(shape), bytes(SIZES[dtype] * math.prod(shape)))

    @property
    def fits(self) -> bool:
        """Whether type and shape need as many bytes as there are."""
        return len(self.data) == SIZES[self.dtype] * math.prod(self.shape)


@dataclass
class Forged:
    """All that a file says. ``metadata`` is what stands beside the manifest."""

    manifest: Any
    tensors: dict[str, Raw]
    metadata: dict[str, str] = field(default_factory=dict)
    has_sums: bool = True

    @classmethod
    def of(cls, path: Path) -> Forged:
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        metadata = header.pop("__metadata__")
        tensors = {name: Raw(entry["dtype"], entry["shape"], content[start + entry["data_offsets"][0]:
                                                                     start + entry["data_offsets"][1]])
                   for name, entry in header.items()}
        return cls(json.loads(metadata["refdrop"]), tensors, {"format": "pt"}, "refdrop.sums" in metadata)

    @classmethod
    def of_format_1(cls, newer: Forged) -> Forged:
        """The same features as the first format has them: without checksums, and without a table of conditioning."""
        manifest = {key: value for key, value in newer.manifest.items() if key not in ("given", "order")}
        tensors = {name: raw for name, raw in newer.tensors.items() if name.count("/") == 4}
        return cls({**manifest, "format": 1}, tensors, dict(newer.metadata), False)

    def sums(self) -> str:
        """CRC-32 of every tensor's bytes, in the order of their names."""
        return base64.b64encode(struct.pack(f">{len(self.tensors)}I", *(
            zlib.crc32(self.tensors[name].data) for name in sorted(self.tensors)))).decode()

    def write(self, path: Path, sums: str | None = None) -> Path:
        """``sums`` stands in place of the right ones: those of a file whose numbers were changed afterwards."""
        manifest = self.manifest if isinstance(self.manifest, str) else json.dumps(self.manifest)
        digest = hashlib.sha256(manifest.encode(errors="replace"))
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"\n{name} {tensor.dtype} {tensor.shape}".encode(errors="replace"))
        metadata = {**self.metadata, "refdrop": manifest}
        if self.has_sums:
            metadata["refdrop.sums"] = self.sums() if sums is None else sums
            digest.update(f"\n{metadata['refdrop.sums']}".encode())
        metadata["refdrop.check"] = digest.hexdigest()
        header, end = {"__metadata__": metadata}, 0
        for name, tensor in self.tensors.items():
            header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end, end + len(tensor.data)]}
            end += len(tensor.data)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(each.data for each in self.tensors.values()))
        return path
