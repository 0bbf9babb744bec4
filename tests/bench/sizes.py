"""Bytes and files of a reference of each preset, and of the original's scheme, by writing them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lib_refdrop.model.sites import Lineage
from lib_refdrop.references.budget import MEGABYTE
from lib_refdrop.references.plan import PRESETS, preset
from lib_refdrop.references.sizes import Picture, estimate, tokens
from lib_refdrop.stores import DiskStore
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.sampling_pass import SamplingPass

from . import original
from .models import Model, Scene
from .speed import attached
from .standin import hollow

WRITTEN, ESTIMATED = "written", "estimated"
_SPARE = 512 * MEGABYTE  # of the disk stays free


def measure(model: Model, folder: Path, most: int | None = None,
            tell: Callable[[str], None] = lambda text: None) -> dict:
    """"bytes", "files" and "how" (written or estimated) of each preset and of "original".

    What takes more than ``most`` bytes (None: no limit) or than the disk has is estimated instead; what is written is
    removed at once. The UNet is a stand-in, whose layers have the true shapes and compute nothing.
    """
    unet, lineage, picture = hollow(model), model.lineage, model.picture()
    found = {"bytes": {}, "files": {}, "how": {}}
    for name in PRESETS:
        expected = estimate(preset(name, lineage), lineage, picture)
        if _fits(expected, folder, most):
            tell(f"writing {name}")
            result = *_write(unet, model, name, expected, folder), WRITTEN
        else:
            result = expected, 1, ESTIMATED
        _note(found, name.lower(), result)
    tell("the original's files")
    whole = most is None and _fits(_original_call(lineage, picture, model.dtype), folder, None)
    result = _write_original(lineage, model, folder) if whole else _estimate_original(lineage, model)
    _note(found, "original", (*result, WRITTEN if whole else ESTIMATED))
    return found


def estimates(model: Model) -> dict[str, int]:
    """What a Save says beforehand that each preset will take."""
    lineage = model.lineage
    return {name.lower(): estimate(preset(name, lineage), lineage, model.picture()) for name in PRESETS}


def _write(unet: torch.nn.Module, model: Model, name: str, expected: int, folder: Path) -> tuple[int, int]:
    """Saves a reference, as a generation does, and removes it. Its bytes and files, as they lay on the disk."""
    place, lineage = folder / "sizes", model.lineage
    recording = Recording(lineage, {}, preset(name, lineage), DiskStore(place).writer(name, expected=expected))
    try:
        recording.begin_pass("base")
        with attached(unet, SamplingPass([recording])):
            Scene.of(model, unet, "cpu", seed=1).draw(unet)
        recording.commit()
        files = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
        return sum(files), len(files)
    finally:
        recording.abort()
        shutil.rmtree(place, ignore_errors=True)


def _write_original(lineage: Lineage, model: Model, folder: Path) -> tuple[int, int]:
    """Writes all the files, each branch in a call of its own, and removes those of a call before the next."""
    place, total, count = folder / "original-sizes", 0, 0
    for call in range(model.steps * len(model.rows)):
        place.mkdir()
        try:
            for number, (site, shape) in enumerate(lineage.sites.items()):
                for part in "kv":
                    torch.save(_feature(shape.width, tokens(site, lineage, model.picture()), model.dtype),
                               original.file_of(place, call, number, part))
            sizes = [path.stat().st_size for path in place.iterdir()]
        finally:
            shutil.rmtree(place)
        total, count = total + sum(sizes), count + len(sizes)
    return total, count


def _estimate_original(lineage: Lineage, model: Model) -> tuple[int, int]:
    count = model.steps * len(model.rows) * len(lineage.sites) * 2
    overhead = original.overhead(torch.zeros(1, 1, 64, dtype=model.dtype))
    numbers = model.steps * len(model.rows) * _original_call(lineage, model.picture(), model.dtype)
    return numbers + count * overhead, count


def _original_call(lineage: Lineage, picture: Picture, dtype: torch.dtype) -> int:
    """Bytes of all K and V of one call of one branch."""
    return sum(2 * math.prod(tokens(site, lineage, picture)) * shape.width * dtype.itemsize
               for site, shape in lineage.sites.items())


def _feature(width: int, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return torch.zeros(1, math.prod(grid), width, dtype=dtype)


def _fits(needed: int, folder: Path, most: int | None) -> bool:
    return (most is None or needed <= most) and shutil.disk_usage(folder).free > needed + _SPARE


def _note(found: dict, name: str, result: tuple[int, int, str]) -> None:
    found["bytes"][name], found["files"][name], found["how"][name] = result
