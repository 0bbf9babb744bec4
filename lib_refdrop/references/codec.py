"""How a feature is kept: K and V or the hidden state both are projected from, at which precision, from how many tokens.

The hidden state is half the size of K and V and gives them back exactly, as the same weights project it again. Merged
tokens (averages over parts of the picture, as in ToMe, Bolya & Hoffman 2023) cut bytes and attention time alike. To how
many is said as a number, so that a larger picture never keeps fewer; every part is of the same area, so that all tokens
weigh alike. (Older references have squares of ``pool`` × ``pool`` tokens, and weights where those at the edge are
smaller.)

Relative errors ``‖x − x'‖ / ‖x‖`` on layer-normed states of 16 × 24 tokens with neighbours alike and a few outlier
channels, twelve times the others (`python -m tests.references.test_codec`): of what is kept, and of attention's output
over it:

=========  ======  ===============  =============  ============  ==============
precision  bytes   hidden kept      output         K, V kept     output
=========  ======  ===============  =============  ============  ==============
own        model   0                0              0             0
fp16       2       0.02 %           0.02 %         0.02 %        0.02 %
bf16       2       0.16 %           0.12 %         0.17 %        0.10 %
int8       1       0.63 %           0.26 %         0.67 %        0.29 %
fp8        1       2.5 %            1.5 %          2.7 %         1.4 %
int4       ½       10.6 %           5.0 %          11.2 %        4.9 %
=========  ======  ===============  =============  ============  ==============

Merging 2 × 2 of these tokens changes the output by 23 %, 4 × 4 by 41 %, at every precision but int4's one point more.
int8 beats fp8 at the same size: a number's own three bits are coarser than a channel's range in 255 steps. int4
without merging is twice the size of int8 with 2 × 2 tokens merged, at a fifth of its error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..words import ReferenceProblem
from .merging import aimed_grid, differ, merge, resampled
from .part import Part

PARTS = frozenset({"k", "v", "h", "k.scale", "v.scale", "h.scale", "w"})
KINDS = {"hidden": ("h",), "kv": ("k", "v")}
PRECISIONS = ("own", "fp16", "bf16", "int8", "fp8", "int4")
POOLS = (1, 2, 4)
_ROUNDED = {"fp16": torch.float16, "bf16": torch.bfloat16}
_TOPS = {"int8": 127.0, "fp8": 448.0, "int4": 7.5}  # a channel's numbers lie between −top and top steps of its centre
_STEPS = {"int8": torch.int8, "int4": torch.uint8, "fp8": getattr(torch, "float8_e4m3fn", torch.uint8)}


@dataclass(frozen=True)
class Representation:
    """What is kept of one feature: at most ``tokens`` of it (None: all). ``pool`` is an older way to say that, and both
    together are none. ``str`` gives "hidden int8 tokens1024"; :meth:`parse` is the inverse."""

    what: str = "hidden"
    precision: str = "own"
    pool: int = 1
    tokens: int | None = None

    def __post_init__(self) -> None:
        merged = self.tokens is None or (self.tokens > 0 and self.pool == 1)
        if self.what not in KINDS or self.precision not in PRECISIONS or self.pool not in POOLS or not merged:
            raise ValueError(f"no feature is kept as {self}")

    def __str__(self) -> str:
        merged = f" pool{self.pool}" if self.pool > 1 else f" tokens{self.tokens}" if self.tokens is not None else ""
        return f"{self.what} {self.precision}" + merged

    @classmethod
    def parse(cls, text: str) -> Representation:
        """Raises ValueError for anything that ``str`` does not give."""
        words = re.fullmatch(r"(\w+) (\w+)(?: (pool|tokens)(\d+))?", text)
        if words is None:
            raise ValueError(f"no feature is kept as {text!r}")
        what, precision, way, number = words.groups()
        found = cls(what, precision, **({way: int(number)} if way else {}))
        if str(found) != text:
            raise ValueError(f"no feature is kept as {text!r}")
        return found

    def merges(self, tokens: int) -> bool:
        """Whether of so many tokens fewer are kept."""
        return self.pool > 1 if self.tokens is None else tokens > self.tokens

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the tokens kept of a picture's."""
        if self.tokens is None:
            return -(-rows // self.pool), -(-columns // self.pool)
        return aimed_grid(rows, columns, self.tokens)


def encode(representation: Representation, hidden: Tensor | None = None, k: Tensor | None = None,
           v: Tensor | None = None, grid: tuple[int, int] | None = None,
           kept: Tensor | None = None) -> dict[str, Tensor]:
    """A feature's tensors by part, on its device or on the CPU, contiguous and sharing no memory with what was given.

    ``hidden`` ``[S, C]`` for "hidden", ``k`` and ``v`` ``[S, W]`` for "kv", any floating dtype; to merge tokens
    ``grid`` is needed, ``(rows, columns)`` with rows · columns = S. Of the tokens that are then left, only those that
    are True in ``kept`` stay, where that is given. ``S'`` tokens are left, numbers are kept as

    - ``h``, ``k``, ``v`` ``[S', C]``: own, fp16, bf16 as such; int8 and fp8 as steps from a centre; int4 packed, two to
      a byte: ``[S', ⌈C/2⌉]`` uint8, the first half of the channels in the low bits;
    - ``h.scale``, ``k.scale`` ``[2, C]`` and ``v.scale`` ``[2, S']`` bfloat16: step and centre. Keys are best rounded
      by channel and values by token (KIVI, Liu et al. 2024); the hidden state has the outlier channels of keys;
    - ``w`` ``[S']`` uint8: how many tokens each kept one stands for; left out where that is the same for all.

    Raises :class:`ReferenceProblem` for NaN and infinite numbers, for numbers that fp16 cannot hold, and for fp8 where
    this PyTorch has none; ValueError for shapes that do not fit.
    """
    parts: dict[str, Tensor] = {}
    given = {"h": hidden, "k": k, "v": v}
    for name in KINDS[representation.what]:
        feature = given[name]
        if feature is None or feature.dim() != 2 or 0 in feature.shape:
            raise ValueError(f"a {representation.what} feature needs {name} as tokens × width")
        feature = feature.detach()
        if representation.pool > 1:
            feature, counts = merge(feature, _checked(grid, len(feature)), representation.pool)
            if counts is not None:
                parts["w"] = counts
        elif representation.merges(len(feature)):
            rows, columns = _checked(grid, len(feature))
            feature = resampled(feature, (rows, columns), representation.grid(rows, columns))
        if kept is not None:
            feature = feature[kept.to(feature.device)]
            if "w" in parts and len(parts["w"]) == len(kept):
                parts["w"] = parts["w"][kept.to(parts["w"].device)]
        if representation.precision in _TOPS:
            parts[name], parts[f"{name}.scale"] = _quantise(feature, representation.precision, by_token=name == "v")
        else:
            parts[name] = _rounded(feature, _ROUNDED.get(representation.precision, feature.dtype))
    return parts


def decode(parts: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
    """What a layer needs of an encoded feature: ``{"h": [S', C]}`` or ``{"k": [S', W], "v": [S', W]}`` in ``dtype`` on
    ``device``, and ``"bias"`` ``[S']`` float32 where kept tokens stand for different numbers of tokens.

    The bias is ``log w``, to be added to the attention logits: a key that stands for w equal ones then weighs as they
    would. Numbers travel to the device as they are kept. Raises :class:`ReferenceProblem` where parts do not belong
    together.
    """
    found = {}
    for name in ("h", "k", "v"):
        if name in parts:
            found[name] = _decode_one(name, parts, dtype, device)
    if set(found) not in ({"h"}, {"k", "v"}) or len({part.shape for part in found.values()}) != 1:
        raise _inconsistent(", ".join(sorted(parts)) or "nothing")
    if "w" in parts:
        counts = _on(device, parts["w"])
        if counts.shape != next(iter(found.values())).shape[:1] or counts.is_floating_point():
            raise _inconsistent("w")
        found["bias"] = counts.float().clamp_(min=1).log_()
    return found


def encoded_bytes(representation: Representation, tokens: int | tuple[int, int], width_hidden: int, width_kv: int,
                  element_size: int) -> int:
    """Exactly the bytes of what :func:`encode` returns. ``tokens`` is the grid, or their number where none are merged;
    ``element_size`` the bytes of one of the model's own numbers. ValueError where a grid is needed."""
    if isinstance(tokens, int):
        if representation.merges(tokens):
            raise ValueError("merged tokens can be counted on a grid only")
        tokens = (1, tokens)
    own = {2: torch.float16, 4: torch.float32, 8: torch.float64}[element_size]
    width = width_hidden if representation.what == "hidden" else width_kv
    return sum(math.prod(shape) * dtype.itemsize for dtype, shape in described(representation, tokens, width,
                                                                               own).values())


def described(representation: Representation, grid: tuple[int, int], width: int, own: torch.dtype,
              part: Part | None = None) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of each part that :func:`encode` returns for a feature of ``grid`` tokens in the type ``own``, of
    a ``part`` of the picture where that is given."""
    left, precision = representation.grid(*grid), representation.precision
    count = math.prod(left) if part is None else part.count(left)
    found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    if differ(*grid, representation.pool):
        found["w"] = torch.uint8, (count,)
    for name in KINDS[representation.what]:
        if precision in _TOPS:
            kept = -(-width // 2) if precision == "int4" else width
            found[name] = _STEPS[precision], (count, kept)
            found[f"{name}.scale"] = torch.bfloat16, (2, count if name == "v" else width)
        else:
            found[name] = _ROUNDED.get(precision, own), (count, width)
    return found


def _quantise(feature: Tensor, precision: str, by_token: bool) -> tuple[Tensor, Tensor]:
    """Steps from a centre, and ``[2, channels or tokens]`` bfloat16 with both.

    Half of the range left after subtracting the centre is ``top`` steps long. Step and centre are rounded to bfloat16
    first, the step upwards, and the numbers are rounded with those: what is kept of the scale costs no accuracy.
    """
    top, dim = _TOPS[precision], 1 if by_token else 0
    feature, limit = feature.float(), torch.finfo(torch.bfloat16).max
    low, high = feature.amin(dim, keepdim=True), feature.amax(dim, keepdim=True)  # aminmax is far slower by channel
    _check_finite(low, high)
    centre = _bfloat16((low / 2 + high / 2).clamp(-limit, limit))
    there = centre.to(low)
    half = torch.maximum(high - there, there - low).clamp(max=limit)
    step = _bfloat16(half / top * (1 + 2.0**-8))
    steps = (feature - there) / torch.where(step > 0, step, 1).to(low)
    if precision == "int8":
        kept = steps.round_().clamp_(-top, top).to(torch.int8)
    elif precision == "fp8":
        kept = steps.clamp_(-top, top).to(_float8())
    else:
        kept = _pack(steps.add_(top).round_().clamp_(0, 2 * top).to(torch.int8).view(torch.uint8))
    return kept.contiguous(), torch.cat([step, centre], dim).mT.contiguous() if by_token else torch.cat([step, centre])


def _bfloat16(numbers: Tensor) -> Tensor:
    """Rounded to bfloat16: on the CPU where the device may have none (DirectML)."""
    return (numbers if numbers.device.type in ("cpu", "cuda") else numbers.cpu()).bfloat16()


def _on(device: torch.device | str, part: Tensor) -> Tensor:
    """A part on the device that computes, in a type that it has.

    Copies are waited for but from pinned memory to CUDA: elsewhere (MPS, XPU, DirectML) what is copied without waiting
    may arrive before it is there. Apple's MPS has neither float64 nor float8, DirectML no bfloat16.
    """
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda") and part.is_floating_point() and part.dtype != torch.float16:
        part = part.float()
    return part.to(device, non_blocking=kind == "cuda" and part.is_pinned())


def _decode_one(name: str, parts: Mapping[str, Tensor], dtype: torch.dtype, device) -> Tensor:
    if parts[name].dim() != 2:
        raise _inconsistent(name)
    scale = parts.get(f"{name}.scale")
    if scale is None and (not parts[name].is_floating_point() or parts[name].element_size() < 2):
        raise _inconsistent(name)
    kept = _on(device, parts[name])
    if scale is None:
        if dtype == torch.float16 != kept.dtype:  # bf16 and fp32 hold numbers that fp16 does not
            kept = kept.float().clamp(-65504, 65504)
        return kept.to(dtype)
    if kept.dtype == torch.uint8:
        width = (parts["k.scale"] if name == "v" and "k.scale" in parts else scale).shape[-1]
        if kept.shape[1] != -(-width // 2):
            raise _inconsistent(name)
        numbers = _unpack(kept, width).float().sub_(_TOPS["int4"])
    else:
        numbers = kept.float()
    if scale.shape != (2, numbers.shape[0 if name == "v" else 1]):
        raise _inconsistent(f"{name}.scale")
    step, centre = _on(device, scale).float()
    if name == "v":
        step, centre = step[:, None], centre[:, None]
    numbers.mul_(step).add_(centre)
    if dtype == torch.float16:  # the outermost step may lie a hair beyond the largest number
        numbers.clamp_(-65504, 65504)
    return numbers.to(dtype)


def _pack(numbers: Tensor) -> Tensor:
    """``[S, C]`` of 0 to 15 to ``[S, ⌈C/2⌉]`` bytes."""
    half = -(-numbers.shape[1] // 2)
    low, high = numbers[:, :half], F.pad(numbers[:, half:], (0, numbers.shape[1] % 2))
    return low | high << 4


def _unpack(packed: Tensor, width: int) -> Tensor:
    return torch.cat([packed & 15, packed >> 4], dim=1)[:, :width]


def _float8() -> torch.dtype:
    if not hasattr(torch, "float8_e4m3fn"):
        raise ReferenceProblem(f"PyTorch {torch.__version__} has no 8-bit floating point numbers; keep the reference "
                               "in int8, which is the same size and more exact.")
    return torch.float8_e4m3fn


def _rounded(feature: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in another precision. Raises :class:`ReferenceProblem` where it is not finite, before or after."""
    _check_finite(*torch.aminmax(feature))
    kept = feature.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if dtype == torch.float16 and feature.dtype != dtype and not _finite(*torch.aminmax(kept)):
        raise ReferenceProblem("This generation has numbers beyond the range of fp16 in its attention, so it was not "
                               "saved; keep references in bf16 or int8.")
    return kept


def _finite(low: Tensor, high: Tensor) -> bool:
    """Whether all numbers between these extremes are: NaN spreads to both."""
    return bool(torch.isfinite(torch.stack([low, high])).all())


def _check_finite(low: Tensor, high: Tensor) -> None:
    if not _finite(low, high):
        raise ReferenceProblem("This generation has NaN or infinite numbers in its attention, so it was not saved; try "
                               "full precision (--no-half) or another model.")


def _checked(grid: tuple[int, int] | None, tokens: int) -> tuple[int, int]:
    if grid is None or grid[0] * grid[1] != tokens:
        raise ValueError(f"{tokens} tokens cannot be merged on the grid {grid}")
    return grid


def _inconsistent(what: str) -> ReferenceProblem:
    return ReferenceProblem(f"The reference's features do not fit together ({what}); save the reference again.")
