"""A part of a picture: what of a reference is kept where it was saved with a mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..words import ReferenceProblem

_WHOLE = 255
_LEAST = 1 / _WHOLE  # of a token: what is darker than a picture can tell is nothing


class NoPlaces(ReferenceProblem):
    """Tokens are no grid of the picture, so that nobody knows which of them a mask leaves."""

    def __init__(self) -> None:
        super().__init__("A mask needs every layer's tokens to be places of the picture, which they are not here; "
                         "switch token merging and HyperTile off, or take the mask out.")


def counted(share: Tensor) -> Tensor:
    """Which tokens of ``[S]`` shares from 0 to 1 there are to be looked at: at least one, that of the largest share."""
    return share > min(_LEAST, float(share.max()) / 2)


class Part:
    """``mask`` ``[h, w]`` uint8, 255 where a latent's cells belong to it: of its latents' size."""

    def __init__(self, mask: Tensor) -> None:
        """Raises ValueError where nothing is left."""
        if mask.dtype != torch.uint8 or mask.dim() != 2 or not mask.numel() or not int(mask.max()):
            raise ValueError("a part of a picture has to be somewhere")
        self.mask = mask
        self._shares: dict[tuple[int, int], Tensor] = {}

    @classmethod
    def of(cls, share: Tensor) -> Part:
        """Of shares ``[h, w]`` from 0 to 1, of which one is more."""
        mask = (share.float() * _WHOLE).round().to(torch.uint8)
        return cls(mask if int(mask.max()) else (share > 0).to(torch.uint8))

    @property
    def size(self) -> tuple[int, int]:
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def share(self) -> float:
        """How much of the picture it is."""
        return float(self.mask.float().mean()) / _WHOLE

    def over(self, grid: tuple[int, int]) -> Tensor:
        """Each token's share ``[S]`` float32, by area: of whole numbers first, so that every computer finds the same
        tokens."""
        if grid not in self._shares:
            sums = F.interpolate(self.mask[None, None].float(), size=grid, mode="area")
            self._shares[grid] = sums.flatten() / _WHOLE
        return self._shares[grid]

    def kept(self, grid: tuple[int, int]) -> Tensor:
        """Which tokens of a grid are kept, ``[S]`` bool."""
        return counted(self.over(grid))

    def count(self, grid: tuple[int, int]) -> int:
        return int(self.kept(grid).sum())
