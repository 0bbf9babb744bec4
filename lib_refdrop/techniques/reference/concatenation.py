"""Concatenation, or "reference-only": a layer looks at its own keys and at a reference's together.

For every query that is RFG with a coefficient of its own, ``c = wZ′/(Z + wZ′)`` with ``Z`` the sums of the exponentials
of either side's logits: high where the reference matches. Weight 1 is what reference-only does, 0 is nothing, and
without bound it is cross-attention to the reference alone (FABRIC, von Rütte et al. 2023, has this weight).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...model.layer import SiteInput
from .adain import aligned


def joined(layer: SiteInput, rows: slice, tokens: int, k: Tensor, v: Tensor, bias: Tensor | None = None,
           weight: float = 1.0, q: Tensor | None = None, keys: Tensor | None = None, amount: float = 0.0) -> Tensor:
    """Attention of some rows over their own keys and a reference's, k and v ``[S, W]``: ``[rows, tokens, C]``.

    The reference counts ``weight`` times, and as if it had as many tokens as the picture (``tokens``), however many are
    kept of it: ``ln w + ln(tokens / S′)`` is added to its logits, S′ counting merged tokens by what they stand for.
    ``q`` ``[rows, tokens, W]`` are queries in the place of the rows' own; their own keys are brought towards the
    statistics ``keys`` by an ``amount`` first.
    """
    stands = float(len(k)) if bias is None else float(bias.float().exp().sum())
    theirs = torch.full((len(k),), math.log(weight * tokens / stands), device=k.device)
    theirs = theirs if bias is None else theirs + bias.to(theirs)
    made = []
    for row in range(rows.start, rows.stop):
        own_k, own_v = layer.key_values(row)
        own_k = own_k if keys is None else aligned(own_k, keys, amount)
        own_q = None if q is None else q[row - rows.start:row - rows.start + 1]
        biases = torch.cat([theirs.new_zeros(len(own_k)), theirs])
        made.append(layer.attend(slice(row, row + 1), torch.cat([own_k, k.to(own_k)]), torch.cat([own_v, v.to(own_v)]),
                                 biases, own_q))
    return torch.cat(made)
