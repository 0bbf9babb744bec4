"""Fewer tokens out of many: averages over parts of the picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def aimed_grid(rows: int, columns: int, most: int) -> tuple[int, int]:
    """Rows and columns, of about the proportions of those given and no more, that make nearly ``most`` tokens.

    Of pictures of the same proportions the larger never gets fewer.
    """
    if rows * columns <= most:
        return rows, columns
    ideal = math.sqrt(most * rows / columns)
    least, largest = max(1, min(math.floor(0.9 * ideal), most)), min(rows, most, math.ceil(1.1 * ideal))
    found = [(each, min(columns, most // each)) for each in range(least, largest + 1)]
    return max(found, key=lambda grid: (grid[0] * grid[1], -abs(grid[0] - ideal)))


def resampled(feature: Tensor, grid: tuple[int, int], kept: tuple[int, int]) -> Tensor:
    """Averages of ``feature`` ``[rows·columns, C]`` over ``kept`` rows × columns of parts of equal area, ``[S', C]`` in
    its dtype, summed in float32. Tokens that a border runs through count for both sides, each by its share."""
    down, across = (_areas(length, parts, feature.device) for length, parts in zip(grid, kept))
    picture = feature.float().reshape(*grid, -1)
    return torch.einsum("ar,rcw,bc->abw", down, picture, across).flatten(0, 1).to(feature.dtype)


def merge(feature: Tensor, grid: tuple[int, int], pool: int) -> tuple[Tensor, Tensor | None]:
    """Averages of ``feature`` ``[rows·columns, C]`` over squares of ``pool`` × ``pool`` tokens, ``[S', C]`` in its
    dtype, summed in float32; and how many tokens each stands for, ``[S']`` uint8, or None where all stand for as many.

    Squares at the right and lower edge are smaller where a side does not divide by ``pool``.
    """
    rows, columns = grid
    picture = feature.float().reshape(1, rows, columns, -1).permute(0, 3, 1, 2)  # channels stay last in memory: fast
    means = F.avg_pool2d(picture, pool, ceil_mode=True).permute(0, 2, 3, 1).flatten(0, 2)
    counts = None
    if differ(rows, columns, pool):
        counts = torch.outer(*(_side(length, pool, feature.device) for length in grid)).flatten().to(torch.uint8)
    return means.to(feature.dtype), counts


def differ(rows: int, columns: int, pool: int) -> bool:
    """Whether squares hold different numbers of tokens: a side is longer than a square and does not divide by it."""
    return any(length > pool and length % pool for length in (rows, columns))


def _areas(length: int, parts: int, device: torch.device) -> Tensor:
    """``[parts, length]``: the share that each token of a side has in each of ``parts`` equal pieces."""
    edges = torch.arange(parts + 1, device=device, dtype=torch.float32) * (length / parts)
    tokens = torch.arange(length, device=device, dtype=torch.float32)
    inside = torch.minimum(edges[1:, None], tokens + 1) - torch.maximum(edges[:-1, None], tokens)
    return inside.clamp(min=0) * (parts / length)


def _side(length: int, pool: int, device: torch.device) -> Tensor:
    """How many tokens of a side of ``length`` fall into each square."""
    return (length - torch.arange(0, length, pool, device=device)).clamp(max=pool)
