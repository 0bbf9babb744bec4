"""Masks: where in the new picture a reference acts (Eq. 6 of the paper), and which part of it may be looked at."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...references.part import Part, counted
from ...references.picture import decoded
from ...words import ReferenceProblem, SettingsError, first_line
from .rfg import token_grid, token_mask

_LEAST = 1 / 255  # of a token: what is darker than a picture can tell is nothing
_ALPHA = ("RGBA", "LA", "PA")


class Mask:
    """A picture's mask, ``[H, W]`` float32 from 0 to 1, of any size and with soft edges: stretched over the picture."""

    def __init__(self, picture: Tensor) -> None:
        """Raises :class:`SettingsError` where it is 0 everywhere: nothing could act."""
        if picture.numel() == 0 or not float(picture.max()) > _LEAST:
            raise SettingsError("A mask is black everywhere, so nothing could be guided; paint white what it is for.")
        self._picture = picture.detach().float().clamp(0, 1).cpu()
        self._grids: dict[tuple[tuple[int, int], str], Tensor] = {}

    @property
    def picture(self) -> Tensor:
        """``[H, W]`` float32 from 0 to 1."""
        return self._picture

    @classmethod
    def given(cls, given: str | Image.Image, what: str) -> Mask:
        """Of an image or base64 text of one; ``what`` the user calls it. Raises :class:`SettingsError`."""
        try:
            return cls.of(decoded(given, what))
        except OSError as error:
            raise SettingsError(f"{what} cannot be read; give a PNG ({first_line(error, 80)}).") from error

    @classmethod
    def of(cls, image: Image.Image) -> Mask:
        """Of a picture, see :func:`grey`."""
        return cls(torch.from_numpy(np.array(grey(image), dtype=np.float32)) / 255)

    @classmethod
    def read(cls, kept: Any) -> Mask | None:
        """What :meth:`kept` wrote; None for anything else."""
        try:
            rows, columns = kept["grid"]
            values = np.frombuffer(base64.b64decode(kept["mask"], validate=True), np.uint8).reshape(rows, columns)
            return cls(torch.from_numpy(values.astype(np.float32)) / 255)
        except (KeyError, TypeError, ValueError, SettingsError):
            return None

    def kept(self) -> dict[str, Any]:
        """As plain JSON, in steps of 1/255."""
        values = (self._picture * 255).round().to(torch.uint8).numpy()
        return {"grid": list(values.shape), "mask": base64.b64encode(values.tobytes()).decode()}

    def over(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """``[rows·columns, 1]`` float32 on a device: each token's share of the mask, by area."""
        key = grid, str(device)
        if key not in self._grids:
            self._grids[key] = token_mask(self._picture, *grid).to(device)
        return self._grids[key]

    def part(self, size: tuple[int, int]) -> Part:
        """What it is of a picture whose latent has ``size`` (height, width)."""
        return Part.of(token_mask(self._picture, *size).reshape(size))

    def where(self, tokens: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """``[tokens, 1]``: of a layer of the picture that is drawn, whose latent has ``size`` (height, width). Raises
        :class:`ReferenceProblem` where its tokens are no grid of the picture."""
        try:
            return self.over(token_grid(tokens, *size), device)
        except ValueError as error:
            raise ReferenceProblem("A mask needs every layer's tokens to be places of the picture, which they are not "
                                   "here; switch token merging, HyperTile and tiled drawing off, or take the mask "
                                   "out.") from error


def grey(image: Image.Image) -> Image.Image:
    """What a picture says as a mask, "L": its alpha where something is transparent, else its brightness."""
    if image.mode in _ALPHA or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:
            return alpha
    return image.convert("RGB").convert("L")


def looked_at(k: Tensor, v: Tensor, bias: Tensor | None, share: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Only the keys and values ``[S, W]`` that a mask lets be looked at: ``share`` ``[S, 1]`` from 0 to 1.

    A token at a soft edge weighs as its share says: ``log share`` is added to its ``bias`` of the logits, as for merged
    tokens. At least one token is left, that of the largest share.
    """
    share = share[:, 0].to(k.device)
    kept = counted(share)
    weights = share[kept]
    found = bias[kept] if bias is not None else None
    if bool((weights < 1).any()):
        soft = weights.log()
        found = soft if found is None else found + soft
    return k[kept], v[kept], found
