"""Noise levels, the only clock: from a model's timestep to sigma, which levels to keep, and which serves another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

SAME = 1e-4  # levels nearer than this, relatively, are one: they reach us in single precision by different roads


def rounded(sigma: float) -> float:
    """The same level, however it was rounded on its way here."""
    return float(f"{sigma:.6g}")


def distance(one: float, other: float) -> float:
    """How far two noise levels are from each other: in log sigma."""
    return abs(math.log(max(one, 1e-6)) - math.log(max(other, 1e-6)))


class SigmaClock:
    """Noise level of a timestep of eps- and v-predicting models: ``σ = √((1 − ᾱ)/ᾱ)`` (Karras et al. 2022), between
    steps by interpolation in log σ."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        """``alphas_cumprod`` ``[T]``, of any device and floating dtype."""
        alphas = alphas_cumprod.detach().cpu().double().clamp(1e-8, 1 - 1e-8)  # MPS has no float64: first to the CPU
        self._logs = (((1 - alphas) / alphas).log() / 2).tolist()

    def __call__(self, timestep: float) -> float:
        at = min(max(timestep, 0.0), len(self._logs) - 1.0)
        low = min(int(at), len(self._logs) - 2)
        return math.exp(self._logs[low] + (at - low) * (self._logs[low + 1] - self._logs[low]))


class FlowClock:
    """Noise level of a timestep of rectified-flow models: sigma from 0 to 1 is the timestep over its ``multiplier``."""

    def __init__(self, multiplier: float = 1000.0) -> None:
        self._multiplier = multiplier

    def __call__(self, timestep: float) -> float:
        return timestep / self._multiplier


def descending(sigmas: Iterable[float]) -> list[float]:
    """Each level once, the noisiest first, without the end of a schedule (sigma 0 is no step)."""
    return sorted({rounded(sigma) for sigma in sigmas if sigma > 0}, reverse=True)


def threshold(sigmas: Iterable[float], percent: float) -> float:
    """The smallest sigma among the noisiest ``percent`` of a schedule's levels, at least one; 0 for all of them."""
    levels = descending(sigmas)
    if percent >= 100 or not levels:
        return 0.0
    return levels[max(1, math.ceil(len(levels) * percent / 100 - 1e-9)) - 1] * (1 - SAME)


def spread(sigmas: Iterable[float], count: int | None) -> list[float]:
    """``count`` of a schedule's levels (None: all), so that every level has one near it: evenly spread in log sigma.

    Divides the levels into ``count`` neighbouring groups, each served by one of its own, so that the sum over all levels of
    the distance to the one that serves it is the least (one-dimensional k-medians, exactly, by dynamic programming).
    """
    levels = descending(sigmas)
    if count is None or count >= len(levels):
        return levels
    logs = [math.log(level) for level in levels]
    size = len(levels)
    sums = [0.0]
    for each in logs:
        sums.append(sums[-1] + each)

    def cost(start: int, stop: int) -> float:
        """Of levels ``start`` to ``stop`` − 1 served by their median."""
        middle = (start + stop) // 2
        above = (sums[middle] - sums[start]) - logs[middle] * (middle - start)
        below = logs[middle] * (stop - middle) - (sums[stop] - sums[middle])
        return above + below

    best = [[math.inf] * (size + 1) for _ in range(count + 1)]
    cut = [[0] * (size + 1) for _ in range(count + 1)]
    best[0][0] = 0.0
    for groups in range(1, count + 1):
        for stop in range(groups, size + 1):
            best[groups][stop], cut[groups][stop] = min(
                (best[groups - 1][start] + cost(start, stop), start) for start in range(groups - 1, stop))
    kept, stop = [], size
    for groups in range(count, 0, -1):
        start = cut[groups][stop]
        kept.append(levels[(start + stop) // 2])
        stop = start
    return kept[::-1]


def crowded(sigmas: Sequence[float]) -> float:
    """The level, of those kept of a schedule that nobody knows in advance, that is missed least: the one whose neighbours
    are nearest to each other. The noisiest is never given up, and neither is the last that came."""
    levels = descending(sigmas)
    inner = range(1, len(levels) - 1)
    if not inner:
        return levels[-1]
    return levels[min(inner, key=lambda i: distance(levels[i - 1], levels[i + 1]))]


def reach(sigmas: Iterable[float]) -> float:
    """Up to which sigma a pass speaks that was recorded at these levels.

    One and a half of its own first steps above its noisiest level: two samplers begin a schedule at slightly different
    levels, but a pass that began in a picture (img2img, hires) has nothing to say about pure noise.
    """
    levels = descending(sigmas)
    if len(levels) < 2:
        return 2 * levels[0] if levels else 0.0
    return levels[0] * (levels[0] / levels[1]) ** 1.5
