"""Noise that belongs to an image's seed: the same on every device, and at every place in a batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
import torchsde
from torch import Tensor

# torchsde compares single-precision noise levels with the rounded ends of its interval; nothing is wrong.
warnings.filterwarnings("ignore", message="Should have t[ab][<>]=t", module="torchsde")

Noise = Callable[[float, float], Tensor]  # (sigma, next sigma) -> standard normal [B, C, h, w]


class ImageNoise:
    """Standard normal noise ``[B, C, h, w]``, float32: every image's comes from a generator of its own on the CPU."""

    def __init__(self, shape: tuple[int, int, int], seeds: Sequence[int], subseeds: Sequence[int] = (),
                 subseed_strength: float = 0.0, device: torch.device | str = "cpu") -> None:
        """``shape`` is ``(C, h, w)``. With a ``subseed_strength`` the first noise is mixed with the subseeds'."""
        self._shape, self._device = shape, device
        self._generators = [_generator(seed) for seed in seeds]
        self._subseeds, self._strength = subseeds if subseed_strength else (), subseed_strength
        self._first = True

    def next(self) -> Tensor:
        """The noise to begin with, and at every further call the noise after that."""
        rows = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        if self._first:
            for index, subseed in enumerate(self._subseeds):
                rows[index] = slerp(
                    rows[index], torch.randn(self._shape, generator=_generator(subseed)), self._strength
                )
        self._first = False
        return torch.stack(rows).to(self._device)

    def __call__(self, sigma: float, next_sigma: float) -> Tensor:
        """As samplers ask for it; independent of the levels."""
        return self.next()


class BrownianNoise:
    """Noise of a stochastic differential equation: increments of one Brownian path an image, from its seed.

    The path between two levels is the same however many steps it is walked in, so pictures change little with them.
    """

    def __init__(self, shape: tuple[int, int, int], seeds: Sequence[int], least: float, most: float,
                 device: torch.device | str = "cpu") -> None:
        self._device = device
        self._paths = [torchsde.BrownianTree(least, torch.zeros(shape), most, entropy=seed) for seed in seeds]

    def __call__(self, sigma: float, next_sigma: float) -> Tensor:
        low, high = sorted((sigma, next_sigma))
        increments = torch.stack([path(low, high) for path in self._paths]) / math.sqrt(high - low)
        return (increments if sigma < next_sigma else -increments).to(self._device)


def slerp(one: Tensor, other: Tensor, part: float) -> Tensor:
    """From ``one`` towards ``other``, each ``[C, h, w]``, along the sphere; column by column, as web UIs do it."""
    unit, other_unit = (noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True) for noise in (one, other))
    cosine = (unit * other_unit).sum(1, keepdim=True)
    if cosine.mean() > 0.9995:
        return torch.lerp(one, other, part)
    angle = torch.acos(cosine)
    return (torch.sin((1 - part) * angle) * one + torch.sin(part * angle) * other) / torch.sin(angle)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)
