"""UNets of the sizes people use, with random weights: how long one takes and what it leaves depends on shapes only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from lib_refdrop.hosts.diffusers import lineage_of
from lib_refdrop.model.sites import Lineage
from lib_refdrop.references.sizes import Picture

BOTH, ONE = ("uncond", "cond"), ("cond",)  # the rows of every UNet batch, as web UIs lay it out; at CFG 1
_CELL = 8  # pixels of a latent's cell, both ways
_TILE = 2**22

# As published with the models (unet/config.json); what is left out is the library's default.
SD15 = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2, "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}


@dataclass(frozen=True)
class Model:
    """A UNet to be made, and the picture (pixels, steps) that is made with it; ``key`` names it in the results."""

    key: str
    make: Callable[[], UNet2DConditionModel]
    width: int
    height: int
    steps: int
    dtype: torch.dtype = torch.float32
    rows: tuple[str, ...] = BOTH

    def empty(self) -> UNet2DConditionModel:
        """Its shape: weights that take no memory."""
        with torch.device("meta"):
            unet = self.make().eval().requires_grad_(False)
        return nn.Module.to(unet, self.dtype)  # diffusers' own warns of what might have been loaded from a file

    def filled(self, device: str, seed: int = 0) -> UNet2DConditionModel:
        """With random weights, that keep numbers in range."""
        unet = self.empty().to_empty(device=device)
        fill(unet.named_modules(), seed)
        return unet

    @cached_property
    def lineage(self) -> Lineage:
        return lineage_of(self.empty())

    def picture(self) -> Picture:
        """What a Save records of it."""
        return Picture(self.height // _CELL, self.width // _CELL, self.steps, len(self.rows),
                       torch.empty(0, dtype=self.dtype).element_size())


def demo(steps: int) -> Model:
    from demo.model import new_unet

    return Model("demo_128x128", new_unet, 128, 128, steps)


def sd15(steps: int, rows: tuple[str, ...] = BOTH) -> Model:
    return Model("sd15_512x512", lambda: UNet2DConditionModel(**SD15), 512, 512, steps, rows=rows)


def sdxl(steps: int) -> Model:
    """512 wide, 768 high, 16-bit numbers: bfloat16, the ones that processors compute with."""
    return Model("sdxl_512x768", lambda: UNet2DConditionModel(**SDXL), 512, 768, steps, torch.bfloat16)


def fill(modules: Iterable[tuple[str, nn.Module]], seed: int = 0) -> None:
    """Sets all weights: matrices normal with a variance of 1/inputs, norms to the identity, biases to 0.

    One tile of random numbers is used again and again: drawing 2.6 billion would take a minute.
    """
    generator = torch.Generator().manual_seed(seed)
    tile = torch.randn(_TILE, generator=generator)
    for _, module in modules:
        for name, weight in module.named_parameters(recurse=False):
            if name == "bias":
                weight.zero_()
            elif weight.dim() < 2:
                weight.fill_(1)
            else:
                _tile(weight.view(-1), tile.to(weight) / math.sqrt(weight[0].numel()))


def _tile(flat: Tensor, tile: Tensor) -> None:
    for start in range(0, len(flat), len(tile)):
        flat[start:start + len(tile)] = tile[:len(flat) - start]


@dataclass(frozen=True)
class Scene:
    """One generation: the noise it begins with and its conditioning, and a sampler (Euler's, CFG 5 or 1)."""

    noise: Tensor
    conditioning: dict
    steps: int
    rows: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, unet: UNet2DConditionModel, device: str, seed: int) -> Scene:
        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, model.dtype)

        generator, picture, config = torch.Generator().manual_seed(seed), model.picture(), unet.config
        given = {"encoder_hidden_states": draw(len(model.rows), 77, config.cross_attention_dim)}
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            given["added_cond_kwargs"] = {
                "text_embeds": draw(len(model.rows), pooled),
                "time_ids": torch.tensor([[model.height, model.width, 0, 0, model.height,
                                           model.width]] * len(model.rows),
                                         device=device, dtype=model.dtype)}
        return cls(draw(1, config.in_channels, picture.height, picture.width), given, model.steps, model.rows)

    @torch.no_grad()
    def draw(self, unet: nn.Module) -> Tensor:
        """The finished latent ``[1, C, h, w]``: one UNet call a step, its branches in one batch."""
        times = torch.linspace(999, 0, self.steps).round().long()
        sigmas = torch.cat([_sigmas()[times], torch.zeros(1)]).tolist()
        latent = self.noise * sigmas[0]
        for time, sigma, following in zip(times.tolist(), sigmas, sigmas[1:]):
            scaled = (latent / math.sqrt(sigma**2 + 1)).expand(len(self.rows), -1, -1, -1)
            made = unet(scaled, time, **self.conditioning, return_dict=False)[0]
            predicted = made if self.rows == ONE else made[:1] + 5 * (made[1:] - made[:1])
            latent = latent + (following - sigma) * predicted
        return latent


def alphas_cumprod() -> Tensor:
    """Stable Diffusion's noise schedule ("scaled linear"), 1000 timesteps."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)


def _sigmas() -> Tensor:
    alphas = alphas_cumprod()
    return ((1 - alphas) / alphas).sqrt()
