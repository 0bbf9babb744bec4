"""DPM adaptive: a sampler that chooses its own noise levels (Lu et al. 2022, https://arxiv.org/abs/2206.00927)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .noise import Noise
from .samplers import AfterStep, Denoiser

_RELATIVE, _ABSOLUTE, _FIRST_STEP, _SAFETY, _ORDER = 0.05, 0.0078, 0.05, 0.81, 3
_CLOSE = 1e-5  # in log sigma, to the end


def dpm_adaptive(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep) -> Tensor:
    """DPM-Solver-23: every step of second and of third order; their difference decides how long the next one is.

    Only the ends of ``sigmas`` count, and it stops at the last above 0. The difference is the whole batch's, as in web
    UIs, so a picture depends a little on those it is made with.
    """
    here, end = -math.log(sigmas[0]), -math.log(sigmas[-1] or sigmas[-2])
    before, h, step = x, _FIRST_STEP, 0
    while here < end - _CLOSE:
        there = min(end, here + h)
        low, high = _steps(model, x, here, there)
        tolerance = torch.maximum(low.abs(), before.abs()).mul(_RELATIVE).clamp(min=_ABSOLUTE)
        error = float(torch.linalg.vector_norm((low - high) / tolerance)) / math.sqrt(x.numel())
        factor = 1 + math.atan((error + 1e-8) ** (-1 / _ORDER) - 1)
        if factor >= _SAFETY:
            before, x, here = low, high, there
            after_step(step)
            step += 1
        h *= factor
        if not math.isfinite(factor):  # a model that gives no numbers gives no step either
            return high
    return x


def _steps(model: Denoiser, x: Tensor, here: float, there: float) -> tuple[Tensor, Tensor]:
    """The ends of one step, of second and of third order; time is −log sigma."""
    h = there - here
    third, two_thirds = here + h / 3, here + 2 * h / 3
    slope = _epsilon(model, x, here)
    first = x - math.exp(-third) * math.expm1(h / 3) * slope
    bend = _epsilon(model, first, third) - slope
    low = x - math.exp(-there) * math.expm1(h) * (slope + 1.5 * bend)
    second = x - math.exp(-two_thirds) * (math.expm1(2 * h / 3) * slope
                                          + 2 * (math.expm1(2 * h / 3) / (2 * h / 3) - 1) * bend)
    later = _epsilon(model, second, two_thirds) - slope
    high = x - math.exp(-there) * (math.expm1(h) * slope + 1.5 * (math.expm1(h) / h - 1) * later)
    return low, high


def _epsilon(model: Denoiser, x: Tensor, time: float) -> Tensor:
    sigma = math.exp(-time)
    return (x - model(x, sigma)) / sigma
