"""Token dropout: in every layer of every model call another part of the reference's tokens may be looked at.

What is missing there is another time here, so that the reference's likeness comes through and its layout, which needs
all places at once, does less (ConsiStory, Tewel et al. 2024; StoryDiffusion, Zhou et al. 2024: a half).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ...model.sites import Site
from ...references.on_device import KeyValues


def kept(tokens: int, rate: float, *place: object) -> Tensor:
    """Which of so many ``tokens`` are left when the share ``rate`` of them is dropped: ``[S′]``, rising, at least one.

    ``place`` is where and when (the picture's seed, the layer, the noise level …): the same gives the same tokens, on
    every device.
    """
    seed = int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:8], "big") >> 1
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
    return order[:max(1, round(tokens * (1 - rate)))].sort().values


def dropped(feature: KeyValues, rate: float, seed: int, site: Site, sigma: float, visit: int) -> KeyValues:
    """K and V ``[S, W]`` and bias ``[S]`` or None of one picture's layer, without the tokens that it does without: the
    same for both branches, whose difference CFG multiplies."""
    left = kept(len(feature.k), rate, seed, str(site), sigma, visit).to(feature.k.device)
    bias = None if feature.bias is None else feature.bias[left]
    return feature._replace(k=feature.k[left], v=feature.v[left], bias=bias)
