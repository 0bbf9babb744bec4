"""The adapter for diffusers' UNets: SD1.5, SD2 and SDXL shaped, whatever attention processors they run.

Hooks on every ``attn1`` module take what the processor that is there computes (SDPA, sliced, xformers, LoRA…) as the
plain half. Nothing is replaced, so there is nothing to put back but the hooks themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..model.layer import PromptInput
from ..model.rows import Row
from ..model.schedule import FlowClock, SigmaClock
from ..model.sites import Block, Lineage, Site, SiteShape
from ..references.inversion import EPS, FLOW, V
from ..techniques.sampling_pass import SamplingPass
from .hooked_layer import HookedLayer
from .hooked_prompt import cross_attentions, hooked_prompts
from .hooks import block_hooks

_NAME = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.attn1")

Clock = Callable[[float], float]  # from a timestep to its noise level

# Of which pass a replay runs: to the others on the same model its call is none of theirs.
_replaying: ContextVar[bool] = ContextVar("replaying", default=False)


def self_attentions(unet: nn.Module) -> dict[Site, nn.Module]:
    """Every self-attention layer by its site."""
    return {site: place.layer for site, place in _placed(unet).items()}


def lineage_of(unet: nn.Module, flow: bool = False) -> Lineage:
    """The lineage of a UNet; without sites for a model that is no such UNet."""
    return Lineage({site: SiteShape(layer.heads, layer.to_k.out_features, level)
                    for site, (layer, level, _) in _placed(unet).items()}, flow)


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is one of rectified flow, whose sigma goes from 0 to 1."""
    config = scheduler.config
    return bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction" \
        or "FlowMatch" in type(scheduler).__name__


def clock_of(scheduler: Any) -> Clock:
    """How a scheduler's timesteps stand for noise levels."""
    if is_flow(scheduler):
        return FlowClock(float(scheduler.config.get("num_train_timesteps", 1000)))
    if hasattr(scheduler, "precondition_noise"):  # EDM (Karras et al. 2022): a quarter of log sigma
        return lambda timestep: math.exp(4 * timestep)
    return SigmaClock(scheduler.alphas_cumprod)


def prediction_of(scheduler: Any) -> str:
    """What the output of a scheduler's model is: "eps", "v", "flow", or empty for something else."""
    if is_flow(scheduler):
        return FLOW
    if hasattr(scheduler, "precondition_noise"):
        return ""
    return {"epsilon": EPS, "v_prediction": V}.get(scheduler.config.get("prediction_type", "epsilon"), "")


class _Place(NamedTuple):
    """A self-attention layer, how often the picture is halved there, and the module that gives its block's output."""

    layer: Any
    level: int
    output: nn.Module


def _placed(unet: Any) -> dict[Site, _Place]:
    """Self-attention layers by site.

    diffusers counts blocks by level; the original layout counts resnets, with a convolution as input block 0 and one
    after each level of the way down. There an up-sampling belongs to the block before it, and the middle block ends
    with a resnet.
    """
    found = {}
    for name, block in unet.named_modules():
        match = _NAME.fullmatch(name + ".attn1")
        if match and hasattr(block, "attn1") and not getattr(block, "only_cross_attention", False):
            way, level, within, index = match.group(1), *(int(part or 0) for part in match.groups()[1:])
            before, deepest = sum(_resnets(unet, way, earlier) for earlier in range(level)), len(unet.down_blocks) - 1
            if way == "down":
                output = unet.down_blocks[level].attentions[within]
                found[Site("input", 1 + before + level + within, index)] = _Place(block.attn1, level, output)
            elif way == "up":
                around = unet.up_blocks[level]
                last = within == len(around.attentions) - 1 and around.upsamplers
                output = around.upsamplers[-1] if last else around.attentions[within]
                found[Site("output", before + within, index)] = _Place(block.attn1, deepest - level, output)
            else:
                found[Site("middle", 0, index)] = _Place(block.attn1, deepest, unet.mid_block.resnets[-1])
    return found


def outputs(unet: Any) -> dict[Block, nn.Module]:
    """What gives the output of each block that has self-attention."""
    return {Block(site.section, site.block): place.output for site, place in _placed(unet).items()}


