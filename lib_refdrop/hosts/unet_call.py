"""A call of a UNet in the original layout, as a trajectory keeps it and a replay repeats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class UNetCall:
    """:class:`~lib_refdrop.model.layer.HostCall` of ``ldm``, ``sgm`` and Forge-like UNets.

    They take the latent already scaled to the model, a timestep, ``context`` and, in SDXL, ``y``; what else a host
    gives (its options, say) is given again in a replay, but for ``leave_out``.
    """

    def __init__(self, unet: nn.Module, args: tuple, kwargs: Mapping[str, Any], leave_out: Sequence[str] = ()) -> None:
        given = dict(zip(("x", "timesteps", "context", "y"), args)) | dict(kwargs)
        self.x, self._steps = given.pop("x"), given.pop("timesteps")
        self._conditioning = {name: given.pop(name) for name in ("context", "y") if given.get(name) is not None}
        self._unet = unet
        self._rest = {name: value for name, value in given.items() if name not in leave_out and name != "y"}
        self.size = tuple(self.x.shape[-2:])

    @property
    def timestep(self) -> float:
        return float(self._steps.flatten()[0])

    def inputs(self, row: int) -> dict[str, Tensor]:
        steps = self._steps.flatten()
        return {"x": self.x[row], "t": steps[min(row, len(steps) - 1)].reshape(1),
                **{name: value[row] for name, value in self._conditioning.items()}}

    def run(self, rows: Sequence[Mapping[str, Tensor]]) -> None:
        batch = {name: torch.stack([row[name] for row in rows]).to(self.x.device) for name in rows[0]}
        conditioning = {name: batch[name].to(value.dtype) for name, value in self._conditioning.items()}
        with torch.no_grad():
            self._unet(batch["x"].to(self.x.dtype), batch["t"].flatten().to(self._steps.dtype), **conditioning,
                       **self._rest)
