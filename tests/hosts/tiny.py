"""A UNet of three self-attention layers in the original layout, and what calls it in each family of web UIs."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lib_refdrop.techniques.reference.rfg import attention

WIDTH, HEADS = 16, 2
ALPHAS = torch.linspace(0.999, 0.005, 1000)


def attention_function(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """What the layers below run; Forge's has this name."""
    return attention(q, k, v, heads)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.dim_head = HEADS, WIDTH // HEADS
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.to_out(attention_function(self.to_q(x), self.to_k(x), self.to_v(x), self.heads))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.norm1, self.index = SelfAttention(), nn.LayerNorm(WIDTH), 0

    def forward(self, x: Tensor, options: dict) -> Tensor:
        n, block = self.norm1(x), options.get("block")
        patches = options.get("patches_replace", {}).get("attn1", {}) if block else {}
        patch = patches.get((*block, self.index)) or patches.get(block) if block else None  # a layer's before its block's
        if patch is None:
            return x + self.attn1(n, context=None)
        extra = {**options, "n_heads": HEADS, "dim_head": WIDTH // HEADS, "block_index": self.index}
        layer, context, value = self.attn1, n, n
        for look in options.get("patches", {}).get("attn1_patch", []):
            n, context, value = look(n, context, value, extra)
        return x + layer.to_out(patch(layer.to_q(n), layer.to_k(context), layer.to_v(value), extra)).reshape(x.shape)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([Block()])

    def forward(self, x: Tensor, options: dict) -> Tensor:
        for block in self.transformer_blocks:
            x = block(x, options)
        return x


class UNet(nn.Module):
    """Latents and "prompts" are both tokens ``[B, T, 16]``; a prompt is added to the latent."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Identity()]),
                                           nn.ModuleList([nn.Identity(), Transformer()])])
        self.middle_block = nn.ModuleList([nn.Identity(), Transformer()])
        self.output_blocks = nn.ModuleList([nn.ModuleList([nn.Identity(), Transformer()])])

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: dict | None = None) -> Tensor:
        options = {**(transformer_options or {}), "original_shape": list(x.shape)}
        x = x + context + timesteps.reshape(-1, 1, 1) / 1000
        for place, part in ((("input", 1), self.input_blocks[1]), (("middle", 0), self.middle_block),
                            (("output", 0), self.output_blocks[0])):
            x = part[1](x, {**options, "block": place})
        return x


def latents(batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 6, WIDTH, generator=torch.Generator().manual_seed(seed))


def prompt(word: str, batch: int = 1) -> Tensor:
    return latents(1, sum(map(ord, word))).expand(batch, -1, -1)


class Denoiser(nn.Module):
    """AUTOMATIC1111's: cond rows first, then uncond, in one call or in several of ``chunk`` rows."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet, self.chunk, self.skip_uncond = [unet], None, False

    def forward(self, x: Tensor, sigma: Tensor, uncond=None, cond=None) -> Tensor:
        parts = [word for image in cond.batch for word in image]
        context = torch.cat([prompt(word) for word in parts] + ([] if self.skip_uncond else [prompt("", len(x))]))
        rows = torch.cat([row.expand(len(image), -1, -1) for row, image in zip(x[:, None], cond.batch)]
                         + ([] if self.skip_uncond else [x]))
        calls = [part.split(self.chunk or len(rows)) for part in (rows, sigma[:1].expand(len(rows)), context)]
        out = torch.cat([self.unet[0](*call) for call in zip(*calls)])
        return out[:len(x)] if self.skip_uncond else out[-len(x):] + 3 * (out[:len(x)] - out[-len(x):])


def a1111(unet: UNet) -> SimpleNamespace:
    """A processing object of AUTOMATIC1111, as far as it matters."""
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=unet), alphas_cumprod=ALPHAS,
                            sd_checkpoint_info=object())
    return SimpleNamespace(sd_model=model, sampler=SimpleNamespace(model_wrap_cfg=Denoiser(unet)), sampler_name="Euler")


def sample_a1111(p: SimpleNamespace, words: list[list[str]], seed: int = 0) -> Tensor:
    """Three steps; ``words`` are the parts of each image's prompt."""
    x = latents(len(words), seed)
    for timestep in (900.0, 500.0, 100.0):
        x = 0.5 * x + 0.5 * p.sampler.model_wrap_cfg(x, torch.full((len(x),), timestep), uncond=[""],
                                                     cond=SimpleNamespace(batch=words))
    return x


class Patcher:
    """Forge's UNet patcher, as far as it matters."""

    def __init__(self, unet: UNet) -> None:
        self.model, self.model_options = SimpleNamespace(diffusion_model=unet), {"transformer_options": {}}

    def clone(self) -> Patcher:
        new = Patcher(self.model.diffusion_model)
        new.model_options = copy.deepcopy(self.model_options)
        return new

    def set_model_attn1_replace(self, patch, block_name: str, number: int, transformer_index: int | None = None) -> None:
        place = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
        self.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault("attn1", {})[place] = patch

    def set_model_attn1_patch(self, patch) -> None:
        self.model_options["transformer_options"].setdefault("patches", {}).setdefault("attn1_patch", []).append(patch)


def forge(unet: UNet) -> SimpleNamespace:
    """A processing object of Forge, as far as it matters."""
    return SimpleNamespace(sd_model=SimpleNamespace(forge_objects=SimpleNamespace(unet=Patcher(unet))))


def sample_forge(p: SimpleNamespace, words: list[str], seed: int = 0, layout: tuple[int, ...] = (1, 0),
                 perturbed: bool = False) -> Tensor:
    """Three steps; ``layout`` is the host's ``cond_or_uncond``, 0 for the prompt and 1 for none.

    With ``perturbed`` every step calls the model once more and puts something over the middle block's attention for that
    call, as Perturbed-Attention Guidance does.
    """
    patcher, x = p.sd_model.forge_objects.unet, latents(len(words), seed)
    contexts = {0: torch.cat([prompt(word) for word in words]), 1: prompt("", len(words))}
    for timestep in (900.0, 500.0, 100.0):
        sigma = torch.full((len(x),), (1 / ALPHAS[int(timestep)] - 1).sqrt().item())
        options = {**patcher.model_options["transformer_options"], "cond_or_uncond": list(layout), "sigmas": sigma}
        out = patcher.model.diffusion_model(torch.cat([x] * len(layout)), torch.tensor([timestep]),
                                            torch.cat([contexts[kind] for kind in layout]),
                                            transformer_options=options).chunk(len(layout))
        parts = {kind: torch.stack([part for part, each in zip(out, layout) if each == kind]).mean(0)
                 for kind in set(layout)}
        if perturbed:
            patches = options.get("patches_replace", {}).get("attn1", {})
            worse = {"patches_replace": {"attn1": {**patches, ("middle", 0): lambda q, k, v, extra: v}}}
            less = patcher.model.diffusion_model(x, torch.tensor([timestep]), contexts[0],
                                                 transformer_options={**options, "cond_or_uncond": [0], **worse})
            x = x + 2 * (parts[0] - less)
        x = 0.5 * x + 0.5 * (parts[0] if 1 not in parts else parts[1] + 3 * (parts[0] - parts[1]))
    return x
