"""The noise levels at which a web UI's sampler is going to call the model, asked before it does."""

from __future__ import annotations

import inspect
import logging
import sys
from typing import Any

from torch import Tensor

from ..model.schedule import SigmaClock
from ..words import first_line

logger = logging.getLogger("RefDrop")

_OWN_LEVELS = ("unipc",)  # samplers that are given timesteps and make others of them


def noise_levels(p: Any, alphas_cumprod: Tensor | None) -> list[float] | None:
    """The levels of the pass that ``p.sampler`` is about to make, the noisiest first; None where nobody knows them in
    advance (samplers that choose their steps as they go), or the host does not tell.

    Of img2img and hires. fix only the share of the schedule that they go through.
    """
    sampler, parameters = getattr(p, "sampler", None), getattr(p, "extra_generation_params", None)
    written = dict(parameters) if parameters is not None else {}
    try:
        return _levels(p, sampler, alphas_cumprod)
    except Exception as error:  # it is the host's code that runs; without an answer every level is looked at
        logger.warning("The noise levels of this sampler are not known in advance (%s: %s).", type(error).__name__,
                       first_line(error))
        return None
    finally:
        if parameters is not None:  # to ask writes into a picture's parameters, which is for the sampling itself to do
            parameters.clear()
            parameters.update(written)


def _levels(p: Any, sampler: Any, alphas_cumprod: Tensor | None) -> list[float] | None:
    function = getattr(sampler, "func", None)
    if not callable(function):
        return None
    takes = inspect.signature(function).parameters
    steps, kept = _steps(p)
    if hasattr(sampler, "get_sigmas") and ("sigmas" in takes or "sigma_sched" in takes):
        sigmas = sampler.get_sigmas(p, steps)
        return [float(sigma) for sigma in (sigmas if kept is None else sigmas[steps - kept - 1:]) if sigma > 0]
    if hasattr(sampler, "get_timesteps") and "timesteps" in takes and alphas_cumprod is not None \
            and getattr(function, "__name__", "") not in _OWN_LEVELS:
        clock, timesteps = SigmaClock(alphas_cumprod), sampler.get_timesteps(p, steps)  # the cleanest first
        return [clock(float(timestep)) for timestep in reversed(timesteps[1:kept])]  # at the first it has arrived
    return None


def _steps(p: Any) -> tuple[int, int | None]:
    """How many steps the whole schedule has; and how many of them, its last ones, a pass that begins in a picture
    makes."""
    hires = bool(getattr(p, "is_hr_pass", False))
    if not hires and getattr(p, "init_latent", None) is None:
        return p.steps, None
    given = (getattr(p, "hr_second_pass_steps", 0) or p.steps) if hires else None
    return sys.modules["modules.sd_samplers_common"].setup_img2img_steps(p, given)
