"""From a model's timestep to the noise level that RefDrop counts by."""

from __future__ import annotations

import math

from torch import Tensor


class SigmaClock:
    """Noise level of a timestep: ``σ = √((1 − ᾱ)/ᾱ)`` (Karras et al. 2022), between steps by interpolation in log σ."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        alphas = alphas_cumprod.double().cpu().clamp(1e-8, 1 - 1e-8)
        self._logs = (((1 - alphas) / alphas).log() / 2).tolist()

    def __call__(self, timestep: float) -> float:
        at = min(max(timestep, 0.0), len(self._logs) - 1.0)
        low = min(int(at), len(self._logs) - 2)
        return math.exp(self._logs[low] + (at - low) * (self._logs[low + 1] - self._logs[low]))
