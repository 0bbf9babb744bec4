"""The first RefDrop extension's way of keeping features, made again from its description, to compare with.

At every self-attention layer and every UNet call, K and V of the whole batch go into a ``.pt`` file each while a
reference is saved; while it is used, both are loaded there, and the layer's output is
``c·Attn(Q, K′, V′) + (1 − c)·Attn(Q, K, V)`` before its output projection. Calls are counted, not noise levels.
Sources: this project's notes on the method and on hosts (5,602 files and 7.3 GB for 512×768 pixels and 20 steps of
SDXL: 70 layers × 40 calls × K and V; 32 files and 185 MB for one step of SD1.5 at 512×512 in single precision).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lib_refdrop.hosts.diffusers import self_attentions
from lib_refdrop.techniques.reference.rfg import attention


@contextmanager
def saving(unet: nn.Module, folder: Path) -> Iterator[None]:
    """Everything is saved into ``folder`` while the block runs."""
    with _processors(unet, lambda number: _Saving(folder, number)):
        yield


@contextmanager
def using(unet: nn.Module, folder: Path, c: float) -> Iterator[None]:
    """What is in ``folder`` guides at coefficient ``c`` while the block runs."""
    with _processors(unet, lambda number: _Using(folder, number, c)):
        yield


def file_of(folder: Path, call: int, layer: int, part: str) -> Path:
    """Where ``part`` ("k" or "v") of one layer and call lies."""
    return folder / f"{call:04d}_{layer:03d}_{part}.pt"


def overhead(like: Tensor) -> int:
    """The bytes of a ``.pt`` file that are not the tensor's numbers."""
    target = io.BytesIO()
    torch.save(like, target)
    return target.tell() - like.nbytes


class _Processor:
    """Takes a layer's attention over, as the original does."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._number, self._call = folder, number, 0

    def __call__(self, layer: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, temb: Tensor | None = None) -> Tensor:
        q, k, v = layer.to_q(hidden_states), layer.to_k(hidden_states), layer.to_v(hidden_states)
        out = self.attend(q, k, v, layer.heads)
        self._call += 1
        return layer.to_out[1](layer.to_out[0](out))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        raise NotImplementedError

    def _file(self, part: str) -> Path:
        return file_of(self._folder, self._call, self._number, part)


class _Saving(_Processor):
    def attend(self, q, k, v, heads):
        torch.save(k, self._file("k"))
        torch.save(v, self._file("v"))
        return attention(q, k, v, heads)


class _Using(_Processor):
    def __init__(self, folder: Path, number: int, c: float) -> None:
        super().__init__(folder, number)
        self._c = c

    def attend(self, q, k, v, heads):
        own = attention(q, k, v, heads)
        kept = (torch.load(self._file(part), map_location=q.device, weights_only=True) for part in "kv")
        return self._c * attention(q, *kept, heads) + (1 - self._c) * own


@contextmanager
def _processors(unet: nn.Module, make) -> Iterator[None]:
    layers = list(self_attentions(unet).values())
    before = [layer.processor for layer in layers]
    try:
        for number, layer in enumerate(layers):
            layer.processor = make(number)
        yield
    finally:
        for layer, processor in zip(layers, before):
            layer.processor = processor
