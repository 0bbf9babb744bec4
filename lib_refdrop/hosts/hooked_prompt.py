"""Cross-attention layers under hooks: how queries are drawn to tokens of the prompt, whoever computes the layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..model.layer import PromptInput
from ..model.sites import Site

Sees = Callable[[Site, int, PromptInput], None]  # the site, the rows of its batch, the layer


def cross_attentions(self_attentions: Mapping[Site, nn.Module], unet: nn.Module) -> dict[Site, nn.Module]:
    """The layer that looks at the prompt behind each site's self-attention (``attn2`` beside ``attn1``), where there is
    one."""
    behind = {block.attn1: getattr(block, "attn2", None) for block in unet.modules() if hasattr(block, "attn1")}
    found = {site: behind.get(layer) for site, layer in self_attentions.items()}
    return {site: layer for site, layer in found.items() if isinstance(layer, nn.Module)}


def hooked_prompts(layers: Mapping[Site, nn.Module], wanted: Collection[Site], sees: Sees) -> list[Any]:
    """Hooks on the layers of the sites that are wanted, none on others; handles take them off."""
    return [handle for site, layer in layers.items() if site in wanted for handle in _HookedPrompt(site, layer,
                                                                                                   sees).handles]


class _HookedPrompt:
    """One layer as :class:`~lib_refdrop.model.layer.PromptInput`.

    Every implementation projects queries and then the prompt's keys, once; what is projected after that is of somebody
    else (a picture's tokens of an IP-Adapter, say).
    """

    def __init__(self, site: Site, layer: Any, sees: Sees) -> None:
        self._site, self._heads, self._sees = site, layer.heads, sees
        self._queries: Tensor | None = None  # between the one projection and the other
        self._keys: Tensor | None = None
        self.handles = [layer.to_q.register_forward_hook(self._queried), layer.to_k.register_forward_hook(self._keyed)]

    def logits(self, row: int, positions: Sequence[int]) -> Tensor:
        assert self._queries is not None and self._keys is not None
        q, k = (part.float().unflatten(-1, (self._heads, -1)).transpose(0, 1)
                for part in (self._queries[row], self._keys[row][list(positions)]))
        return q @ k.transpose(1, 2) / q.shape[-1] ** 0.5

    def _queried(self, to_q: nn.Module, args: tuple, queries: Tensor) -> None:
        self._queries = queries

    def _keyed(self, to_k: nn.Module, args: tuple, keys: Tensor) -> None:
        if self._queries is None or len(keys) != len(self._queries):
            return
        self._keys = keys
        try:
            self._sees(self._site, len(keys), self)
        finally:
            self._queries = self._keys = None
