"""Use: every self-attention layer blends its own attention with attention over references' keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...model.layer import ModelCall, PromptInput, SiteInput
from ...model.rows import Kind, Run, runs
from ...model.schedule import Progress
from ...model.sites import Block, Lineage, Site
from ...references.on_device import KeyValues
from ...references.reference import Reference
from ...references.replay import Replays, replay
from ...words import ReferenceProblem
from ..technique import Outcome, Technique
from .adain import adapted, aligned, statistics
from .concatenation import joined
from .dropout import dropped
from .rfg import blend
from .serving import Serving
from .strength import Strength


class Guidance(Technique):
    """Guides a pass by references, each with its own strength (Eq. 5, Eq. 7 of the paper).

    Sigma is the only clock: another sampler, number of steps, size or batch layout than the reference's is served by
    the nearest recorded noise level.
    """

    def __init__(self, references: Sequence[tuple[Reference, Strength | float]], lineage: Lineage,
                 pass_name: str = "base", replays: Replays | None = None,
                 sigmas: Sequence[float] | None = None, seeds: Sequence[int] = ()) -> None:
        """``replays`` keeps what trajectories were computed into, for later passes; ``sigmas`` are the pass's noise
        levels where they are known, of which strengths over progress are fractions; ``seeds`` are those of the batch's
        pictures, for what is left to chance. Raises :class:`~lib_refdrop.words.RefDropError` where a reference cannot
        serve this model, pass or choice of layers."""
        self._guides = [Serving(reference, Strength.of(strength), pass_name, lineage)
                        for reference, strength in references]
        self._watches = [guide.watch for guide in self._guides if guide.watch and guide.strength.acts]
        self.cross_sites = frozenset(site for watch in self._watches for site in watch.sites)
        self._lineage, self._replays, self._progress = lineage, replays or Replays(), Progress(sigmas)
        self._outcome, self._runs, self._seeds = Outcome(), list[Run](), seeds
        self._call: ModelCall | None = None  # the one that runs
        self._acted = self._left_out = False  # in the call that runs: on a row; somewhere without a reference

    @property
    def hears_blocks(self) -> bool:
        """Also where something is to be replayed: what comes of it serves later passes that may want it."""
        return any(guide.needs_replay or guide.adapts for guide in self._guides)

    def call(self, call: ModelCall) -> None:
        """Raises :class:`ReferenceProblem` where a trajectory cannot be replayed on this model."""
        self._count()
        for watch in self._watches:
            watch.begin_call(call)
        progress = self._progress(call.sigma)
        for guide in self._guides:
            if guide.acts_at(progress) and guide.needs_replay:
                guide.replayed(replay(guide.reference, guide.pass_name, self._lineage, call, self._replays))
        self._outcome.calls += 1
        self._runs, self._call = list(runs(call.rows)), call
        for guide in self._guides:
            guide.begin_call(call, progress)

    def attention(self, site: Site, own: Tensor, layer: SiteInput) -> Tensor:
        for watch in self._watches:
            watch.self_attention(site, layer)
        parts, touched = [], False
        here = [guide for guide in self._guides if guide.acts_here(site)]
        if not here:
            return own
        for kind, rows in self._runs:
            references, coefficients, masks = [], [], []
            for guide in here:
                if guide.knows_where(rows) and (feature := guide.fetch(site, kind, layer, own)) is not None:
                    references.append(self._attended(guide.strength, site, kind, rows, layer, own.shape[1], feature))
                    coefficients.append(guide.strength_at(site, kind))
                    masks.append(guide.where(own.shape[1], own.device, rows))
            touched = touched or bool(references)
            self._left_out = self._left_out or len(references) < len(here)
            parts.append(blend(own[rows], references, coefficients, masks))
        if not touched:
            return own
        self._acted = True
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attended(self, strength: Strength, site: Site, kind: Kind, rows: slice, layer: SiteInput, tokens: int,
                  feature: KeyValues) -> Tensor:
        """Attention of some rows, all of one kind, over a reference's keys and values: ``[rows, tokens, C]``."""
        def over(rows: slice, feature: KeyValues) -> Tensor:
            return _looking(strength, layer, rows, tokens, feature)

        call = self._call
        if not strength.dropout or call is None:
            return over(rows, feature)
        made = []
        for row in range(rows.start, rows.stop):  # every picture does without others
            image = call.rows[row].image
            seed = self._seeds[image] if image < len(self._seeds) else 0
            left = dropped(feature, strength.dropout, seed, site, call.sigma, call.visits[kind])
            made.append(over(slice(row, row + 1), left))
        return torch.cat(made)

    def cross_attention(self, site: Site, layer: PromptInput) -> None:
        for watch in self._watches:
            watch.cross_attention(site, layer)

    def block(self, block: Block, output: Tensor) -> Tensor:
        here = [guide for guide in self._guides if guide.adapts_here(block)]
        if not here:
            return output
        own, parts, touched = statistics(output), [], False
        for kind, rows in self._runs:
            theirs, amounts, masks = [], [], []
            for guide in here:
                known = guide.knows_where(rows)
                found, amount = guide.statistics(block, kind, output) if known else None, guide.adain_at(block, kind)
                self._left_out = self._left_out or found is None
                if found is not None and amount:
                    mask = guide.where(output[0, 0].numel(), output.device, rows)
                    theirs.append(found)
                    amounts.append(amount)
                    masks.append(None if mask is None else mask.reshape(-1, 1, *output.shape[2:]))
            touched = touched or bool(theirs)
            parts.append(adapted(output[rows], own[rows], theirs, amounts, masks))
        if not touched:
            return output
        self._acted = True
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def finish(self) -> Outcome:
        """Raises :class:`ReferenceProblem` where guidance was asked for and none happened: the user must not believe it
        did."""
        self._count()
        wanted = [guide for guide in self._guides if guide.strength.acts]
        if wanted and self._outcome.calls and not any(guide.due for guide in wanted):
            raise ReferenceProblem("No step of this run lies in the part of the schedule in which "
                                   f"{wanted[0].reference.name!r} may guide, so the image is not guided; choose a "
                                   "larger part, or more steps.")
        if wanted and self._outcome.calls and not self._outcome.acted and any(guide.watch for guide in wanted):
            raise ReferenceProblem("Where the word of the mask is drawn is seen from the second step on, and this run "
                                   "had no other that could be guided, so the image is not; draw with more steps.")
        if wanted and self._outcome.calls and not self._outcome.acted:
            raise ReferenceProblem(f"Reference {wanted[0].reference.name!r} has no features at the noise levels of "
                                   "this run, so the image is not guided; save more of its schedule.")
        for guide in self._guides:
            if guide in wanted and not guide.acted and self._outcome.calls:
                why = ("where the word of its mask is drawn was not seen" if guide.due and guide.watch else
                       "it has no features at the noise levels of this run" if guide.due else
                       "no step of this run lies in its part of the schedule")
                self._outcome.note(f"Reference {guide.reference.name!r} did not guide: {why}.")
            elif guide.due and guide.adapts and not guide.adapted:
                self._outcome.note(f"AdaIN by reference {guide.reference.name!r} did not happen: what the model's "
                                   "blocks gave was never seen.")
            for sentence in guide.notes:
                self._outcome.note(sentence)
        return self._outcome

    def _count(self) -> None:
        self._outcome.acted += self._acted
        self._outcome.acted_on_all += self._acted and not self._left_out
        self._acted = self._left_out = False


def _looking(strength: Strength, layer: SiteInput, rows: slice, tokens: int, feature: KeyValues) -> Tensor:
    """Attention of some rows over a reference, alone or beside their own keys."""
    amount, q, keys = strength.adain_attention, None, None
    if amount:
        keys = feature.keys
        q = None if feature.queries is None else aligned(layer.queries(rows), feature.queries, amount)
    if strength.weight is None:
        return layer.attend(rows, feature.k, feature.v, feature.bias, q)
    return joined(layer, rows, tokens, feature.k, feature.v, feature.bias, strength.weight, q, keys, amount)
