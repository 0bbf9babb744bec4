"""What a Save is going to keep, and how large that will be, from the processing object and the settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..model.sites import Lineage
from ..references.plan import MEGABYTE, Picture, Plan, estimate, preset, within
from ..settings import Settings

_PIXELS = 8  # of a latent's cell, both ways, in every model that RefDrop works with
# Samplers that call the model twice a step, but for the last; by what their names begin with.
_TWICE = ("heun", "dpm2", "dpm++ 2s", "dpm++ sde", "restart")


def plan_for(p: Any, settings: Settings, lineage: Lineage, element_size: int) -> tuple[Plan, int]:
    """The plan, and the bytes of the file that will be made of it."""
    pictures = [_picture(p, element_size, 1.0)]
    if settings.enabled_hr and getattr(p, "enable_hr", False):
        pictures.append(_picture(p, element_size, _hires_scale(p)))
    if settings.budget:
        share = int(settings.budget * MEGABYTE / len(pictures))
        plan = within(share, lineage, max(pictures, key=lambda each: each.height * each.width), sections=settings.sections,
                      percent=settings.save_percent)
    else:
        chosen = {site: each for site, each in preset(settings.keep, lineage).sites.items()
                  if site.section in settings.sections}
        plan = replace(preset(settings.keep, lineage), sites=chosen, percent=settings.save_percent)
    return plan, sum(estimate(plan, lineage, picture) for picture in pictures)


def _picture(p: Any, element_size: int, scale: float) -> Picture:
    twice = str(getattr(p, "sampler_name", "")).lower().startswith(_TWICE)
    calls = 2 * p.steps - 1 if twice else p.steps
    branches = 2 if p.cfg_scale > 1 else 1
    return Picture(round(p.height * scale) // _PIXELS, round(p.width * scale) // _PIXELS, calls, branches, element_size)


def _hires_scale(p: Any) -> float:
    wide = getattr(p, "hr_upscale_to_x", 0) or getattr(p, "hr_resize_x", 0)
    return wide / p.width if wide else float(getattr(p, "hr_scale", 2.0) or 2.0)
