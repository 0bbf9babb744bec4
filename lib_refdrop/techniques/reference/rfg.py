"""Reference Feature Guidance: the paper's equations as pure functions on tensors, any device and dtype.

"Paper" is Fan, Xue, Zhang, Chen: RefDrop, NeurIPS 2024, arXiv 2405.17661.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, ``Attn(Q, K, V)`` of the paper.

    q ``[B, T, W]``; k and v ``[B, S, W]`` or ``[1, S, W]`` (one reference for every row: it is expanded as a view, not
    copied). The reference may have another number of tokens, S, than the picture. ``bias`` ``[S]`` is added to the
    logits: the logarithm of the number of tokens that a key stands for, where tokens were merged (ToMe, Bolya et al.
    2023, proportional attention). Returns ``[B, T, W]`` in q's dtype.

    Raises ValueError when widths differ or do not divide by ``heads``.
    """
    batch, tokens, width = q.shape
    if width % heads or k.shape[-1] != width or v.shape != k.shape or k.shape[0] not in (1, batch):
        raise ValueError(f"attention shapes do not fit: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, "
                         f"{heads} heads")
    q, k, v = (x.reshape(x.shape[0], -1, heads, width // heads).transpose(1, 2) for x in (q, k, v))
    k, v = k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)
    mask = None if bias is None else bias.to(q).expand(tokens, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(batch, tokens, width)


def attention_map(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Where queries look: the attention's probabilities, mean over heads. q ``[T, W]``, k ``[S, W]``; returns
    ``[T, S]`` float32. Head after head: all at once they would take that much memory for each."""
    found = torch.zeros(len(q), len(k), device=q.device)
    for part in zip(*(x.float().unflatten(-1, (heads, -1)).unbind(1) for x in (q, k))):
        found += (part[0] @ part[1].T / part[0].shape[-1] ** 0.5).softmax(-1)
    return found / heads


def blend(own: Tensor, references: Sequence[Tensor], coefficients: Sequence[float],
          masks: Sequence[Tensor | None] | None = None) -> Tensor:
    """``own + Σ cj·Mj·(refj − own)``: Eq. 4/5 for one reference, Eq. 7 for several, Eq. 6 with masks.

    own and every reference ``[..., T, C]``: attention outputs of the same queries over their own and over the
    reference's keys and values. A mask is ``[T, 1]`` (see :func:`token_mask`) or None for everywhere. The difference
    form gives ``own`` back to the bit where a reference equals it, at every c. References with c = 0 are not looked at,
    and with none left ``own`` itself is returned.
    """
    out = own
    for index, (reference, c) in enumerate(zip(references, coefficients)):
        if c == 0:
            continue
        difference = reference - own  # a tensor of our own: what follows is done in it, at half the time
        mask = masks[index] if masks else None
        out = difference.mul_(c if mask is None else c * mask.to(difference)).add_(out)
    return out


def token_mask(mask: Tensor, rows: int, columns: int) -> Tensor:
    """A picture's mask brought to one layer's token grid (paper §3.3, Eq. 6), by area.

    mask ``[H, W]``, 1 where the reference may act and 0 where not; returns ``[rows·columns, 1]``, float32 in [0, 1].
    """
    return F.interpolate(mask[None, None].float(), size=(rows, columns), mode="area").reshape(rows * columns, 1)


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a layer with ``tokens`` tokens in a picture of ``height`` × ``width`` (any unit).

    Every down-sampling halves and rounds up, so the grid is found by halving until it fits.
    Raises ValueError where no halving gives ``tokens`` (tokens were merged, say).
    """
    rows, columns = height, width
    while rows * columns > tokens and rows * columns > 1:
        rows, columns = -(-rows // 2), -(-columns // 2)
    if rows * columns != tokens:
        raise ValueError(f"{tokens} tokens are no halving of a {height}×{width} picture")
    return rows, columns
