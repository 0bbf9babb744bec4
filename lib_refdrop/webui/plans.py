"""What a Save is going to keep, and how large that will be, from the processing object and the settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..hosts import Adapter
from ..hosts.a1111 import A1111Adapter
from ..model.sites import Lineage
from ..references.budget import MEGABYTE, within
from ..references.picture import CELL, size_for
from ..references.plan import Plan, preset
from ..references.sizes import Picture, estimate
from ..settings import Settings
from ..techniques.reference.masks import Mask
from ..words import SettingsError, said
from .steps import (
    Calls,
    calls_of,
    chunks_of,
    hires_size,
    is_from_picture,
    parts_of,
    steps_from_noise,
    steps_from_picture,
)


@dataclass(frozen=True)
class Forecast:
    """The plan of a Save and the bytes of the file that will be made of it: exactly, or at most so many where nobody
    knows how often the model will be called. ``limit`` is never exceeded (None: there is none)."""

    plan: Plan
    bytes: int
    sure: bool
    limit: int | None

    def __str__(self) -> str:
        return f"{'about' if self.sure else 'at most'} {said(self.bytes)}"

    @property
    def expected(self) -> int:
        """What there should be room for when it begins."""
        return self.bytes if self.sure else 0


def plan_for(p: Any, settings: Settings, adapter: Adapter, opts: Any,
             given: tuple[int, int] | None = None, mask: Mask | None = None) -> Forecast:
    """``opts`` are the host's options; ``given`` is the width and height of a picture that is saved in place of what is
    drawn, ``mask`` what of it is kept. Raises :class:`SettingsError` where the budget is too small for anything."""
    lineage = adapter.lineage(p)
    passes = [_base(p, adapter, opts)]
    if settings.enabled_hr and getattr(p, "enable_hr", False):
        passes.append(_hires(p, adapter))
    pictures = [_of_given(picture, given, lineage) if given else picture for picture, _ in passes]
    if mask:
        pictures = [replace(picture, part=mask.part((picture.height, picture.width))) for picture in pictures]
    sure = all(sure for _, sure in passes) and not _leaves_branches_out(p, opts)
    budget = int(settings.budget * MEGABYTE) or None
    if budget:
        plan = within(budget, lineage, *pictures, sections=settings.sections, percent=settings.save_percent)
    else:
        plan = preset(settings.keep, lineage).only(settings.sections, settings.save_percent)
    size = estimate(plan, lineage, *pictures)
    if budget and sure and size > budget:
        raise SettingsError(f"At most {said(budget)} is too little: of this generation the smallest reference takes "
                            f"{said(size)}; allow more, or 0 to do as What to keep says.")
    if budget:
        size = min(size, budget)
    return Forecast(plan, size, sure, budget or (None if sure else size))


def _base(p: Any, adapter: Adapter, opts: Any) -> tuple[Picture, bool]:
    steps, sampler = int(p.steps), str(p.sampler_name)
    if is_from_picture(p):
        strength = float(getattr(p, "denoising_strength", None) or 0.0)
        steps = steps_from_picture(sampler, steps, strength, bool(getattr(opts, "img2img_fix_steps", False)))
    else:
        steps = steps_from_noise(sampler, str(getattr(p, "scheduler", "")), steps)
    return _picture(p, adapter, "base", calls_of(sampler, steps), (p.height, p.width), p.cfg_scale,
                    getattr(p, "prompt", ""), getattr(p, "negative_prompt", ""))


def _hires(p: Any, adapter: Adapter) -> tuple[Picture, bool]:
    sampler = str(getattr(p, "hr_sampler_name", None) or p.sampler_name)
    if sampler.lower() == "use same sampler":
        sampler = str(p.sampler_name)
    wanted = int(getattr(p, "hr_second_pass_steps", 0) or p.steps)
    strength = getattr(p, "denoising_strength", None)
    steps = steps_from_picture(sampler, wanted, 1.0 if strength is None else float(strength), exact=True)
    return _picture(p, adapter, "hires", calls_of(sampler, steps), hires_size(p),
                    getattr(p, "hr_cfg", None) or p.cfg_scale,
                    getattr(p, "hr_prompt", "") or getattr(p, "prompt", ""),
                    getattr(p, "hr_negative_prompt", "") or getattr(p, "negative_prompt", ""))


def _picture(p: Any, adapter: Adapter, name: str, calls: Calls, size: Iterable[float], cfg_scale: float, prompt: Any,
             negative: Any) -> tuple[Picture, bool]:
    """The pass, and whether there will be as many calls."""
    height, width = (int(side) // CELL for side in size)
    both = cfg_scale > 1 or isinstance(adapter, A1111Adapter)
    picture = Picture(height, width, calls.levels, 2 if both else 1, adapter.element_size(p),
                      chunks_of(prompt, negative), name,
                      calls.twice, parts_of(prompt))
    return picture, calls.sure


def picture_size(given: tuple[int, int], size: tuple[int, int], lineage: Lineage) -> tuple[int, int]:
    """Width and height that a picture of a size is brought to, to be saved by a pass of ``size`` (width, height)."""
    return size_for(given, size[0] * size[1], CELL * 2 ** max(shape.level for shape in lineage.sites.values()))


def _of_given(picture: Picture, given: tuple[int, int], lineage: Lineage) -> Picture:
    width, height = picture_size(given, (picture.width * CELL, picture.height * CELL), lineage)
    return replace(picture, width=width // CELL, height=height // CELL, twice=False)


def _leaves_branches_out(p: Any, opts: Any) -> bool:
    """Whether some steps go without the unconditional branch: nobody knows how many before."""
    least = getattr(p, "s_min_uncond", None)
    asked = (getattr(opts, "s_min_uncond", 0) if least is None else least), getattr(opts, "skip_early_cond", 0)
    return any(float(value or 0) > 0 for value in asked)
