"""UNets in the original layout (``ldm``, ``sgm``, what Forge and its kin made of them): their sites and their calls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..model.sites import Block, Lineage, Site, SiteShape

_NAME = re.compile(r"(?:(input|output)_blocks\.(\d+)\.\d+|middle_block\.\d+)\.transformer_blocks\.(\d+)\.attn1")


def self_attentions(unet: nn.Module) -> dict[Site, nn.Module]:
    """Every self-attention layer by its site; none for a model that is no such UNet.

    Some upscalers let ``attn1`` look at the prompt instead (``disable_self_attn``): those are no sites.
    """
    found = {}
    for name, block in unet.named_modules():
        layer = getattr(block, "attn1", None)
        match = _NAME.fullmatch(name + ".attn1") if isinstance(layer, nn.Module) else None
        if match and not getattr(block, "disable_self_attn", False):
            section, number, index = match.groups()
            found[Site(section or "middle", int(number or 0), int(index))] = layer
    return found


def outputs(unet: Any) -> dict[Block, nn.Module]:
    """The last module of each block that has self-attention: hosts call these one by one, not the block."""
    blocks = {Block(site.section, site.block) for site in self_attentions(unet)}
    return {block: (unet.middle_block if block.section == "middle" else
                    getattr(unet, f"{block.section}_blocks")[block.block])[-1] for block in sorted(blocks)}


def lineage_of(unet: nn.Module, flow: bool = False) -> Lineage:
    """The lineage of a UNet; without sites for a model that is no such UNet."""
    return Lineage({site: SiteShape(layer.heads, _width(layer), _level(unet, site))
                    for site, layer in self_attentions(unet).items()}, flow)


def _level(unet: nn.Module, site: Site) -> int:
    """How often the picture is halved before a site: down-samplings so far, less the up-samplings on the way back."""
    way_down = unet.input_blocks[:site.block + 1] if site.section == "input" else unet.input_blocks
    way_up = unet.output_blocks[:site.block] if site.section == "output" else ()
    return _count(way_down, "Downsample") - _count(way_up, "Upsample")


def _count(blocks: Any, kind: str) -> int:
    return sum(type(module).__name__ == kind for block in blocks for module in block)


def _width(layer: Any) -> int:
    # Quantised layers do not always say how wide they are; where the head's size is known, that does.
    return layer.heads * layer.dim_head if hasattr(layer, "dim_head") else layer.to_k.out_features


def _as_computed(value: Tensor) -> Tensor:
    """In the precision that layers compute in: under autocast they round what they are given first, so that nothing is
    lost, and a trajectory is half the size."""
    kind = value.device.type
    if hasattr(torch, "get_autocast_dtype"):
        try:
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
        except RuntimeError:  # a device that knows no autocast
            return value
    elif kind == "cuda" and torch.is_autocast_enabled():
        dtype = torch.get_autocast_gpu_dtype()
    elif kind == "cpu" and torch.is_autocast_cpu_enabled():
        dtype = torch.get_autocast_cpu_dtype()
    else:
        return value
    return value.to(dtype) if value.is_floating_point() and dtype.itemsize < value.element_size() else value


class UNetCall:
    """:class:`~lib_refdrop.model.layer.HostCall` of such a UNet, as a trajectory keeps it and a replay repeats it.

    They take the latent already scaled to the model, a timestep, ``context`` and, in SDXL, ``y``; what else a host
    gives (its options, say) is given again in a replay, but for ``leave_out``. ``prediction`` is what the
    model's output is.
    """

    def __init__(self, unet: nn.Module, args: tuple, kwargs: Mapping[str, Any], leave_out: Sequence[str] = (),
                 prediction: str = "") -> None:
        given = dict(zip(("x", "timesteps", "context", "y"), args)) | dict(kwargs)
        self.x: Tensor = given.pop("x")
        self.prediction = prediction
        self._steps: Tensor = given.pop("timesteps")
        self._conditioning = {name: given.pop(name) for name in ("context", "y") if given.get(name) is not None}
        self._unet = unet
        self._rest = {name: value for name, value in given.items() if name not in leave_out and name != "y"}
        self.size = (self.x.shape[-2], self.x.shape[-1])

    @property
    def timestep(self) -> float:
        return float(self._steps.flatten()[0])

    def inputs(self, row: int) -> dict[str, Tensor]:
        steps = self._steps.flatten()
        return {"x": _as_computed(self.x[row]), "t": steps[min(row, len(steps) - 1)].reshape(1),
                **{name: _as_computed(value[row]) for name, value in self._conditioning.items()}}

    def run(self, rows: Sequence[Mapping[str, Tensor]]) -> Tensor:
        batch = {name: torch.stack([row[name] for row in rows]).to(self.x.device) for name in rows[0]}
        conditioning = {name: batch[name].to(value.dtype) for name, value in self._conditioning.items()}
        with torch.no_grad():
            return self._unet(batch["x"].to(self.x.dtype), batch["t"].flatten().to(self._steps.dtype), **conditioning,
                              **self._options(len(rows)))

    def _options(self, rows: int) -> dict[str, Any]:
        """What else the host gave, with its words about the batch as they are true of another one, of prompt rows."""
        options = self._rest.get("transformer_options")
        if not isinstance(options, dict):
            return self._rest
        true = {"cond_or_uncond": [0], "cond_indices": list(range(rows)), "uncond_indices": []}
        if isinstance(options.get("cond_mark"), Tensor):
            true["cond_mark"] = options["cond_mark"].new_zeros(rows)
        true = {name: value for name, value in true.items() if name in options}
        return {**self._rest, "transformer_options": {**options, **true}}
