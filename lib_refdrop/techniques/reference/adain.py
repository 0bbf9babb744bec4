"""Adaptive instance normalisation (AdaIN, Huang & Belongie 2017): a channel's mean and spread become the reference's.

Of block outputs over their places it is "reference_adain", which takes over colours and contrasts, not shapes; of a
layer's queries and keys over their tokens it is StyleAligned's (Hertz et al. 2024), which lets them look alike before
attention compares them. Statistics are mean and standard deviation, ``[..., 2, C]`` float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST = 1e-6  # of a variance


def statistics(output: Tensor, share: Tensor | None = None) -> Tensor:
    """Of block outputs ``[B, C, ...]``, over all places: ``[B, 2, C]``; of each as much as its number in ``share``
    says."""
    return _over_last(output.flatten(2).float(), None if share is None else share.flatten() / share.sum())


def token_statistics(tokens: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of queries or keys ``[..., S, W]``, over the tokens, per head and channel: ``[..., 2, W]``. With ``bias`` ``[S]``
    they weigh as they do in attention's logits: merged tokens by what they stand for."""
    share = None if bias is None else bias.float().softmax(0)
    return _over_last(tokens.float().transpose(-1, -2), share)


def _over_last(numbers: Tensor, share: Tensor | None = None) -> Tensor:
    def mean(each: Tensor) -> Tensor:
        return each.mean(-1) if share is None else each @ share

    middle = mean(numbers)
    spread = mean((numbers - middle[..., None]).square()).clamp(min=_LEAST).sqrt()
    return torch.stack([middle, spread], dim=-2)


def adapted(output: Tensor, own: Tensor, theirs: Sequence[Tensor], amounts: Sequence[float],
            masks: Sequence[Tensor | None]) -> Tensor:
    """``x + Σ aj·Mj·(yj − x)`` with ``yj = (x − μ)/σ · σj + μj``: block outputs ``[B, C, ...]`` brought towards the
    statistics ``[2, C]`` of references, by an amount each. A mask is 1 where a reference acts, of the shape of a place.

    With one reference and no mask its mean and spread are mixed with those that are there, ``own`` ``[B, 2, C]``. It is
    ``output`` itself, to the bit, where the statistics are the same.
    """
    numbers, made = output.float(), None
    places = (..., *(None,) * (output.dim() - 2))
    mean, spread = (own[:, number][places] for number in range(2))
    for each, amount, mask in zip(theirs, amounts, masks):
        factor = each[1][places] / spread
        change = amount * (numbers * (factor - 1) + (each[0][places] - mean * factor))
        change = change if mask is None else change * mask.to(change)
        made = change if made is None else made + change
    return output if made is None else (numbers + made).to(output.dtype)


def aligned(tokens: Tensor, theirs: Tensor, amount: float) -> Tensor:
    """Queries or keys ``[..., S, W]`` with the mean and spread of each channel brought towards ``theirs`` ``[2, W]``:
    all the way at ``amount`` 1, not at all at 0."""
    own = token_statistics(tokens)
    mean, spread = own[..., :1, :], own[..., 1:, :]
    factor, numbers = theirs[1] / spread, tokens.float()
    return (numbers + amount * (numbers * (factor - 1) + (theirs[0] - mean * factor))).to(tokens.dtype)
