"""A UNet of three self-attention layers in the original layout, and what calls it in each family of web UIs.

The hosts' orders are theirs: AUTOMATIC1111 lines up every part of every picture's prompt, picture by picture, then the
negative prompts; Forge and its kin line up the parts, each for all pictures, and batch them from the last to the first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lib_refdrop.techniques.reference.rfg import attention

TOKENS, WIDTH, HEADS = 6, 16, 2
ALPHAS = torch.linspace(0.999, 0.005, 1000)
SIGMAS = ((1 - ALPHAS) / ALPHAS).sqrt()
STEPS = (900, 500, 100)  # timesteps
LEVELS = [SIGMAS[step].item() for step in STEPS]

Words = Sequence["str | list[str]"]  # for each picture of a batch the parts of its prompt


def attention_function(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """What the layers below run; Forge's has this name."""
    return attention(q, k, v, heads)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.dim_head = HEADS, WIDTH // HEADS
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0))
        self.hypernetwork: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q = self.to_q(x)
        context = x if context is None else context
        of_k, of_v = self.hypernetwork(context) if self.hypernetwork else (context, context)
        return self.to_out(attention_function(q, self.to_k(of_k), self.to_v(of_v), self.heads))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.norm1, self.index = SelfAttention(), nn.LayerNorm(WIDTH), 0

    def forward(self, x: Tensor, options: dict) -> Tensor:
        n, block = self.norm1(x), options.get("block")
        patches = options.get("patches_replace", {}).get("attn1", {}) if block else {}
        # A layer's goes before its block's.
        patch = patches.get((*block, self.index)) or patches.get(block) if block else None
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


class Part(nn.Sequential):
    def forward(self, x: Tensor, options: dict) -> Tensor:
        for layer in self:
            x = layer(x, options) if isinstance(layer, Transformer) else layer(x)
        return x


class UNet(nn.Module):
    """Latents are ``[B, T, 16]``, prompts ``[B, L, 16]``: their mean is added to every token."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.input_blocks = nn.ModuleList([Part(nn.Identity()), Part(nn.Identity(), Transformer())])
        self.middle_block = Part(nn.Identity(), Transformer())
        self.output_blocks = nn.ModuleList([Part(nn.Identity(), Transformer())])

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: dict | None = None) -> Tensor:
        return self.layers(x, timesteps, context, transformer_options)

    def layers(self, x: Tensor, timesteps: Tensor, context: Tensor, transformer_options: dict | None = None) -> Tensor:
        options = transformer_options if transformer_options is not None else {}
        if transformer_options is not None:
            options["original_shape"] = list(x.shape)
        h = self.input_blocks[0](x, options)
        h = h + context.mean(1, keepdim=True) + timesteps.reshape(-1, 1, 1).to(h) / 1000
        for place, part in ((("input", 1), self.input_blocks[1]), (("middle", 0), self.middle_block),
                            (("output", 0), self.output_blocks[0])):
            h = part(h, {**options, "block": place} if transformer_options is not None else {})
        return h


def latents(batch: int = 1, seed: int = 0) -> Tensor:
    """Picture ``i`` of a batch has seed + i, as in every web UI."""
    generators = [torch.Generator().manual_seed(seed + image) for image in range(batch)]
    return torch.stack([torch.randn(TOKENS, WIDTH, generator=generator) for generator in generators])


def prompt(word: str) -> Tensor:
    """``[1, L, 16]``; a word that begins with "long" is twice as long as others."""
    generator = torch.Generator().manual_seed(sum(map(ord, word)) + 7)
    return torch.randn(1, 12 if word.startswith("long") else 6, WIDTH, generator=generator)


def parts_of(words: Words) -> list[list[str]]:
    return [[word] if isinstance(word, str) else list(word) for word in words]


# --- AUTOMATIC1111 ---


class InnerModel(nn.Module):
    """What AUTOMATIC1111's denoiser calls: k-diffusion's wrapper of the model, which is given sigmas."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet, self.half = [unet], False
        self.register_buffer("sigmas", SIGMAS.clone())

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        timesteps = (self.sigmas[:, None] - sigma[None]).abs().argmin(0).float() + 0.3  # interpolated between its steps
        return self.unet[0](x, timesteps.half().float() if self.half else timesteps, context=cond)


