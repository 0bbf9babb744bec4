"""What a host's adapter offers to a session: one self-attention layer, and one call of the UNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor


class SiteInput(Protocol):
    """A self-attention layer in the middle of a call; only what is asked for is computed."""

    def hidden(self, row: int) -> Tensor | None:
        """The normed hidden state that K and V of one batch row are projected from, ``[tokens, C]``; None where another
        extension makes them of something else."""

    def key_values(self, row: int) -> tuple[Tensor, Tensor]:
        """K and V of one batch row, each ``[tokens, width]``."""

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """K and V, each ``[S, width]``, of a hidden state ``[S, C]``: this layer's own projections."""

    def attend(self, rows: slice, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention of some rows' queries over one reference's k and v ``[S, width]``, in the form that the
        session was given the layer's own in: ``[rows, tokens, C]``. ``bias`` ``[S]`` is added to every query's logits."""


class ModelCall(Protocol):
    """A call of the UNet that is about to run."""

    size: tuple[int, int]  # the latent's height and width

    def inputs(self, row: int) -> dict[str, Tensor]:
        """What one batch row is called on: ``x`` ``[C, h, w]``, ``t`` and the conditioning by name, without batch."""

    def run(self, rows: Sequence[Mapping[str, Tensor]]) -> None:
        """Calls the UNet on other inputs instead, in the middle of this call; its layers tell the session as ever."""
