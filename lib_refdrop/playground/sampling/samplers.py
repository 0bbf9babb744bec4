"""Samplers: each a function of a denoiser and falling noise levels, with the papers' names.

``model(x, sigma)`` is the picture D ``[B, C, h, w]`` that the denoiser sees in ``x`` at noise level ``sigma``;
``sigmas`` falls, and may end with 0. ``noise(sigma, next_sigma)`` is standard normal; ``after_step(i)`` is called when
step i is done. All return the latents at the last level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from .levels import karras_between
from .noise import Noise

Denoiser = Callable[[Tensor, float], Tensor]
AfterStep = Callable[[int], None]


def euler(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep) -> Tensor:
    """Algorithm 2 of Karras et al. 2022 without its second half."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        x = _euler_step(x, model(x, sigma), sigma, following)
        after_step(i)
    return x


def euler_ancestral(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep,
                    eta: float = 1.0) -> Tensor:
    """Euler steps a little too far down, and noise to come back up."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        down, up = ancestral(sigma, following, eta)
        x = _euler_step(x, model(x, sigma), sigma, down)
        x = _raised(x, noise, sigma, following, up)
        after_step(i)
    return x


def heun(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep) -> Tensor:
    """Algorithm 2 of Karras et al. 2022."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        x = _heun_step(model, x, sigma, following)
        after_step(i)
    return x


def dpm_2(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep) -> Tensor:
    """DPM-Solver-2 (Lu et al. 2022, https://arxiv.org/abs/2206.00927) as a midpoint method in Karras' variables."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        x = _midpoint_step(model, x, sigma, following)
        after_step(i)
    return x


def dpm_2_ancestral(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep,
                    eta: float = 1.0) -> Tensor:
    """:func:`dpm_2`, ancestral."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        down, up = ancestral(sigma, following, eta)
        x = _midpoint_step(model, x, sigma, down)
        x = _raised(x, noise, sigma, following, up)
        after_step(i)
    return x


def dpmpp_2s_ancestral(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep,
                       eta: float = 1.0) -> Tensor:
    """DPM-Solver++(2S) (Lu et al. 2022, https://arxiv.org/abs/2211.01095, Algorithm 1), ancestral."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        down, up = ancestral(sigma, following, eta)
        denoised = model(x, sigma)
        if down > 0:
            middle = math.sqrt(sigma * down)  # half-way in log sigma
            denoised = model(_towards(x, denoised, sigma, middle), middle)
        x = _towards(x, denoised, sigma, down)
        x = _raised(x, noise, sigma, following, up)
        after_step(i)
    return x


def dpmpp_2m(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2)."""
    before, last_h = None, 0.0
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        denoised = model(x, sigma)
        h = _log_ratio(sigma, following)
        guess = denoised
        if before is not None and following > 0:
            guess = denoised + (denoised - before) * (h / (2 * last_h))
        x = _towards(x, guess, sigma, following)
        before, last_h = denoised, h
        after_step(i)
    return x


def dpmpp_sde(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep,
              eta: float = 1.0) -> Tensor:
    """DPM-Solver++ of second order for the stochastic equation, singlestep (after k-diffusion, Lu et al. 2022)."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        denoised = model(x, sigma)
        if following > 0:
            middle = math.sqrt(sigma * following)
            down, up = ancestral(sigma, middle, eta)
            inner = _raised(_towards(x, denoised, sigma, down), noise, sigma, middle, up)
            denoised = model(inner, middle)
            down, up = ancestral(sigma, following, eta)
            x = _raised(_towards(x, denoised, sigma, down), noise, sigma, following, up)
        else:
            x = denoised
        after_step(i)
    return x


def dpmpp_2m_sde(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep,
                 eta: float = 1.0, solver: str = "midpoint") -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, Appendix); ``solver`` is "midpoint" or "heun"."""
    before, last_h = None, 0.0
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        denoised = model(x, sigma)
        if following == 0:
            x = denoised
        else:
            h = _log_ratio(sigma, following)
            reach = h * (1 + eta)
            shift = -math.expm1(-reach)
            x = following / sigma * math.exp(-h * eta) * x + shift * denoised
            if before is not None:
                weight = 1 - shift / reach if solver == "heun" else shift / 2
                x = x + weight * (h / last_h) * (denoised - before)
            x = _raised(x, noise, sigma, following, following * math.sqrt(-math.expm1(-2 * h * eta)))
            last_h = h
        before = denoised
        after_step(i)
    return x