class InnerTimesteps(nn.Module):
    """DDIM's: it is given timesteps."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = [unet]

    def forward(self, x: Tensor, timesteps: Tensor, cond: Tensor) -> Tensor:
        return self.unet[0](x, timesteps, context=cond)


class Denoiser(nn.Module):
    """AUTOMATIC1111's; in calls of ``chunk`` rows at most, cond and uncond apart where their prompts have other
    lengths."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.inner_model: nn.Module = InnerModel(unet)
        self.chunk: int | None = None
        self.skip_uncond = self.degraded = False
        self.image_cfg_scale: float | None = None
        self.edits = False
        self.negative = ""

    def forward(self, x: Tensor, sigma: Tensor, uncond: Any = None, cond: Any = None) -> Tensor:
        words = [part for image in cond.batch for part in image]
        owner = [at for at, image in enumerate(cond.batch) for _ in image]
        thirds = 2 if self.edits and self.image_cfg_scale not in (None, 1.0) else 1
        context = torch.cat([prompt(word) for word in words])
        others = torch.cat([prompt(self.negative)] * len(x) * thirds)
        rows, again = x[owner], torch.cat([x] * thirds)
        groups = [(rows, context)] if self.skip_uncond else [(rows, context), (again, others)]
        if not self.skip_uncond and context.shape[1] == others.shape[1]:
            groups = [(torch.cat([rows, again]), torch.cat([context, others]))]
        out = []
        for group_rows, group_context in groups:
            size = self.chunk or len(group_rows)
            for at in range(0, len(group_rows), size):
                each = group_rows[at:at + size]
                out.append(self.inner_model(each, sigma[:1].expand(len(each)), cond=group_context[at:at + size]))
        out = torch.cat(out)
        negative = out[len(words):len(words) + len(x)] if not self.skip_uncond else None
        made = []
        for image in range(len(x)):
            own = [out[row] for row, each in enumerate(owner) if each == image]
            base = own[0] if negative is None else negative[image]
            made.append(base + sum(3 * (each - base) for each in own))
        result = torch.stack(made)
        if thirds == 2:
            result = result + 0.5 * (negative - out[-len(x):])
        if self.degraded:  # Self-Attention Guidance: once more, on another picture
            worse = self.inner_model(0.9 * x, sigma, cond=prompt(self.negative).expand(len(x), -1, -1))
            result = result + 0.5 * (result - worse)
        return result


def a1111(unet: UNet) -> SimpleNamespace:
    """A processing object of AUTOMATIC1111, as far as it matters."""
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=unet), alphas_cumprod=ALPHAS,
                            sd_checkpoint_info=object())
    return SimpleNamespace(sd_model=model, sampler=SimpleNamespace(model_wrap_cfg=Denoiser(unet)), sampler_name="Euler")


def sample_a1111(p: SimpleNamespace, words: Words, seed: int = 0, prompts: Sequence[Words] = ()) -> Tensor:
    """Three steps; with ``prompts`` each has words of its own."""
    denoiser, x = p.sampler.model_wrap_cfg, latents(len(words), seed)
    for step, timestep in enumerate(STEPS):
        level = SIGMAS[timestep].item() if hasattr(denoiser.inner_model, "sigmas") else float(timestep)
        parts = parts_of(prompts[step] if prompts else words)
        made = denoiser(x, torch.full((len(x),), level), uncond=[""], cond=SimpleNamespace(batch=parts))
        x = 0.5 * x + 0.5 * made.tanh()
    return x


# --- Forge and its kin ---


class Condition:
    def __init__(self, cond: Tensor) -> None:
        self.cond = cond

    def can_concat(self, other: Condition) -> bool:
        return self.cond.shape == other.cond.shape


