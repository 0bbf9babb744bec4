"""DDIM inversion (Song et al. 2021): from a picture up to the noise that the model itself would have made it of.

A sampler goes down ``dx/dσ``, which the model predicts, from noise to a picture; this goes up the same way, from level
to level. Each step asks the model at the level that it leads to, on what the step before leads to expect there: one
call a level, and nearly the slope that Euler's method goes down by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

NOISING, INVERSION = WAYS = ("Noising", "Inversion")  # from a picture to what a model is called on at a level
EPS, V, FLOW = "eps", "v", "flow"  # what models predict: the noise, v (Salimans and Ho 2022), or noise less picture


def inverted(latent: Tensor, sigmas: Iterable[float], predict: Callable[[Tensor, float], Tensor],
             prediction: str) -> dict[float, Tensor]:
    """What the model is called on at each level, in its own scale, on the way that leads to ``latent`` ``[C, h, w]``.

    ``predict(x, sigma)`` is the model's output for ``x`` in its own scale; ``prediction`` says what that is.
    """
    x, at, found = latent, 0.0, dict[float, Tensor]()
    slope = torch.zeros_like(latent)
    for sigma in sorted(set(sigmas)):
        expected = x + (sigma - at) * slope
        output = predict(_scaled(expected, sigma, prediction), sigma).to(latent)
        slope = _slope(output, expected, sigma, prediction)
        x, at = x + (sigma - at) * slope, sigma
        found[sigma] = _scaled(x, sigma, prediction)
    return found


def _scaled(x: Tensor, sigma: float, prediction: str) -> Tensor:
    return x if prediction == FLOW else x / math.sqrt(1 + sigma**2)


def _slope(output: Tensor, x: Tensor, sigma: float, prediction: str) -> Tensor:
    """``dx/dσ`` at ``x``, which is ``z + σε``, in flow ``(1 − σ)z + σε``."""
    if prediction == V:  # v = (ε − σz)/√(1 + σ²)
        return (sigma * x + math.sqrt(1 + sigma**2) * output) / (1 + sigma**2)
    return output
