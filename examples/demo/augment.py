"""Makes drawings look a little like generated pictures: moved, soft, tinted, blotched and grainy."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """``[N, 3, H, W]`` in [−1, 1]; every picture changed differently, its attributes still plain to see."""
    pictures = _moved(pictures, generator)
    pictures = _softened(pictures, generator)
    count, _, height, width = pictures.shape
    gain = 1 + 0.12 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    tint = 0.10 * (torch.rand(count, 3, 1, 1, generator=generator) - 0.5)
    blotches = torch.randn(count, 3, height // 8, width // 8, generator=generator)
    blotches = F.interpolate(blotches, size=(height, width), mode="bilinear", align_corners=False)
    grain = torch.randn(pictures.shape, generator=generator)
    strength = torch.rand(2, count, 1, 1, 1, generator=generator)
    return (pictures * gain + tint + 0.10 * strength[0] * blotches + 0.08 * strength[1] * grain).clamp(-1, 1)


def _moved(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to 6 %, zoomed by up to 6 %, turned by up to 4 degrees, every second one mirrored."""
    count = len(pictures)
    shift, zoom, angle, mirror = (torch.rand(count, n, generator=generator) for n in (2, 1, 1, 1))
    turn = (angle[:, 0] - 0.5) * math.radians(8)
    scale = 1 + 0.12 * (zoom[:, 0] - 0.5)
    side = torch.where(mirror[:, 0] < 0.5, -1.0, 1.0)
    rows = torch.stack([
        torch.stack([side * scale * turn.cos(), -scale * turn.sin(), 0.12 * (shift[:, 0] - 0.5)], dim=1),
        torch.stack([side * scale * turn.sin(), scale * turn.cos(), 0.12 * (shift[:, 1] - 0.5)], dim=1),
    ], dim=1)
    grid = F.affine_grid(rows, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _softened(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Two thirds of the pictures lose detail, as behind an autoencoder: reduced by 2 to 4 and enlarged again."""
    size = pictures.shape[-2:]
    pictures = pictures.clone()
    fate = torch.rand(len(pictures), generator=generator)
    for factor, low, high in ((2, 0.0, 0.3), (3, 0.3, 0.5), (4, 0.5, 0.66)):
        if (chosen := (fate >= low) & (fate < high)).any():
            small = F.interpolate(pictures[chosen], scale_factor=1 / factor, mode="area")
            pictures[chosen] = F.interpolate(small, size=size, mode="bicubic", align_corners=False)
    return pictures
