"""One reference in one sampling pass: which of its calls serves the model call that is running."""

from __future__ import annotations

from torch import Tensor

from ...references.ahead import Ahead
from ...references.codec import decode
from ...words import ReferenceProblem
from ...references.projected import KeyValues, Projected
from ...references.reference import Key, Reference
from ...model.layer import SiteInput
from ...model.sites import BRANCHES, Lineage, Site


class Guide:
    """``reference`` at coefficient ``c``.

    Raises :class:`ReferenceProblem` when it cannot serve this model, pass or choice of layers.
    """

    def __init__(self, reference: Reference, c: float, pass_name: str, lineage: Lineage, sites: set[Site]) -> None:
        self.reference, self.c, self.notes = reference, c, []
        if reference.lineage != lineage.signature:
            raise ReferenceProblem(f"Reference {reference.name!r} was made with {reference.manifest.get('family', '?')}, "
                                   f"this model is {lineage.family}; use a reference of the same kind, or save a new one.")
        record = reference.passes.get(pass_name)
        if record is None:
            raise ReferenceProblem(f"Reference {reference.name!r} has nothing for the {pass_name} pass; save it again with "
                                   "that pass enabled.")
        self._chosen, self._record, self._pass = sites, record, pass_name
        self._sites = sites & reference.sites(pass_name)
        self.needs_replay = not any(record.kept.values()) and any(reference.seen(pass_name, each) for each in BRANCHES)
        if not self._sites and not self.needs_replay:
            raise ReferenceProblem(f"Reference {reference.name!r} keeps none of the layers chosen; choose others, or save "
                                   "it again with these.")
        self._features, self._ahead = reference, None
        self._calls: dict[str, tuple[str, int]] = {}  # of the model call that runs: branch and call that serve, by branch
        self._last: dict[str, tuple[str, int]] = {}  # the same of the last call that each branch was in
        self._projected = Projected()

    def replayed(self, features: Reference) -> None:
        """The reference's features, computed from its trajectory."""
        self._features, self._record, self.needs_replay = features, features.passes[self._pass], False
        self._ahead = None
        self._sites = self._chosen & features.sites(self._pass)

    def begin_call(self, sigma: float, visits: dict[str, int]) -> None:
        """A model call at a noise level, with the visit that it is for each of its branches."""
        self._calls = {}
        if self.c == 0:
            return
        for branch, visit in visits.items():
            source = self._record.branch_for(branch)
            if source != branch and not self.notes:
                self.notes.append(f"Reference {self.reference.name!r} was made without the {branch}itional branch; the "
                                  "other branch's features serve for both.")
            call = self._record.nearest(sigma, visit, source)
            if call is not None:
                self._calls[branch] = (source, call)
        if self._ahead:
            self._ahead.begin_call()
        self._last |= self._calls
        self._projected.only(self._last.values())

    def fetch(self, site: Site, branch: str, layer: SiteInput, like: Tensor) -> KeyValues | None:
        """K and V for a layer, each ``[S, width]`` in the dtype and on the device of ``like``, and the bias of its logits
        where tokens stand for unequal numbers of others; None where the reference is silent."""
        if branch not in self._calls or site not in self._sites:
            return None
        served_by = self._calls[branch]
        found = self._projected.find(served_by, site)
        if found is None:
            self._ahead = self._ahead or Ahead(self._features, self._key, like.device)
            parts = self._ahead.take(site, branch)
            if parts is None:
                return None
            decoded = decode(parts, like.dtype, like.device)
            k, v = layer.project(decoded["h"]) if "h" in decoded else (decoded["k"], decoded["v"])
            found = k, v, decoded.get("bias")
            if self._record.stride > 1:  # the next calls have the same noise level nearest
                self._projected.keep(served_by, site, found)
        return found

    def _key(self, site: Site, branch: str) -> Key | None:
        """What has to be fetched for a layer, if anything."""
        if branch not in self._calls or site not in self._sites or self._projected.find(self._calls[branch], site):
            return None
        source, call = self._calls[branch]
        return Key(self._pass, call, site, source)
