"""One sampling pass: at every site either record features, or fetch a reference's and blend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..words import ReferenceProblem
from .reference.guidance import Guide
from .reference.recording import Recorder
from ..references.reference import Reference
from ..references.replay import Replays, replay
from .reference.rfg import blend
from ..model.layer import ModelCall, SiteInput
from ..model.sites import Lineage, Site


@dataclass
class Outcome:
    """What a pass did."""

    calls: int = 0
    guided_calls: int = 0
    notes: list[str] = field(default_factory=list)


class Session:
    """One sampling pass. The adapter calls :meth:`begin_call` before each model call and :meth:`at` in every site.

    Sigma is the only clock: nothing is counted but the visits of one sigma, so another sampler, number of steps, size or
    batch layout than the reference's is served by the nearest recorded noise level.
    """

    def __init__(self, lineage: Lineage, sections: tuple[str, ...], recorders: Sequence[Recorder] = (),
                 guides: Sequence[tuple[Reference, float]] = (), pass_name: str = "base",
                 replays: Replays | None = None) -> None:
        """Give recorders to save, guides, ``(reference, c)`` pairs, to use, or both.

        A recorder keeps the features of the image of the batch that it names. ``replays`` keeps what trajectories were
        computed into, for later passes. Raises :class:`ReferenceProblem` when a reference cannot serve this model, pass
        or choice of layers.
        """
        self.outcome = Outcome()
        self._lineage, self._sites = lineage, set(lineage.chosen(sections))
        self._recorders, self._pass, self._replays = recorders, pass_name, replays or Replays()
        self._guides = [Guide(reference, c, pass_name, lineage, self._sites) for reference, c in guides]
        self._visits: dict[tuple[str, float], int] = {}
        self._rows: list[tuple[str, slice]] = []
        self._recording: list[tuple[Recorder, str, int, int]] = []  # recorder, branch, call, row
        self._guided = False
        self._replaying: Callable[[Site, SiteInput], None] | None = None

    @property
    def replaying(self) -> bool:
        """Whether the model call that runs is one of a replay: :meth:`begin_call` is not to be told of it."""
        return self._replaying is not None

    def begin_call(self, sigma: float, branches: Sequence[str], call: ModelCall | None = None) -> None:
        """A model call starts: its noise level, the branch of every row of its batch, and the call itself.

        Without ``call`` there is no trajectory to record, no token to merge and nothing to replay. Raises
        :class:`ReferenceProblem` where a trajectory cannot be replayed on this model.
        """
        self._replay(call)
        sigma = float(f"{sigma:.6g}")  # the same level, however it was rounded on its way here
        self.outcome.calls += 1
        self._guided = False
        self._rows, start = [], 0
        for end in range(1, len(branches) + 1):
            if end == len(branches) or branches[end] != branches[start]:
                self._rows.append((branches[start], slice(start, end)))
                start = end
        visits = {}
        for branch in dict.fromkeys(branches):
            visits[branch] = self._visits.get((branch, sigma), 0)
            self._visits[branch, sigma] = visits[branch] + 1
        self._recording = []
        for recorder in self._recorders:
            self._begin_recording(recorder, sigma, branches, visits, call)
        for guide in self._guides:
            guide.begin_call(sigma, visits)

    def at(self, site: Site, own: Tensor, layer: SiteInput) -> Tensor:
        """The output of a self-attention layer: ``own`` ``[B, tokens, C]`` itself, or blended (Eq. 5, Eq. 7)."""
        if self._replaying:
            self._replaying(site, layer)
            return own
        if site not in self._sites:
            return own
        for recorder, branch, call, row in self._recording:
            recorder.keep(call, site, branch, layer, row)
        if not self._guides:
            return own
        parts, touched = [], False
        for branch, rows in self._rows:
            plain, references, coefficients = own[rows], [], []
            for guide in self._guides:
                if (feature := guide.fetch(site, branch, layer, own)) is not None:
                    references.append(layer.attend(rows, *feature))
                    coefficients.append(guide.c)
            touched = touched or bool(references)
            parts.append(blend(plain, references, coefficients))
        if not touched:
            return own
        if not self._guided:
            self._guided = True
            self.outcome.guided_calls += 1
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def finish(self) -> Outcome:
        """Ends the pass.

        Raises :class:`ReferenceProblem` where guidance was asked for and none happened: the user must not believe it did.
        """
        wanted = [guide for guide in self._guides if guide.c != 0]
        if wanted and self.outcome.calls and not self.outcome.guided_calls:
            raise ReferenceProblem(f"Reference {wanted[0].reference.name!r} has no features at the noise levels of this run, "
                                   "so the image is not guided; save more of its schedule.")
        self.outcome.notes += [note for guide in self._guides for note in guide.notes]
        return self.outcome

    def _begin_recording(self, recorder: Recorder, sigma: float, branches: Sequence[str], visits: dict[str, int],
                         call: ModelCall | None) -> None:
        for branch, visit in visits.items():
            rows = [row for row, each in enumerate(branches) if each == branch]
            row = rows[recorder.image * len(rows) // recorder.images]  # an image may have several rows (AND prompts)
            index = recorder.call(sigma, visit, call.size if call else (0, 0))
            if call and recorder.wants_trajectory(sigma):
                recorder.saw(index, branch, call.inputs(row))
            if recorder.wants(sigma, branch):
                self._recording.append((recorder, branch, index, row))

    def _replay(self, call: ModelCall | None) -> None:
        """Computes the features of guides that have only a trajectory, before the first call that needs them."""
        for guide in self._guides:
            if not guide.needs_replay or guide.c == 0:
                continue
            if call is None:
                raise ReferenceProblem(f"Reference {guide.reference.name!r} keeps only its trajectory, which cannot be "
                                       "replayed here; save it again with features.")
            try:
                guide.replayed(replay(guide.reference, self._pass, self._lineage, call, self._listen, self._replays))
            finally:
                self._listen(None)

    def _listen(self, listener: Callable[[Site, SiteInput], None] | None) -> None:
        self._replaying = listener