class KModel:
    """Forge's model: what its conditions are called on, and with what predictor."""

    def __init__(self, unet: nn.Module, prediction_type: str = "epsilon") -> None:
        self.diffusion_model, self.predictor = unet, SimpleNamespace(prediction_type=prediction_type)

    def apply_model(self, x: Tensor, sigma: Tensor, c_crossattn: Tensor, transformer_options: dict) -> Tensor:
        timesteps = (SIGMAS[:, None] - sigma[None]).abs().argmin(0).float()
        return self.diffusion_model(x, timesteps, context=c_crossattn, transformer_options=transformer_options)


class Patcher:
    """Forge's UNet patcher, as far as it matters."""

    def __init__(self, model: KModel) -> None:
        self.model, self.model_options = model, {"transformer_options": {}}

    def clone(self) -> Patcher:
        new = Patcher(self.model)
        new.model_options = copy.deepcopy(self.model_options)
        return new

    def set_model_attn1_replace(self, patch: Any, block_name: str, number: int,
                                transformer_index: int | None = None) -> None:
        place = (block_name, number) if transformer_index is None else (block_name, number, transformer_index)
        patches = self.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault("attn1", {})
        patches[place] = patch

    def set_model_attn1_patch(self, patch: Any) -> None:
        self.model_options["transformer_options"].setdefault("patches", {}).setdefault("attn1_patch", []).append(patch)

    def add_conditioning_modifier(self, modifier: Any) -> None:
        self.model_options.setdefault("conditioning_modifiers", []).append(modifier)

    def set_model_sampler_post_cfg_function(self, function: Any) -> None:
        self.model_options.setdefault("sampler_post_cfg_function", []).append(function)

    def set_model_unet_function_wrapper(self, wrapper: Any) -> None:
        self.model_options["model_function_wrapper"] = wrapper


def conditions(words: Sequence[str]) -> dict[str, Any]:
    """One part of the prompt, for every picture."""
    return {"model_conds": {"c_crossattn": Condition(torch.cat([prompt(word) for word in words]))}, "strength": 1.0}


def call_model(model: KModel, cond: list[dict], uncond: list[dict] | None, x: Tensor, sigma: Tensor, options: dict,
               most: int = 99) -> tuple[Tensor, Tensor]:
    """The prompt's and the negative one's prediction, in calls of at most ``most`` chunks."""
    waiting = [(each, 0) for each in cond] + [(each, 1) for each in uncond or ()]
    sums, counts = [torch.zeros_like(x), torch.zeros_like(x)], [0, 0]
    while waiting:
        first = waiting[0][0]["model_conds"]["c_crossattn"]
        fit = [each for each in waiting if each[0]["model_conds"]["c_crossattn"].can_concat(first)]
        batch = list(reversed(fit))[:most]
        waiting = [each for each in waiting if not any(each is taken for taken in batch)]
        told = {**options["transformer_options"], "cond_or_uncond": [side for _, side in batch], "sigmas": sigma,
                "cond_indices": [], "uncond_indices": []}
        c = {"c_crossattn": torch.cat([each["model_conds"]["c_crossattn"].cond for each, _ in batch]),
             "transformer_options": told}
        rows, levels = torch.cat([x] * len(batch)), torch.cat([sigma] * len(batch))
        wrapper = options.get("model_function_wrapper")
        made = (wrapper(model.apply_model, {"input": rows, "timestep": levels, "c": c,
                                            "cond_or_uncond": told["cond_or_uncond"]}) if wrapper
                else model.apply_model(rows, levels, **c))
        for (_, side), out in zip(batch, made.chunk(len(batch))):
            sums[side] = sums[side] + out
            counts[side] += 1
    return sums[0] / counts[0], sums[1] / max(counts[1], 1)


