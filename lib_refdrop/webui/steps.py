"""How many model calls a pass will have: as web UIs count the steps of their samplers."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

# By what their names begin with; the longer one counts where two do.
_ONCE = ("euler", "lms", "dpm++ 2m", "dpm++ 3m", "dpm fast", "lcm", "ddim", "tcd", "ddpm", "deis", "ipndm")
# Again at the level that a step leads to, unless that is the picture; the ancestral ones at their usual eta.
_TWICE = ("heun", "restart", "dpm2 a", "dpm++ 2s")
_BETWEEN = ("dpm2", "dpm++ sde")  # at a level half-way as well, unless the step leads to the picture
_ONE_MORE = ("plms", "unipc")
_UNKNOWN = ("heunpp",)
_ADAPTIVE = ("dpm adaptive",)
_OWN_WAY = ("restart", "dpm adaptive", "dpm fast")  # with levels that are none of the schedule's
_MOST_ADAPTIVE = 150  # model calls; thirty steps of a hundred are common
_MOST_A_STEP = 3
# Samplers that have the model's own timesteps for a schedule, and begin in a picture with as many steps as the strength
# says, not one more.
_BY_TIMESTEP = ("ddim", "plms", "unipc")
_TIMESTEPS = 1000


class Calls(NamedTuple):
    """The noise levels of a pass; whether the model is called twice at all but the first; and whether that is sure:
    where not, there are at most so many."""

    levels: int
    twice: bool = False
    sure: bool = True


def calls_of(sampler: str, steps: int) -> Calls:
    """Of so many steps (see :func:`steps_from_noise`) of a sampler, by the name that it has in web UIs."""
    name = sampler.strip().lower()
    known = {each: family for family in (_ONCE, _TWICE, _BETWEEN, _ONE_MORE, _UNKNOWN, _ADAPTIVE) for each in family}
    family = known.get(max((each for each in known if name.startswith(each)), key=len, default=""))
    if steps <= 0:
        return Calls(0)
    if family is _ONCE:
        return Calls(steps)
    if family is _TWICE:
        return Calls(steps, twice=True)
    if family is _BETWEEN:
        return Calls(2 * steps - 1)
    if family is _ONE_MORE:
        return Calls(steps + 1)
    return Calls(_MOST_ADAPTIVE if family is _ADAPTIVE else _MOST_A_STEP * steps, sure=False)


def keeps_to_schedule(sampler: str) -> bool:
    """Whether the model is called at the levels that a host tells in advance."""
    return not sampler.strip().lower().startswith(_OWN_WAY)


def steps_from_noise(sampler: str, scheduler: str, steps: int) -> int:
    """How many steps a pass has that begins in noise: schedules of every so-manieth timestep may have some more than
    asked for."""
    every = sampler.strip().lower().startswith(_BY_TIMESTEP) or scheduler.strip().lower() == "ddim"
    return math.ceil(_TIMESTEPS / max(1, _TIMESTEPS // steps)) if every and steps > 0 else steps


def steps_from_picture(sampler: str, steps: int, strength: float, exact: bool) -> int:
    """How many steps a pass has that begins in a picture: ``steps`` of them where ``exact``, otherwise as large a part
    as ``strength`` says, and one more with most samplers."""
    begun = (steps - 1 if strength > 0 else -1) if exact else int(min(strength, 0.999) * steps)
    return max(0, begun if sampler.strip().lower().startswith(_BY_TIMESTEP) else begun + 1)


def is_from_picture(p: Any) -> bool:
    """Whether a processing object is img2img's."""
    return hasattr(p, "init_images")


def hires_size(p: Any) -> tuple[int, int]:
    """Height and width of the second pass, in pixels."""
    wide, high = int(getattr(p, "hr_resize_x", 0) or 0), int(getattr(p, "hr_resize_y", 0) or 0)
    if not wide and not high:
        scale = float(getattr(p, "hr_scale", 2.0) or 2.0)
        return int(p.height * scale), int(p.width * scale)
    return high or wide * p.height // p.width, wide or high * p.width // p.height


def parts_of(prompt: Any) -> int:
    """Of how many parts joined by ``AND`` a prompt is."""
    return len(re.findall(r"\bAND\b", str(prompt))) + 1


def chunks_of(*prompts: Any) -> int:
    """How often the length that a text encoder takes at once fits into the longest of some prompts, as nearly as can be
    told without it."""
    most = max(len(re.findall(r"[^\W_]{1,9}|[^\w\s]", str(prompt))) for prompt in prompts)
    return max(1, math.ceil(most / 75))