@contextmanager
def attached(unet: nn.Module, sampling_pass: SamplingPass, rows: Callable[[int], Sequence[Row]],
             clock: Clock | Tensor, prediction: str = "") -> Iterator[None]:
    """Publishes to ``sampling_pass`` while the block runs; afterwards, or after an exception, the UNet is as it was.

    ``rows(batch)`` names each row of a UNet batch; ``clock`` gives the noise level of a timestep (:func:`clock_of`),
    or is the ``alphas_cumprod`` of a scheduler; ``prediction`` is that of :func:`prediction_of`.
    """
    level = SigmaClock(clock) if isinstance(clock, Tensor) else clock

    def before_call(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if not _replaying.get():
            try:
                call = _Call(unet, args, kwargs, prediction)
                sampling_pass.call(level(call.timestep), rows(call.sample.shape[0]), call)
            except Exception as error:  # not to end the pipeline's model call
                sampling_pass.failed(error)

    handles = [unet.register_forward_pre_hook(before_call, with_kwargs=True)]
    try:
        for site, layer in self_attentions(unet).items():
            handles += HookedLayer(layer, _at(sampling_pass, site), "hidden_states", "encoder_hidden_states").handles
        if sampling_pass.hears_blocks:
            handles += block_hooks(outputs(unet), _block(sampling_pass))
        handles += hooked_prompts(cross_attentions(self_attentions(unet), unet), sampling_pass.cross_sites,
                                  _sees_prompt(sampling_pass))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _at(sampling_pass: SamplingPass, site: Site) -> Callable[[Tensor, HookedLayer], Tensor]:
    def at(own: Tensor, layer: HookedLayer) -> Tensor:
        if _replaying.get() and not sampling_pass.replaying:
            return own
        return sampling_pass.attention(site, own, layer)

    return at


def _block(sampling_pass: SamplingPass) -> Callable[[Block, Tensor], Tensor]:
    def block(block: Block, output: Tensor) -> Tensor:
        if _replaying.get() and not sampling_pass.replaying:
            return output
        return sampling_pass.block(block, output)

    return block


def _sees_prompt(sampling_pass: SamplingPass) -> Callable[[Site, int, PromptInput], None]:
    def sees(site: Site, rows: int, layer: PromptInput) -> None:
        if not _replaying.get() or sampling_pass.replaying:
            sampling_pass.cross_attention(site, layer)

    return sees


def encoded(vae: Any, pixels: Tensor, device: torch.device | str | None = None) -> Tensor:
    """The latent ``[C, h, w]``, float32, that a model is called on for a picture ``[1, 3, height, width]`` from 0 to 1:
    the mean of what the encoder says, in the model's scale. ``device`` is where the VAE runs, if not where it is."""
    given, config = pixels.to(device or vae.device) * 2 - 1, vae.config
    low = vae.dtype if vae.dtype != torch.float32 and getattr(config, "force_upcast", False) else None
    try:
        if low:  # SDXL's own overflows in half precision
            vae.to(torch.float32)
        with torch.no_grad():
            latent = vae.encode(given.to(vae.dtype), return_dict=False)[0].mode()[0].float()
    finally:
        if low:
            vae.to(low)
    mean, deviation = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
    if mean is not None and deviation is not None:
        mean, deviation = (torch.tensor(each).to(latent).reshape(-1, 1, 1) for each in (mean, deviation))
        latent = (latent - mean) / deviation
    return latent * config.scaling_factor


class DiffusersAdapter:
    """Reaches the pipeline of a processing object: ``p.sd_model.unet``, with ``p.rows(batch)`` naming each row, and
    ``p.sigmas`` the noise levels of the pass where it has them."""

    @staticmethod
    def fits(p: Any) -> bool:
        unet = getattr(getattr(p, "sd_model", None), "unet", None)
        return callable(getattr(p, "rows", None)) and isinstance(unet, nn.Module) and bool(self_attentions(unet))

    def lineage(self, p: Any) -> Lineage:
        return lineage_of(p.sd_model.unet, is_flow(p.sd_model.scheduler))

    def element_size(self, p: Any) -> int:
        return torch.empty(0, dtype=p.sd_model.unet.dtype).element_size()

    def sigmas(self, p: Any) -> list[float] | None:
        levels = getattr(p, "sigmas", None)
        return None if levels is None else [float(level) for level in levels if level > 0]

    def attach(self, p: Any, sampling_pass: SamplingPass) -> DiffusersAttachment:
        stack = ExitStack()
        scheduler = p.sd_model.scheduler
        stack.enter_context(attached(p.sd_model.unet, sampling_pass, p.rows, clock_of(scheduler),
                                     prediction_of(scheduler)))
        return DiffusersAttachment(stack)


class DiffusersAttachment:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def detach(self) -> None:
        self._stack.close()


class _Call:
    """A call of the UNet, as :class:`~lib_refdrop.model.layer.HostCall`."""

    def __init__(self, unet: nn.Module, args: tuple, kwargs: dict, prediction: str) -> None:
        self.prediction = prediction
        self._unet, given = unet, dict(zip(("sample", "timestep", "encoder_hidden_states"), args)) | kwargs
        self.sample, self._context = given["sample"], given["encoder_hidden_states"]
        self._added = given.get("added_cond_kwargs") or {}
        step = given["timestep"]
        self.timestep = float(step.flatten()[0]) if isinstance(step, Tensor) else float(step)
        self.size = (self.sample.shape[-2], self.sample.shape[-1])

    def inputs(self, row: int) -> dict[str, Tensor]:
        conditioning = {"context": self._context, **self._added}
        return {"x": self.sample[row], "t": torch.tensor([self.timestep]),
                **{name: value[row] for name, value in conditioning.items()}}

    def run(self, rows: Sequence[Mapping[str, Tensor]]) -> Tensor:
        batch = {name: torch.stack([row[name] for row in rows]).to(self.sample.device) for name in rows[0]}
        like = self.sample.dtype
        added = {name: batch[name].to(value.dtype) for name, value in self._added.items()}
        replaying = _replaying.set(True)
        try:
            with torch.no_grad():
                return self._unet(batch["x"].to(like), batch["t"].flatten(),
                                  encoder_hidden_states=batch["context"].to(like), added_cond_kwargs=added or None,
                                  return_dict=False)[0]
        finally:
            _replaying.reset(replaying)


def _resnets(unet: nn.Module, way: str, level: int) -> int:
    return len((unet.down_blocks if way == "down" else unet.up_blocks)[level].resnets)