def guide(model: KModel, x: Tensor, sigma: Tensor, uncond: list[dict] | None, cond: list[dict], scale: float,
          options: dict, most: int = 99) -> Tensor:
    """Classifier-free guidance of one step, with what extensions add behind it."""
    wanted = None if math.isclose(scale, 1.0) and not options.get("disable_cfg1_optimization") else uncond
    positive, negative = call_model(model, cond, wanted, x, sigma, options, most)
    made = negative + scale * (positive - negative)
    for function in options.get("sampler_post_cfg_function", []):
        made = function({"denoised": made, "cond_denoised": positive, "uncond_denoised": negative, "cond": cond,
                         "uncond": uncond, "model": model, "sigma": sigma, "input": x, "model_options": options})
    return made


def forge(unet: nn.Module, prediction_type: str = "epsilon") -> SimpleNamespace:
    """A processing object of Forge, as far as it matters."""
    patcher = Patcher(KModel(unet, prediction_type))
    return SimpleNamespace(sd_model=SimpleNamespace(forge_objects=SimpleNamespace(unet=patcher), alphas_cumprod=ALPHAS))


def sample_forge(p: SimpleNamespace, words: Words, seed: int = 0, scale: float = 4.0, most: int = 99,
                 negative: str = "", prompts: Sequence[Words] = ()) -> Tensor:
    """Three steps; with ``prompts`` each has words of its own."""
    patcher, x = p.sd_model.forge_objects.unet, latents(len(words), seed)
    for step, timestep in enumerate(STEPS):
        sigma = torch.full((len(x),), SIGMAS[timestep].item())
        cond = [conditions(each) for each in zip(*parts_of(prompts[step] if prompts else words))]
        given = (patcher.model, x, sigma, [conditions([negative] * len(x))], cond, scale, patcher.model_options, seed)
        for modifier in patcher.model_options.get("conditioning_modifiers", []):
            given = modifier(*given)
        model, x_in, sigma, uncond, cond, strength, options, _ = given
        x = 0.5 * x + 0.5 * guide(model, x_in, sigma, uncond, cond, strength, options, most).tanh()
    return x


def perturb(patcher: Patcher, scale: float = 2.0) -> None:
    """Perturbed-Attention Guidance: behind each step one more call, with the middle block's attention replaced for
    it."""

    def function(args: dict) -> Tensor:
        options = args["model_options"]
        patches = options["transformer_options"].get("patches_replace", {}).get("attn1", {})
        over = {"patches_replace": {"attn1": {**patches, ("middle", 0): lambda q, k, v, extra: v}}}
        worse = {**options, "transformer_options": {**options["transformer_options"], **over}}
        less, _ = call_model(args["model"], args["cond"], None, args["input"], args["sigma"], worse)
        return args["denoised"] + scale * (args["cond_denoised"] - less)

    patcher.set_model_sampler_post_cfg_function(function)


def prepend_reference(patcher: Patcher) -> None:
    """A reference preprocessor: before each step's own calls one on a picture of its own, at the same level."""
    other = latents(1, seed=99)

    def modifier(model: KModel, x: Tensor, sigma: Tensor, uncond: Any, cond: Any, scale: float, options: dict,
                 seed: Any) -> tuple:
        guide(model, other.expand_as(x) + sigma[0] * 0.1, sigma, uncond, cond, 1.0, options)
        return model, x, sigma, uncond, cond, scale, options, seed

    patcher.add_conditioning_modifier(modifier)


def in_tiles(patcher: Patcher, at_once: int) -> None:
    """MultiDiffusion: halves of the picture, ``at_once`` of them in a call, tile after tile."""

    def wrapper(model_function: Any, args: dict) -> Tensor:
        x, c = args["input"], args["c"]
        tiles = [x[:, :TOKENS // 2], x[:, TOKENS // 2:]]
        out = []
        for start in range(0, 2, at_once):
            some = tiles[start:start + at_once]
            made = model_function(torch.cat(some), torch.cat([args["timestep"]] * len(some)), **{
                **c, "c_crossattn": torch.cat([c["c_crossattn"]] * len(some))})
            out += made.chunk(len(some))
        return torch.cat(out, dim=1)

    patcher.set_model_unet_function_wrapper(wrapper)
