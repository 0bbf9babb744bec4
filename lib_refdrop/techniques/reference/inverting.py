"""Save of a given picture by inversion: the model itself is asked which noise the picture would have come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...model.layer import ModelCall, SiteInput
from ...model.rows import COND, Kind
from ...model.schedule import SAME, descending
from ...model.sites import Block, Site
from ...references.inversion import INVERSION, NOISING, inverted
from ...references.picture import digest
from ...words import ReferenceProblem
from ..technique import Outcome
from .picturing import PictureRecording, put_in
from .word_masks import Word

_PROMPT = Kind(COND)


class InvertedRecording(PictureRecording):
    """A :class:`PictureRecording` whose latents are those of an inversion with the prompt alone (guidance 1).

    The way from the picture to noise begins where the generation ends, so its calls wait, with their timesteps and
    conditioning, until the last level has come: one more model call a level, then what a picture's calls always take.
    ``progress(done, total)`` hears of these model calls and may raise to stop.
    """

    progress: Callable[[int, int], None] = staticmethod(lambda done, total: None)  # type: ignore[assignment]

    def begin_pass(self, name: str, sigmas: Sequence[float] | None = None, word: Word | None = None) -> None:
        super().begin_pass(name, sigmas, word)
        levels = descending(sigmas or ())
        self._least = levels[-1] * (1 + SAME) if levels else None
        self._waiting: list[ModelCall] = []
        self._latents: dict[float, Tensor] = {}

    def call(self, call: ModelCall) -> None:
        self.check(call)
        if self._least is None:
            raise ReferenceProblem("To invert a picture the noise levels have to be known in advance, and of this "
                                   "sampler they are not; choose another, or Noising.")
        call = self.at_first_visits(call)
        self._waiting += [call] if call.visits else []
        if not self._latents and call.sigma <= self._least and self._prompt_row(call) is not None:
            self._invert(call)
        if self._latents:
            ready, self._waiting = self._waiting, []
            for each in ready:
                if each.tiled or each.sigma in self._latents:
                    self.take(each)

    def finish(self) -> Outcome:
        """Raises :class:`ReferenceProblem` where the generation never came to the level that was to be its last."""
        outcome = super().finish()
        if self._waiting and not self._latents:
            raise ReferenceProblem("This sampler never came to the quietest of its noise levels, so the picture could "
                                   "not be inverted and no reference was saved; choose another, or Noising.")
        return outcome

    def latent_at(self, sigma: float) -> Tensor:
        return self._latents[sigma]

    def _prompt_row(self, call: ModelCall) -> int | None:
        return None if call.tiled or _PROMPT not in call.visits else call.row_of(_PROMPT, self.image)

    def _invert(self, last: ModelCall) -> None:
        """Raises :class:`ReferenceProblem` where the model predicts what cannot be inverted, or no numbers."""
        prediction = last.host.prediction if last.host else ""
        if not prediction:
            raise ReferenceProblem("This model predicts something else than noise, v or a flow, so a picture cannot be "
                                   "inverted; choose Noising.")
        self.look_at_picture(last)
        found = {each.sigma: (each, row) for each in self._waiting if (row := self._prompt_row(each)) is not None}
        done = 0

        def predict(x: Tensor, sigma: float) -> Tensor:
            nonlocal done
            call, row = found[sigma]
            assert call.host and call.replay
            self.progress(done, len(found))
            done += 1
            given = call.host.inputs(row)
            output = call.replay({**given, "x": put_in(x, given["x"])}, _deaf, _deaf)
            return output[0, :len(x)].float().cpu()

        latents = inverted(self.latent, found, predict, prediction)
        self.progress(len(found), len(found))
        if not all(bool(torch.isfinite(latent).all()) for latent in latents.values()):
            raise ReferenceProblem("Inverting the picture gave numbers that are not finite, so no reference was saved; "
                                   "choose Noising, or run the model in full precision (--no-half).")
        self._latents = latents


def _deaf(place: Site | Block, seen: SiteInput | Tensor) -> None:
    """Nothing is kept of what the model sees on its way up."""


RECORDINGS: dict[str, type[PictureRecording]] = {NOISING: PictureRecording, INVERSION: InvertedRecording}


def picture_record(picture: Image.Image, by: str, seed: int) -> dict[str, Any]:
    """What a reference tells of the picture that it was made of."""
    return {"hash": digest(picture), **({"seed": seed} if by == NOISING else {"by": by})}