def dpmpp_3m_sde(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep,
                 eta: float = 1.0) -> Tensor:
    """:func:`dpmpp_2m_sde` of third order (Crowson 2023)."""
    past: list[tuple[Tensor, float]] = []  # the pictures seen before, latest first, with the step from each
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        denoised = model(x, sigma)
        if following == 0:
            x = denoised
        else:
            h = _log_ratio(sigma, following)
            reach = h * (1 + eta)
            x = math.exp(-reach) * x - math.expm1(-reach) * denoised
            second = math.expm1(-reach) / reach + 1
            if past:
                ratio = past[0][1] / h
                slope = (denoised - past[0][0]) / ratio
                if len(past) > 1:
                    older = past[1][1] / h
                    bend = (slope - (past[0][0] - past[1][0]) / older) / (ratio + older)
                    slope = slope + bend * ratio
                    x = x + second * slope - (second / reach - 0.5) * bend
                else:
                    x = x + second * slope
            x = _raised(x, noise, sigma, following, following * math.sqrt(-math.expm1(-2 * h * eta)))
            past = [(denoised, h), *past[:1]]
        after_step(i)
    return x


def lcm(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep) -> Tensor:
    """Latent consistency sampling (Luo et al. 2023, https://arxiv.org/abs/2310.04378, Algorithm 3)."""
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        x = _raised(model(x, sigma), noise, sigma, following, following)
        after_step(i)
    return x


def ddim(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep,
         eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021, https://arxiv.org/abs/2010.02502, Eq. 12), which in these variables is an Euler step.

    It ends at its last level and gives the latents at the scale they have there, noise included.
    """
    for i, (sigma, following) in enumerate(_pairs(sigmas)):
        alpha, after = 1 / (1 + sigma**2), 1 / (1 + following**2)
        up = eta * math.sqrt((1 - after) / (1 - alpha) * (1 - alpha / after))
        denoised = model(x, sigma)
        direction = (x - denoised) / sigma
        x = denoised + math.sqrt(max(1 - after - up**2, 0.0) / after) * direction
        x = _raised(x, noise, sigma, following, up / math.sqrt(after))
        after_step(i)
    return x / math.sqrt(1 + sigmas[-1] ** 2)


def restart(model: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, after_step: AfterStep) -> Tensor:
    """Restart sampling (Xu et al. 2023, https://arxiv.org/abs/2306.14878, Algorithm 1), with web UIs' parameters.

    Of 20 or more steps some are spent on going back from level 0.1 to 2, once or twice, and down again.
    """
    steps, reached = len(sigmas) - 1, sigmas[0]
    for i, (sigma, following) in enumerate(_restarting(sigmas)):
        if sigma > reached:
            x = _raised(x, noise, reached, sigma, math.sqrt(sigma**2 - reached**2))
        x, reached = _heun_step(model, x, sigma, following), following
        after_step(min(i, steps - 1))
    return x


def ancestral(sigma: float, following: float, eta: float) -> tuple[float, float]:
    """``(down, up)``: how far to step, and how much noise brings that back up to ``following``."""
    up = min(following, eta * math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2))
    return math.sqrt(following**2 - up**2), up


def _restarting(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """The steps of :func:`restart`, those of going down again among them."""
    steps = len(sigmas) - 1
    again, times, low, high = (9, 1, 0.1, 2.0) if steps < 36 else (steps // 4, 2, 0.1, 2.0)
    if steps < 20:
        return _pairs(sigmas)
    sigmas = karras_between(sigmas[-2], sigmas[0], steps - again * times)
    bottom, top = (min(range(len(sigmas)), key=lambda place: abs(sigmas[place] - level)) for level in (low, high))
    found = []
    for place, pair in enumerate(_pairs(sigmas)):
        found.append(pair)
        if place + 1 == bottom and top < bottom:
            found += _pairs(karras_between(sigmas[bottom], sigmas[top], again + 1)[:-1]) * times
    return found


def _pairs(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(sigmas[:-1], sigmas[1:]))


def _euler_step(x: Tensor, denoised: Tensor, sigma: float, following: float) -> Tensor:
    return x + (x - denoised) * ((following - sigma) / sigma)


def _heun_step(model: Denoiser, x: Tensor, sigma: float, following: float) -> Tensor:
    denoised = model(x, sigma)
    there = _euler_step(x, denoised, sigma, following)
    if following == 0:
        return there
    slope = ((x - denoised) / sigma + (there - model(there, following)) / following) / 2
    return x + slope * (following - sigma)


def _midpoint_step(model: Denoiser, x: Tensor, sigma: float, following: float) -> Tensor:
    denoised = model(x, sigma)
    if following == 0:
        return _euler_step(x, denoised, sigma, following)
    middle = math.sqrt(sigma * following)  # half-way in log sigma
    there = _euler_step(x, denoised, sigma, middle)
    return x + (there - model(there, middle)) * ((following - sigma) / middle)


def _towards(x: Tensor, denoised: Tensor, sigma: float, following: float) -> Tensor:
    """The exact way from one level to another if the picture seen did not change."""
    return (following / sigma) * x + (1 - following / sigma) * denoised


def _raised(x: Tensor, noise: Noise, sigma: float, following: float, up: float) -> Tensor:
    return x + noise(sigma, following) * up if up > 0 and following > 0 else x


def _log_ratio(sigma: float, following: float) -> float:
    return math.log(sigma / following) if following > 0 else math.inf
