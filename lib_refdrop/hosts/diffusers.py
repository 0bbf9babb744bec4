"""The adapter for diffusers' UNets: SD1.5, SD2 and SDXL shaped, whatever attention processors they run.

Hooks on every ``attn1`` module take what the processor that is there computes (SDPA, sliced, xformers, LoRA…) as the
plain half. Nothing is replaced, so there is nothing to put back but the hooks themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..techniques.sampling_pass import SamplingPass
from ..model.rows import Row
from ..model.sites import Lineage, Site, SiteShape
from ..model.schedule import SigmaClock
from .hooked_layer import HookedLayer

_NAME = re.compile(r"(?:(down|up)_blocks\.(\d+)|mid_block)\.attentions\.(\d+)\.transformer_blocks\.(\d+)\.attn1")


def self_attentions(unet: nn.Module) -> dict[Site, nn.Module]:
    """Every self-attention layer by its site."""
    return {site: layer for site, (layer, _) in _placed(unet).items()}


def lineage_of(unet: nn.Module) -> Lineage:
    """The lineage of a UNet; without sites for a model that is no such UNet."""
    return Lineage({site: SiteShape(layer.heads, layer.to_k.out_features, level)
                    for site, (layer, level) in _placed(unet).items()})


def _placed(unet: nn.Module) -> dict[Site, tuple[nn.Module, int]]:
    """Self-attention layers by site, each with how often the picture is halved there.

    diffusers counts blocks by level; the original layout counts resnets, with a convolution as input block 0 and one
    after each level of the way down.
    """
    found = {}
    for name, module in unet.named_modules():
        if match := _NAME.fullmatch(name):
            way, level, within, index = match.group(1), *(int(part or 0) for part in match.groups()[1:])
            before, deepest = sum(_resnets(unet, way, earlier) for earlier in range(level)), len(unet.down_blocks) - 1
            if way == "down":
                found[Site("input", 1 + before + level + within, index)] = module, level
            elif way == "up":
                found[Site("output", before + within, index)] = module, deepest - level
            else:
                found[Site("middle", 0, index)] = module, deepest
    return found


@contextmanager
def attached(unet: nn.Module, sampling_pass: SamplingPass, rows: Callable[[int], Sequence[Row]],
          alphas_cumprod: Tensor) -> Iterator[None]:
    """Publishes to ``sampling_pass`` while the block runs; afterwards, or after an exception, the UNet is as it was.

    ``rows(batch)`` names each row of a UNet batch; ``alphas_cumprod`` is the scheduler's.
    """
    clock = SigmaClock(alphas_cumprod)

    def before_call(module, args, kwargs):
        if not sampling_pass.replaying:
            call = _Call(unet, args, kwargs)
            sampling_pass.call(clock(call.timestep), rows(call.sample.shape[0]), call)

    handles = [unet.register_forward_pre_hook(before_call, with_kwargs=True)]
    try:
        for site, layer in self_attentions(unet).items():
            handles += HookedLayer(layer, partial(sampling_pass.attention, site), "hidden_states", "encoder_hidden_states").handles
        yield
    finally:
        for handle in handles:
            handle.remove()


class DiffusersAdapter:
    """Reaches the pipeline of a processing object: ``p.sd_model.unet``, with the branches named by ``p.branch_rows``."""

    @staticmethod
    def fits(p: Any) -> bool:
        unet = getattr(getattr(p, "sd_model", None), "unet", None)
        return callable(getattr(p, "branch_rows", None)) and isinstance(unet, nn.Module) and bool(self_attentions(unet))

    def lineage(self, p: Any) -> Lineage:
        return lineage_of(p.sd_model.unet)

    def element_size(self, p: Any) -> int:
        return torch.empty(0, dtype=p.sd_model.unet.dtype).element_size()

    def attach(self, p: Any, sampling_pass: SamplingPass) -> DiffusersAttachment:
        stack = ExitStack()
        stack.enter_context(attached(p.sd_model.unet, sampling_pass, partial(_rows, p), p.sd_model.scheduler.alphas_cumprod))
        return DiffusersAttachment(stack)


def _rows(p: Any, batch: int) -> list[Row]:
    """The rows of a UNet batch: as ``p.rows`` tells, or from the branches alone."""
    if hasattr(p, "rows"):
        return p.rows(batch)
    branches, seen = p.branch_rows(batch), dict[str, int]()
    rows = []
    for branch in branches:
        rows.append(Row(branch, seen.get(branch, 0)))
        seen[branch] = seen.get(branch, 0) + 1
    return rows


class DiffusersAttachment:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def detach(self) -> None:
        self._stack.close()


class _Call:
    """A call of the UNet, as :class:`~lib_refdrop.model.layer.HostCall`."""

    def __init__(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        self._unet, given = unet, dict(zip(("sample", "timestep", "encoder_hidden_states"), args)) | kwargs
        self.sample, self._context = given["sample"], given["encoder_hidden_states"]
        self._added = given.get("added_cond_kwargs") or {}
        step = given["timestep"]
        self.timestep = float(step.flatten()[0]) if isinstance(step, Tensor) else float(step)
        self.size = tuple(self.sample.shape[-2:])

    def inputs(self, row: int) -> dict[str, Tensor]:
        conditioning = {"context": self._context, **self._added}
        return {"x": self.sample[row], "t": torch.tensor([self.timestep]),
                **{name: value[row] for name, value in conditioning.items()}}

    def run(self, rows: Sequence[Mapping[str, Tensor]]) -> None:
        batch = {name: torch.stack([row[name] for row in rows]).to(self.sample.device) for name in rows[0]}
        like = self.sample.dtype
        added = {name: batch[name].to(value.dtype) for name, value in self._added.items()}
        with torch.no_grad():
            self._unet(batch["x"].to(like), batch["t"].flatten(), encoder_hidden_states=batch["context"].to(like),
                       added_cond_kwargs=added or None, return_dict=False)


def _resnets(unet: nn.Module, way: str, level: int) -> int:
    return len((unet.down_blocks if way == "down" else unet.up_blocks)[level].resnets)
