"""A diffusers UNet in k-diffusion's terms: ``D(x, sigma)``, the picture it sees in ``x``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .levels import ModelLevels


class Conditioning(NamedTuple):
    """What one row of the UNet is told: ``context`` ``[tokens, width]`` and, for SDXL, a pooled prompt ``[width]``."""

    context: Tensor
    pooled: Tensor | None = None


class DenoisingModel:
    """Wraps a pipeline's UNet, one that predicts the noise (eps), the velocity (v) or the picture itself."""

    def __init__(self, pipeline: Any, size: tuple[int, int] = (0, 0), cfg_scale: float = 1.0) -> None:
        """``size`` is the picture's height and width in pixels, of which SDXL is told; ``cfg_scale`` is for models that
        have guidance built in."""
        self.unet, self._size = pipeline.unet, size
        self.levels = ModelLevels(pipeline.scheduler.alphas_cumprod)
        self._predicts = pipeline.scheduler.config.get("prediction_type") or "epsilon"
        width = self.unet.config.time_cond_proj_dim
        self._guidance = None if width is None else pipeline.get_guidance_scale_embedding(
            torch.tensor([cfg_scale - 1.0]), embedding_dim=width).to(self.unet.device, self.unet.dtype)

    @property
    def guides_itself(self) -> bool:
        """Whether guidance is built into the UNet, so that it is called without unconditional rows."""
        return self._guidance is not None

    def __call__(self, x: Tensor, sigma: float, rows: Sequence[Conditioning]) -> Tensor:
        """D ``[B, C, h, w]`` of ``x`` ``[B, C, h, w]``, float32, with one :class:`Conditioning` a row, all as long."""
        unet, scale = self.unet, math.sqrt(sigma**2 + 1)
        given: dict[str, Any] = {"encoder_hidden_states": _stacked([row.context for row in rows], unet)}
        if rows[0].pooled is not None:
            ids = torch.tensor([[*self._size, 0, 0, *self._size]] * len(rows), dtype=unet.dtype, device=unet.device)
            given["added_cond_kwargs"] = {"text_embeds": _stacked([row.pooled for row in rows], unet), "time_ids": ids}
        if self._guidance is not None:
            given["timestep_cond"] = self._guidance.expand(len(rows), -1)
        said = unet((x / scale).to(unet.dtype), self.levels.timestep(sigma), return_dict=False, **given)[0].float()
        if self._predicts == "v_prediction":
            return x / scale**2 - said * (sigma / scale)
        return said if self._predicts == "sample" else x - sigma * said


def _stacked(rows: Sequence[Tensor], unet: Any) -> Tensor:
    return torch.stack(list(rows)).to(unet.device, unet.dtype)
