"""A model's noise levels, and the schedules that choose among them.

Sigma is the noise's standard deviation where the picture's own scale is left alone: ``x = latent + sigma · noise``
(Karras et al. 2022, https://arxiv.org/abs/2206.00364). Everything here is plain numbers; no tensor, no device.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable

from torch import Tensor

_ZERO_SNR = 4.8973451890853435e-08  # what stands for an ᾱ of 0, which no sigma belongs to


class ModelLevels:
    """The noise levels of a model's training timesteps, and the way between both: linear in log sigma."""

    def __init__(self, alphas_cumprod: Tensor | Iterable[float]) -> None:
        """``alphas_cumprod`` ``[T]`` falls from nearly 1 to nearly 0."""
        values = alphas_cumprod.cpu().double().tolist() if isinstance(alphas_cumprod, Tensor) else alphas_cumprod
        kept = [min(max(float(value), _ZERO_SNR), 1 - _ZERO_SNR) for value in values]
        self.sigmas = [math.sqrt((1 - value) / value) for value in kept]
        self._logs = [math.log(sigma) for sigma in self.sigmas]

    @property
    def least(self) -> float:
        return self.sigmas[0]

    @property
    def most(self) -> float:
        return self.sigmas[-1]

    def sigma(self, timestep: float) -> float:
        """The noise level of a timestep, a whole number or not, from 0 to T − 1."""
        low = min(max(math.floor(timestep), 0), len(self._logs) - 2)
        part = min(max(timestep - low, 0.0), 1.0)
        return math.exp((1 - part) * self._logs[low] + part * self._logs[low + 1])

    def timestep(self, sigma: float) -> float:
        """The timestep, from 0 to T − 1, that the model was trained to see this noise level at."""
        wanted = math.log(sigma)
        low = min(max(bisect_right(self._logs, wanted) - 1, 0), len(self._logs) - 2)
        part = (wanted - self._logs[low]) / (self._logs[low + 1] - self._logs[low])
        return low + min(max(part, 0.0), 1.0)


Schedule = Callable[[ModelLevels, int], list[float]]  # falling, one level a step, and 0 at the end


def uniform(model: ModelLevels, steps: int) -> list[float]:
    """Timesteps spread evenly from the last to the first: what k-diffusion and web UIs begin with."""
    last = len(model.sigmas) - 1
    return [*(model.sigma(t) for t in _between(last, 0, steps)), 0.0]


def karras(model: ModelLevels, steps: int) -> list[float]:
    """Karras et al. 2022, Eq. 5, rho 7."""
    return karras_between(model.least, model.most, steps)


def karras_between(least: float, most: float, steps: int, rho: float = 7.0) -> list[float]:
    """:func:`karras` between any two levels."""
    ends = most ** (1 / rho), least ** (1 / rho)
    return [*(root**rho for root in _between(*ends, steps)), 0.0]


def exponential(model: ModelLevels, steps: int) -> list[float]:
    """Even in log sigma."""
    return [*(math.exp(log) for log in _between(math.log(model.most), math.log(model.least), steps)), 0.0]


def sgm_uniform(model: ModelLevels, steps: int) -> list[float]:
    """Timesteps spread evenly, the first one left out: Stability's generative-models."""
    first, last = model.timestep(model.most), model.timestep(model.least)
    return [*(model.sigma(t) for t in _between(first, last, steps + 1)[:-1]), 0.0]


def normal(model: ModelLevels, steps: int) -> list[float]:
    """As :func:`uniform`, from level to timestep and back."""
    first, last = model.timestep(model.most), model.timestep(model.least)
    return [*(model.sigma(t) for t in _between(first, last, steps)), 0.0]


def simple(model: ModelLevels, steps: int) -> list[float]:
    """Every so-manieth of the model's own levels, from the noisiest."""
    stride = len(model.sigmas) / steps
    return [*(model.sigmas[-(1 + int(step * stride))] for step in range(steps)), 0.0]


def ddim(model: ModelLevels, steps: int) -> list[float]:
    """Every so-manieth of the model's own levels, the second-cleanest last; more than ``steps`` for some numbers."""
    stride = max(len(model.sigmas) // steps, 1)
    return [*reversed(model.sigmas[1::stride]), 0.0]


def kl_optimal(model: ModelLevels, steps: int) -> list[float]:
    """Align Your Steps (https://arxiv.org/abs/2404.14507), the closed form: even in arctan sigma, 0 apart."""
    least, most = math.atan(model.least), math.atan(model.most)
    return [*(math.tan(angle) for angle in _between(most, least, steps)), 0.0]


SCHEDULES: dict[str, Schedule] = {
    "Uniform": uniform, "Karras": karras, "Exponential": exponential, "SGM Uniform": sgm_uniform, "Simple": simple,
    "Normal": normal, "DDIM": ddim, "KL Optimal": kl_optimal,
}


def own_of_ddim(model: ModelLevels, steps: int) -> list[float]:
    """The levels of the DDIM sampler: as :func:`ddim`, and the model's cleanest at the end, for it never reaches 0."""
    return [*ddim(model, steps)[:-1], model.least]


def _between(first: float, last: float, count: int) -> list[float]:
    """``count`` numbers from ``first`` to ``last``, evenly; just ``first`` where there is one."""
    if count == 1:
        return [first]
    return [first + (last - first) * index / (count - 1) for index in range(count)]
