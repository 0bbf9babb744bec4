"""Save of a given picture: the model is shown it, noised to the level of every call, beside what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model.layer import BlockListener, Listener, ModelCall, PromptInput, SiteInput
from ...model.rows import COND, Kind
from ...model.sites import Block, Lineage, Site
from ...references.part import Part
from ...references.picture import noised, seeded_noise
from ...references.plan import Plan
from ...stores import Writer
from ...words import ReferenceProblem
from .recording import Recording
from .word_masks import Word


class PictureRecording(Recording):
    """A :class:`Recording` of a picture that this generation does not draw: timesteps and conditioning are those of its
    calls, so that its prompt is the picture's caption; the latents are the picture's.

    ``encode(size)`` gives the picture's latent ``[C, h, w]``, of about the area of the call's latent, whose height and
    width it is told; once a pass. ``seed`` is that of the one noise. ``spread`` see :func:`~.picture.noised`.
    """

    def __init__(self, lineage: Lineage, provenance: dict, plan: Plan, writer: Writer | None, image: int,
                 encode: Callable[[tuple[int, int]], Tensor], seed: int = 0, spread: float = 1.0,
                 part: Callable[[tuple[int, int]], Part] | None = None) -> None:
        super().__init__(lineage, provenance, plan, writer, image, part)
        self._encode, self._seed, self._spread = encode, seed, spread
        self.latent = self._noise = torch.empty(0)

    def begin_pass(self, name: str, sigmas: Sequence[float] | None = None, word: Word | None = None) -> None:
        super().begin_pass(name, sigmas, word)
        self.latent = self._noise = torch.empty(0)

    def call(self, call: ModelCall) -> None:
        self.check(call)
        if not self.latent.numel() and not call.tiled:
            self.look_at_picture(call)
        self.take(self.at_first_visits(call))

    def check(self, call: ModelCall) -> None:
        """Raises :class:`ReferenceProblem` where the model cannot be called on anything but what it is called on."""
        if call.host is None or call.replay is None:
            raise ReferenceProblem("The model cannot be shown a picture here, so no reference of it can be saved.")

    def at_first_visits(self, call: ModelCall) -> ModelCall:
        """Without the rows that have been at this level: the picture looks the same however often a sampler comes back
        to it."""
        return replace(call, visits={kind: visit for kind, visit in call.visits.items() if visit == 0})

    def look_at_picture(self, call: ModelCall) -> None:
        """Encodes it at the size that suits a call."""
        self.latent = _sound(self._encode(call.size))
        self._noise = seeded_noise(tuple(self.latent.shape), self._seed)

    def latent_at(self, sigma: float) -> Tensor:
        """What the model is called on at a level, in its own scale."""
        return noised(self.latent, self._noise, sigma, self.lineage.flow, self._spread)

    def take(self, call: ModelCall) -> None:
        """Keeps what is wanted of a call, as if it had been on the picture."""
        super().call(call)
        if self._now or self.latent.numel():
            self._size = self._pictures[self._pass] = self.latent.shape[-2], self.latent.shape[-1]
        places = {} if call.tiled else self._watched(call)
        for kind, (row, index) in list(self._now.items()):
            self._shown(call, row, partial(self._hears, index, kind), partial(self._hears_block, index, kind),
                        places.pop(kind, None))
        self._now = {}
        for row in places.values():  # nothing is kept of them, but where the words are has to be seen
            self._shown(call, row, lambda site, layer: None, lambda block, output: None, row)

    def attention(self, site: Site, own: Tensor, layer: SiteInput) -> Tensor:
        return own  # of what is drawn beside

    def cross_attention(self, site: Site, layer: PromptInput) -> None:
        """Of what is drawn beside."""

    def _look(self, call: ModelCall) -> None:
        """Not at what is drawn beside."""

    def _watched(self, call: ModelCall) -> dict[Kind, int]:
        """The rows that are told of the words."""
        watch, rows = self._watch, {kind: call.row_of(kind, self.image) for kind in call.visits}
        return {kind: row for kind, row in rows.items()
                if watch and row is not None and kind.branch == COND and watch.word.places(call.rows[row])}

    def _shown(self, call: ModelCall, row: int, listener: Listener, blocks: BlockListener,
               watched: int | None) -> None:
        """The model is shown the picture."""
        assert call.replay
        watch = self._watch if watched is not None else None
        if watch is None:
            call.replay(self._inputs(call, row), listener, blocks)
            return
        watch.replayed(self._size, call.rows[row])

        def both(site: Site, layer: SiteInput) -> None:
            watch.self_attention(site, layer)
            listener(site, layer)

        call.replay(self._inputs(call, row), both, blocks, watch.cross_attention)
        watch.end()

    def _inputs(self, call: ModelCall, row: int) -> dict[str, Tensor]:
        found = super()._inputs(call, row)
        return {**found, "x": put_in(self.latent_at(call.sigma), found["x"])}

    def _hears(self, call: int, kind: Kind, site: Site, layer: SiteInput) -> None:
        if kind in self._now:  # its level may just have been given up
            self.keep(call, site, kind, layer, 0)

    def _hears_block(self, call: int, kind: Kind, block: Block, output: Tensor) -> None:
        if kind in self._now:
            self.keep_block(call, block, kind, output[0])


def put_in(latent: Tensor, x: Tensor) -> Tensor:
    """``latent`` ``[C, h, w]`` in the place of that in ``x``, which may have channels of other things behind (a mask
    and what is kept, of models for inpainting): on the CPU, as a part of a trajectory."""
    others = x[len(latent):].detach().float().cpu()
    if others.numel() and others.shape[-2:] != latent.shape[-2:]:
        others = F.interpolate(others[None], size=latent.shape[-2:], mode="nearest")[0]
    return torch.cat([latent, others]).to(x.dtype) if others.numel() else latent.to(x.dtype)


def _sound(latent: Tensor) -> Tensor:
    latent = latent.detach().float().cpu()
    if latent.dim() != 3 or not torch.isfinite(latent).all():
        raise ReferenceProblem("The model's VAE made no numbers of the picture that could serve, so no reference was "
                               "saved; try another picture, or a VAE in full precision.")
    return latent
