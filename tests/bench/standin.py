"""A UNet of which only the self-attention layers run: what a reference keeps of a generation, without its computing.

A reference's size depends on shapes only, so numbers drawn at random fill the files as well as true ones would.
"""

from __future__ import annotations

import types

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lib_refdrop.hosts.diffusers import lineage_of, outputs, self_attentions
from lib_refdrop.references.sizes import tokens

from .models import Model, fill

_PARTS = 64  # of the numbers drawn, of which each layer and call takes another


def hollow(model: Model) -> UNet2DConditionModel:
    """A UNet whose layers get hidden states of their true shapes and compute nothing with them."""
    return _stand_in(model, compute=False)


def attention_only(model: Model) -> UNet2DConditionModel:
    """A UNet whose self-attention layers get hidden states of their true shapes and compute as ever, with weights of
    their own; all other layers are missing."""
    return _stand_in(model, compute=True)


def _stand_in(model: Model, compute: bool) -> UNet2DConditionModel:
    unet = model.empty()
    lineage, picture, layers = lineage_of(unet), model.picture(), self_attentions(unet)
    shapes = {}
    for site, layer in layers.items():
        rows, columns = tokens(site, lineage, picture)
        shapes[site] = len(model.rows), rows * columns, layer.to_k.in_features
        if compute:
            fill(layer.to_empty(device="cpu").named_modules())
        else:
            layer.processor = lambda layer, hidden_states, *args, **kwargs: hidden_states
    states = _States(max(batch * count * width for batch, count, width in shapes.values()), model.dtype)

    ends = outputs(unet)
    for module in ends.values():
        module.forward = lambda given: given

    def forward(self, sample: Tensor, timestep, encoder_hidden_states: Tensor, added_cond_kwargs=None,
                return_dict: bool = False) -> tuple[Tensor]:
        for site, layer in layers.items():
            layer(states.next(shapes[site]))
        for block, module in ends.items():
            module(states.next((len(model.rows), lineage.blocks[block], 1, 1)))  # of which statistics are kept only
        return (sample,)

    unet.forward = types.MethodType(forward, unet)
    return unet


class _States:
    """Hidden states of any shape, cut from one row of random numbers."""

    def __init__(self, most: int, dtype: torch.dtype) -> None:
        self._numbers = torch.randn(most + most // 2, generator=torch.Generator().manual_seed(0)).to(dtype)
        self._turn = 0

    def next(self, shape: tuple[int, ...]) -> Tensor:
        count = torch.Size(shape).numel()
        self._turn = (self._turn + 1) % _PARTS
        start = (len(self._numbers) - count) * self._turn // _PARTS
        return self._numbers[start:start + count].view(shape)
