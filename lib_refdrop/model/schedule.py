"""Noise levels, the only clock: from a model's timestep to sigma, which levels to keep, and which serves another."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from torch import Tensor

_LAST = 0.03  # the quietest level that Stable Diffusion was trained at
SAME = 1e-4  # levels nearer than this, relatively, are one: they reach us in single precision by different roads


def rounded(sigma: float) -> float:
    """The same level, however it was rounded on its way here."""
    return float(f"{sigma:.6g}")


def position(sigma: float) -> float:
    """Where a noise level lies on the way from the picture (0) to noise: ``½ log(1 + σ²)``.

    That is the logarithm by which the picture's share of a latent of variance 1 has shrunk: log sigma where noise
    prevails, and next to nothing between the last steps, whose features are alike and change little.
    """
    return math.log1p(sigma * sigma) / 2


def distance(one: float, other: float) -> float:
    """How far two noise levels are from each other, by :func:`position`."""
    return abs(position(one) - position(other))


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


def part(count: int, percent: float) -> int:
    """How many of ``count`` levels are the noisiest ``percent`` of them: at least one."""
    return count if percent >= 100 else min(count, max(1, math.ceil(count * percent / 100 - 1e-9)))


def threshold(sigmas: Iterable[float], percent: float) -> float:
    """The smallest sigma among the noisiest ``percent`` of a schedule's levels, at least one; 0 for all of them."""
    levels = descending(sigmas)
    if percent >= 100 or not levels:
        return 0.0
    return levels[part(len(levels), percent) - 1] * (1 - SAME)


def spread(sigmas: Iterable[float], count: int | None, among: Iterable[float] | None = None) -> list[float]:
    """``count`` of a schedule's levels (None: all), so that every level has one near it.

    They are those for which the sum over all levels of the :func:`distance` to the nearest is the least
    (one-dimensional k-medians, exactly, by dynamic programming). With ``among`` only levels that are in there are
    taken.
    """
    levels = descending(sigmas)
    there = levels if among is None else [level for level in descending(among) if level in set(levels)]
    if count is None or count >= len(there):
        return there
    cost = _Costs(levels, there)
    between = [[cost.between(j, i) for j in range(i)] for i in range(len(there))]
    best, came = [cost.above(i) for i in range(len(there))], []
    for _ in range(count - 1):
        before = best
        found = [min(((before[j] + between[i][j], j) for j in range(i)), default=(math.inf, 0))
                 for i in range(len(there))]
        best = [total for total, _ in found]
        came.append([j for _, j in found])
    at = min(range(len(there)), key=lambda i: best[i] + cost.below(i))
    kept = [there[at]]
    for sources in reversed(came):
        at = sources[at]
        kept.append(there[at])
    return kept[::-1]


class _Costs:
    """Sums of distances of ``levels`` to those of ``there`` that serve them; both fall, and the latter are some of the
    former."""

    def __init__(self, levels: Sequence[float], there: Sequence[float]) -> None:
        self._ascending = [-position(level) for level in levels]
        self._sums = [0.0, *itertools.accumulate(self._ascending)]
        self._at = [levels.index(level) for level in there]

    def above(self, i: int) -> float:
        """Of all noisier levels to the i-th."""
        return self._cost(0, self._at[i], self._at[i])

    def below(self, i: int) -> float:
        """Of all quieter levels to the i-th."""
        return self._cost(self._at[i], len(self._ascending), self._at[i])

    def between(self, i: int, j: int) -> float:
        """Of the levels between the i-th and the j-th, each to the nearer."""
        first, last = self._at[i], self._at[j]
        half = bisect_right(self._ascending, (self._ascending[first] + self._ascending[last]) / 2, first, last)
        return self._cost(first, half, first) + self._cost(half, last, last)

    def _cost(self, start: int, stop: int, server: int) -> float:
        return abs(self._sums[stop] - self._sums[start] - (stop - start) * self._ascending[server])


class Progress:
    """How far a pass has come at a noise level: 0 at its first step, 1 at its end.

    The n-th of a schedule's N levels has come n/N of the way (n from 0), as web UIs count; between two by
    :func:`position`. Where nobody knows the schedule, the way goes from the first level seen to ``_LAST`` in log sigma.
    """

    def __init__(self, sigmas: Iterable[float] | None = None) -> None:
        levels = descending(sigmas or ())
        self._levels = levels
        self._ways = [(position(level), number / len(levels)) for number, level in enumerate(levels)] + [(0.0, 1.0)]
        self._first: float | None = None

    def __call__(self, sigma: float) -> float:
        """Of a level that is noisier than the first: 0."""
        if not self._levels:
            self._first = max(self._first or 0.0, sigma)
            whole = math.log(self._first / _LAST) if self._first > _LAST else 0.0
            return min(1.0, max(0.0, math.log(self._first / max(sigma, _LAST)) / whole)) if whole else 0.0
        for number, level in enumerate(self._levels):
            if abs(sigma - level) <= SAME * level:
                return number / len(self._levels)
        at = position(sigma)
        for (high, before), (low, after) in zip(self._ways, self._ways[1:]):
            if low <= at < high:
                return before + (after - before) * (high - at) / (high - low)
        return 0.0


def crowded(sigmas: Sequence[float]) -> float:
    """The level, of those kept of a schedule that nobody knows in advance, that is missed least: the one whose
    neighbours are nearest to each other. The noisiest is never given up, and neither is the quietest, unless only two
    are left.
    """
    levels = descending(sigmas)
    inner = range(1, len(levels) - 1)
    if not inner:
        return levels[-1]
    return levels[min(inner, key=lambda i: distance(levels[i - 1], levels[i + 1]))]


def reach(sigmas: Iterable[float]) -> float:
    """Up to which sigma a pass speaks that was recorded at these levels.

    One and a half of its own first steps above its noisiest level, and a quarter at least: two samplers begin a
    schedule at slightly different levels, but a pass that began in a picture (img2img, hires) has nothing to say about
    pure noise.
    """
    levels = descending(sigmas)
    if len(levels) < 2:
        return 2 * levels[0] if levels else 0.0
    return levels[0] * max((levels[0] / levels[1]) ** 1.5, 1.25)
