"""How large a reference gets, before anything is made: by the writer's own arithmetic, on names and shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..model.rows import BRANCHES, COND, Kind
from ..model.schedule import part
from ..model.sites import Lineage, Site
from ..stores import safetensors
from ..stores.safetensors import Entry
from .codec import Representation, described
from .manifest import compose
from .part import Part
from .plan import Plan
from .reference import STATISTICS, Key, RecordedCall, given_name, part_name, trajectory_name

_LATENT_CHANNELS, _PROMPT_TOKENS = 4, 77
FLOATS = {2: torch.float16, 4: torch.float32}
# What a manifest says of a generation is not known yet where it is left out: some prompts of usual length.
_USUAL = {"prompt": "a" * 400, "negative_prompt": "a" * 200, "seed": 2**31, "sampler": "DPM++ 2M",
          "scheduler": "Automatic",
          "steps": 20, "cfg_scale": 7.0, "width": 1024, "height": 1024, "model": "a" * 20, "model_hash": "a" * 10}


@dataclass(frozen=True)
class Picture:
    """What is about to be recorded in one pass: the latent's cells, its noise levels, how many branches, the bytes of
    one of the model's numbers, and of how many chunks of 77 tokens the prompts are.

    ``twice``: the sampler calls the model twice at each level but the noisiest. ``parts`` of an ``AND`` prompt are rows
    of their own.
    Of a ``part`` of the picture only that is kept.
    """

    height: int
    width: int
    steps: int
    branches: int = 2
    element_size: int = 2
    chunks: int = 1
    pass_name: str = "base"
    twice: bool = False
    parts: int = 1
    part: Part | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of rows of every model call."""
        return (*(Kind(COND, number) for number in range(self.parts)), *map(Kind, BRANCHES[1:self.branches]))

    def calls(self, levels: int) -> int:
        """How many model calls the noisiest ``levels`` take."""
        return max(0, 2 * levels - 1) if self.twice else levels


def tokens(site: Site, lineage: Lineage, picture: Picture) -> tuple[int, int]:
    """Rows and columns of a site's tokens: the latent's, halved as often as its level says, rounding up each time."""
    return grid_at(lineage.sites[site].level, picture)


def grid_at(level: int, picture: Picture) -> tuple[int, int]:
    """Rows and columns of the latent so many halvings down."""
    return -(-picture.height // 2**level), -(-picture.width // 2**level)  # rounding up each time, level times over


def features_kept(plan: Plan, picture: Picture) -> int:
    """Of how many calls a plan keeps features, all kinds of rows together."""
    levels = part(picture.steps, plan.percent)
    kinds = [kind for kind in picture.kinds if kind.branch in plan.branches]
    return len(kinds) * (picture.calls(levels) if plan.levels is None else min(levels, plan.levels))


def estimate(plan: Plan, lineage: Lineage, *pictures: Picture, provenance: Mapping[str, Any] | None = None) -> int:
    """The bytes of the file that a plan's recording of these passes will be: numbers, header and manifest.

    ``provenance`` is what its manifest will say of the generation; some text of usual length otherwise.
    """
    entries: dict[str, Entry] = {}
    end = 0
    for picture in pictures:
        for name, dtype, shape in tensors(plan, lineage, picture):
            start, end = end, end + math.prod(shape) * dtype.itemsize
            entries[name] = Entry(safetensors.NAMES[dtype], shape, start, end, 0)
    text = manifest_text(plan, lineage, pictures, provenance, end)
    try:
        header = len(safetensors.encode(entries, text))
    except ValueError:  # more tensors than a file can have, which the writer will say
        header = safetensors.LONGEST
    return end + max(header, safetensors.room(end + header))


def tensors(plan: Plan, lineage: Lineage,
             picture: Picture) -> Iterator[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Name, type and shape of everything that is kept of a pass."""
    own = FLOATS[picture.element_size]
    sites = [(site, described(how, tokens(site, lineage, picture), lineage.sites[site].width, own, picture.part))
             for site, how in plan.sites.items()]
    kinds = [kind for kind in picture.kinds if kind.branch in plan.branches]
    blocks, widths = plan.blocks, lineage.blocks
    for number in range(features_kept(plan, picture)):
        call, which = divmod(number, len(kinds))
        for block, dtype in blocks.items():
            yield Key(picture.pass_name, call, block, kinds[which]).tensor_name(STATISTICS), dtype, (2, widths[block])
        for site, parts in sites:
            for name, (dtype, shape) in parts.items():
                yield Key(picture.pass_name, call, site, kinds[which]).tensor_name(name), dtype, shape
    if picture.part:
        yield part_name(picture.pass_name), torch.uint8, picture.part.size
    if plan.trajectory:
        for call in range(picture.calls(part(picture.steps, plan.percent))):
            for kind in picture.kinds:
                yield (trajectory_name(picture.pass_name, call, "x", kind), own,
                       (_LATENT_CHANNELS, picture.height, picture.width))
                yield trajectory_name(picture.pass_name, call, "t", kind), torch.int64, ()
        for number in range(len(picture.kinds)):
            for name, shape in given_shapes(lineage, picture).items():
                yield given_name(picture.pass_name, number, name), own, shape


def given_shapes(lineage: Lineage, picture: Picture) -> dict[str, tuple[int, ...]]:
    """The conditioning of one kind of row."""
    widths = {"SD1.5": 768, "SD2": 1024, "SDXL": 2048}
    family = lineage.family.split(",")[0]
    context = widths.get(family, max((shape.width for shape in lineage.sites.values()), default=0))
    return {"context": (_PROMPT_TOKENS * picture.chunks, context), **({"y": (2816,)} if family == "SDXL" else {})}


def manifest_text(plan: Plan, lineage: Lineage, pictures: tuple[Picture, ...],
                  provenance: Mapping[str, Any] | None = None, nbytes: int = 10**9) -> str:
    """A manifest as long as that of a plan's recording of these passes will be."""
    calls: dict[str, list[RecordedCall]] = {}
    given: dict[str, dict[Kind, list[int]]] = {}
    kept_as: dict[str, dict[Site, Representation]] = {}
    for picture in pictures:
        count, name = picture.calls(picture.steps), picture.pass_name
        calls[name] = [RecordedCall(1.23456 + index, 0) for index in range(count)]
        given[name] = {kind: [0] * count for kind in picture.kinds} if plan.trajectory else {}
        kept_as[name] = dict(plan.sites)
    return json.dumps(compose(lineage, _USUAL if provenance is None else provenance, plan, kept_as, nbytes, calls,
                              given, "a" * 30, {each.pass_name: (each.height, each.width) for each in pictures},
                              {each.pass_name: each.part.share for each in pictures if each.part}))
