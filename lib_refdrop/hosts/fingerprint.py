"""What tells a model's weights from others, in a few numbers that do not depend on precision or device.

The keys and values that some self-attention layers make of one fixed hidden state: whatever acts in these layers (LoRA,
merges, quantisation) is in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..model.sites import Site

_SITES = 16  # looked at, spread over all
_FAR = 0.05  # of a projection's size; half precision changes a thousandth, 4 bits a number some hundredths


def fingerprint(layers: Mapping[Site, nn.Module], dtype: torch.dtype) -> list[list[float]]:
    """For some of a model's self-attention layers, size and direction of K and V; nothing where the layers cannot be
    asked outside of a call (weights that are elsewhere, or packed)."""
    sites = sorted(layers)
    found = []
    try:
        with torch.no_grad():
            for site in sites[::math.ceil(len(sites) / _SITES)]:
                layer: Any = layers[site]
                found.append([number for name in ("to_k", "to_v") for number in _seen(getattr(layer, name), dtype)])
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError):
        return []
    return found if all(math.isfinite(number) for numbers in found for number in numbers) else []


def differ(one: Any, other: Any) -> bool:
    """Whether two fingerprints, of whatever a file holds, are of other weights; not where one tells nothing."""
    try:
        pairs = [(a, b) for first, second in zip(one, other) for a, b in zip(_by_projection(first),
                                                                             _by_projection(second))]
    except (TypeError, ValueError):
        return False
    return any(max(abs(x - y) for x, y in zip(a, b)) > _FAR * max(a[0], b[0]) for a, b in pairs)


def _by_projection(numbers: list[float]) -> list[tuple[float, float]]:
    size_k, along_k, size_v, along_v = map(float, numbers)
    return [(size_k, along_k), (size_v, along_v)]


def _seen(projection: nn.Module, dtype: torch.dtype) -> list[float]:
    """How large the projection of a fixed hidden state is, a number's root mean square, and how far it points along a
    fixed direction, in the same unit."""
    device = next(projection.parameters()).device
    width: Any = projection.in_features
    probe = _waves(int(width), 1.0).to(device if device.type != "meta" else "cpu", dtype)
    made = projection(probe[None, None])[0, 0].float().cpu()
    along = (made * _waves(len(made), 2.0)).sum() / math.sqrt(len(made))
    return [float(f"{number:.4g}") for number in (made.square().mean().sqrt().item(), along.item())]


def _waves(count: int, which: float) -> Tensor:
    """Numbers of unit size that are the same on every machine, for every version of PyTorch."""
    return torch.tensor([math.sqrt(2) * math.sin(which + 1.7 * place * place) for place in range(count)])
