"""Self-attention layers of UNets in the original layout (``ldm``, ``sgm`` and what Forge and its kin made of them)."""

from __future__ import annotations

import re

from torch import nn

from ..model.sites import Lineage, Site, SiteShape

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


def lineage_of(unet: nn.Module) -> Lineage:
    """The lineage of a UNet; without sites for a model that is no such UNet."""
    return Lineage({site: SiteShape(layer.heads, _width(layer), _level(unet, site))
                    for site, layer in self_attentions(unet).items()})


def _level(unet: nn.Module, site: Site) -> int:
    """How often the picture is halved before a site: down-samplings so far, less the up-samplings on the way back."""
    way_down = unet.input_blocks[:site.block + 1] if site.section == "input" else unet.input_blocks
    way_up = unet.output_blocks[:site.block] if site.section == "output" else ()
    return _count(way_down, "Downsample") - _count(way_up, "Upsample")


def _count(blocks, kind: str) -> int:
    return sum(type(module).__name__ == kind for block in blocks for module in block)


def _width(layer: nn.Module) -> int:
    # Quantised layers do not always say how wide they are; where the head's size is known, that does.
    return layer.heads * layer.dim_head if hasattr(layer, "dim_head") else layer.to_k.out_features
