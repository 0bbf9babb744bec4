"""Classifier-free guidance round the model, row by row as web UIs lay them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...model.rows import Row
from .model import Conditioning, DenoisingModel


class Scheduled(Protocol):
    """A prompt whose conditioning may change on the way."""

    def at(self, step: int) -> Conditioning: ...


class Part(Protocol):
    """One part of an AND prompt."""

    schedule: Scheduled
    weight: float


class Interrupted(Exception):
    """The pass is to end; ``denoised`` is the last picture seen, None before the first."""

    def __init__(self, denoised: Tensor | None) -> None:
        super().__init__("interrupted")
        self.denoised = denoised


@dataclass(frozen=True)
class Guidance:
    """How strong, and where the unconditional rows are left out; the names are those of web UIs."""

    cfg_scale: float = 7.0
    total_steps: int = 1  # prompts are scheduled over so many
    s_min_uncond: float = 0.0  # below this sigma no unconditional rows at every other step …
    s_min_uncond_all: bool = False  # … or at every one
    skip_early_cond: float = 0.0  # nor in this first part of the steps
    batch_cond_uncond: bool = True  # one call for both halves, where prompts are as long


class CFGDenoiser:
    """``D(x, sigma)``: rows are every image's prompt parts, image after image, and then one unconditional row an image.

    ``rows`` names those of the UNet call that runs, ``sigma`` is its noise level. What is in ``after`` may put another
    picture in D's place: ``(D [B, C, h, w], sigma) -> D``.
    """

    def __init__(self, model: DenoisingModel, prompts: Sequence[Sequence[Part]], negatives: Sequence[Scheduled],
                 guidance: Guidance, stopped: Callable[[], bool] = lambda: False) -> None:
        """``prompts`` and ``negatives``: one entry an image. ``stopped`` is asked before every call."""
        self._model, self._prompts, self._negatives = model, prompts, negatives
        self._guidance, self._stopped = guidance, stopped
        self.step, self.sigma = 0, 0.0
        self.rows: list[Row] = []
        self.after: list[Callable[[Tensor, float], Tensor]] = []
        self.left_out = False  # unconditional rows were, at some step
        self._last: Tensor | None = None
        self.blend: Callable[[Tensor], Tensor] | None = None  # inpainting's: keeps what is not to change

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Raises :class:`Interrupted` when the job is to stop."""
        if self._stopped():
            raise Interrupted(self._last)
        self.sigma = sigma
        conditionings = [part.schedule.at(self.step) for parts in self._prompts for part in parts]
        rows = [Row("cond", image, part) for image, parts in enumerate(self._prompts) for part in range(len(parts))]
        guided = not self._skips(sigma)
        if guided:
            rows += [Row("uncond", image) for image in range(len(self._negatives))]
            conditionings += [negative.at(self.step) for negative in self._negatives]
        denoised = self._combined(self._called(x, sigma, rows, conditionings), rows, guided)
        for change in self.after:
            denoised = change(denoised, sigma)
        if self.blend:
            denoised = self.blend(denoised)
        self._last = denoised
        self.step += 1
        return denoised

    def _skips(self, sigma: float) -> bool:
        """Whether this step goes without unconditional rows."""
        asked = self._guidance
        if asked.cfg_scale == 1:
            return True
        early = asked.skip_early_cond > 0 and self.step / asked.total_steps <= asked.skip_early_cond
        late = (self.step % 2 == 1 or asked.s_min_uncond_all) and sigma < asked.s_min_uncond
        self.left_out = self.left_out or early or late
        return early or late

    def _called(self, x: Tensor, sigma: float, rows: Sequence[Row], conditionings: Sequence[Conditioning]) -> Tensor:
        """D of every row: in one call, or several where prompts are not as long, as web UIs divide them."""
        cond = sum(row.branch == "cond" for row in rows)
        conditionings = [*_as_long(conditionings[:cond]), *_as_long(conditionings[cond:])]
        together = self._guidance.batch_cond_uncond
        if together and len({len(each.context) for each in conditionings}) == 1:
            parts = [slice(0, len(rows))]
        else:
            size = len(x) * (2 if together else 1)
            parts = [slice(start, min(start + size, cond)) for start in range(0, cond, size)]
            if cond < len(rows):
                parts.append(slice(cond, len(rows)))
        seen = []
        for part in parts:
            self.rows = list(rows[part])
            seen.append(self._model(x[[row.image for row in self.rows]], sigma, conditionings[part]))
        return torch.cat(seen)

    def _combined(self, seen: Tensor, rows: Sequence[Row], guided: bool) -> Tensor:
        """``D_u + Σ w (D_c − D_u) · scale`` (Liu et al. 2022 for several parts); without D_u the first part's."""
        images, made = len(self._prompts), []
        for image, parts in enumerate(self._prompts):
            own = [place for place, row in enumerate(rows) if row.branch == "cond" and row.image == image]
            base = seen[len(rows) - images + image] if guided else seen[own[0]]
            made.append(base + sum((seen[place] - base) * (part.weight * self._guidance.cfg_scale)
                                   for place, part in zip(own, parts)))
        return torch.stack(made)


def _as_long(conditionings: Sequence[Conditioning]) -> list[Conditioning]:
    """Shorter prompts get their last vector repeated."""
    longest = max((len(each.context) for each in conditionings), default=0)
    return [each if len(each.context) == longest else each._replace(
        context=torch.cat([each.context, each.context[-1:].expand(longest - len(each.context), -1)]))
        for each in conditionings]
