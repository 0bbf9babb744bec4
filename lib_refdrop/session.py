"""One sampling pass: at every site either record features, or fetch a reference's and blend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .errors import ReferenceProblem
from .recorder import Recorder
from .reference import Key, Reference
from .rfg import blend
from .sites import Lineage, Site


class SiteInput(Protocol):
    """What an adapter offers at a site; only what is asked for is computed."""

    def key_values(self, row: int) -> tuple[Tensor, Tensor]:
        """This layer's own K and V of one batch row, each ``[tokens, width]``."""

    def attend(self, rows: slice, k: Tensor, v: Tensor) -> Tensor:
        """Attention of some rows' queries over one reference's k and v ``[S, width]``, in the form of the layer's own
        output: ``[rows, tokens, C]``."""


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

    def __init__(self, lineage: Lineage, sections: tuple[str, ...], recorder: Recorder | None = None,
                 guides: Sequence[tuple[Reference, float]] = (), pass_name: str = "base") -> None:
        """Give a recorder to save, or guides, ``(reference, c)`` pairs, to use.

        Raises :class:`ReferenceProblem` when a reference cannot serve this model, pass or choice of layers.
        """
        self.outcome = Outcome()
        self._sites = set(lineage.chosen(sections))
        self._recorder, self._pass = recorder, pass_name
        self._guides = [_Guide(reference, c, pass_name, lineage, self._sites) for reference, c in guides]
        self._visits: dict[tuple[str, float], int] = {}
        self._rows: list[tuple[str, slice]] = []
        self._recording: list[tuple[str, int, int]] = []
        self._guided = False

    def begin_call(self, sigma: float, branches: Sequence[str]) -> None:
        """A model call starts: its noise level, and the branch of every row of its batch."""
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
        if self._recorder:
            for branch, visit in visits.items():
                call = self._recorder.call(sigma, visit)
                if self._recorder.wants(sigma):
                    self._recording.append((branch, call, list(branches).index(branch)))
        for guide in self._guides:
            guide.begin_call(sigma, visits)

    def at(self, site: Site, own: Tensor, layer: SiteInput) -> Tensor:
        """The output of a self-attention layer: ``own`` ``[B, tokens, C]`` itself, or blended (Eq. 5, Eq. 7)."""
        if site not in self._sites:
            return own
        for branch, call, row in self._recording:
            self._recorder.keep(call, site, branch, *layer.key_values(row))
        if not self._guides:
            return own
        parts, touched = [], False
        for branch, rows in self._rows:
            plain, references, coefficients = own[rows], [], []
            for guide in self._guides:
                if (feature := guide.fetch(site, branch)) is not None:
                    references.append(layer.attend(rows, *(part.to(own.device, own.dtype) for part in feature)))
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


class _Guide:
    """One reference in one pass: which of its calls serves the model call that is running."""

    def __init__(self, reference: Reference, c: float, pass_name: str, lineage: Lineage, sites: set[Site]) -> None:
        self.reference, self.c, self.notes = reference, c, []
        if reference.lineage != lineage.signature:
            raise ReferenceProblem(f"Reference {reference.name!r} was made with {reference.manifest.get('family', '?')}, this "
                                   f"model is {lineage.family}; use a reference of the same kind, or save a new one.")
        record = reference.passes.get(pass_name)
        if record is None:
            raise ReferenceProblem(f"Reference {reference.name!r} has nothing for the {pass_name} pass; save it again with "
                                   "that pass enabled.")
        self._sites = sites & reference.sites(pass_name)
        if not self._sites:
            raise ReferenceProblem(f"Reference {reference.name!r} keeps none of the layers chosen; choose others, or save it "
                                   "again with these.")
        self._record, self._pass = record, pass_name
        self._calls: dict[str, tuple[str, int]] = {}

    def begin_call(self, sigma: float, visits: dict[str, int]) -> None:
        self._calls = {}
        if self.c == 0:
            return
        for branch, visit in visits.items():
            source = self._record.branch_for(branch)
            if source != branch and not self.notes:
                self.notes.append(f"Reference {self.reference.name!r} was made without the {branch}itional branch; the other "
                                  "branch's features serve for both.")
            call = self._record.nearest(sigma, visit, source)
            if call is not None:
                self._calls[branch] = (source, call)

    def fetch(self, site: Site, branch: str) -> tuple[Tensor, Tensor] | None:
        if branch not in self._calls or site not in self._sites:
            return None
        source, call = self._calls[branch]
        return self.reference.key_values(Key(self._pass, call, site, source))
