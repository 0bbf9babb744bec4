"""One reference that guides a pass: which of its calls serves the model call that runs, and what a layer gets of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...model.layer import ModelCall, SiteInput
from ...model.rows import COND, UNCOND, Kind
from ...model.sites import Block, Lineage, Site
from ...references.codec import Representation, decode
from ...references.manifest import kept_as, size_of
from ...references.on_device import Ahead, KeyValues, Projected
from ...references.part import Part
from ...references.reference import STATISTICS, Key, Reference, Served, has_branch
from ...words import ReferenceProblem, first_line, no_memory
from .adain import token_statistics
from .masks import Mask, looked_at
from .strength import Strength
from .word_masks import Watch


class Serving:
    """One reference in one pass."""

    def __init__(self, reference: Reference, strength: Strength, pass_name: str, lineage: Lineage) -> None:
        self.reference, self.strength, self.pass_name = reference, strength, pass_name
        self.notes: list[str] = []
        if reference.lineage != lineage.signature:
            family = reference.manifest.get("family", "?")
            raise ReferenceProblem(f"Reference {reference.name!r} was made with {family}, this model is "
                                   f"{lineage.family}"
                                   f"{_how_they_differ(reference, lineage)}; use a reference of the same kind, or save "
                                   "a new one.")
        record = reference.passes.get(pass_name)
        if record is None:
            raise ReferenceProblem(f"Reference {reference.name!r} has nothing for the {pass_name} pass; save it again "
                                   "with that pass enabled.")
        self._factors, self._record, self._widths = strength.sites(lineage), record, lineage.sites
        self._block_factors = strength.blocks(lineage)
        self.sites = self._factors.keys() & reference.sites(pass_name)
        self._blocks = self._block_factors.keys() & reference.blocks(pass_name)
        # Earlier versions kept no statistics, but most of their files what it takes to make them.
        lacks = not record.levels or (self.adapts and not self._blocks)
        self.needs_replay = lacks and bool(reference.seen(pass_name))
        if strength.attends and not self.sites and not self.needs_replay:
            raise ReferenceProblem(f"Reference {reference.name!r} keeps none of the layers chosen; choose others, or "
                                   "save it again with these.")
        self.watch = Watch(lineage, strength.word) if strength.word else None
        self._marked = _marked(reference, pass_name) if strength.marked_only else None
        if self.adapts and not self._blocks and not self.needs_replay:
            raise ReferenceProblem(f"Reference {reference.name!r} keeps no statistics of the blocks chosen, which "
                                   "AdaIN goes by; save it again.")
        if self.adapts and (strength.looks_at is not None or self._marked is not None):
            self.notes.append(f"AdaIN goes by all of reference {reference.name!r}: its mask chooses what attention "
                              "looks at.")
        self._check_parts()
        self._features = reference
        self._ahead: Ahead | None = None
        self.due = self.acted = self.adapted = False  # a model call in which it was to act has come; it did; by AdaIN
        self._acting = False  # in the model call that runs
        self._call: ModelCall | None = None  # the one that runs
        self._kept_as: Mapping[Site, Representation] = kept_as(reference.manifest, pass_name)
        self._coefficients: dict[Kind, float] = {}  # of each kind of row, in the model call that runs
        self._adains: dict[Kind, float] = {}
        self._statistics: dict[tuple[Served, Block], Tensor] = {}  # on the device
        self._serving: dict[Kind, Served] = {}  # in the model call that runs
        self._last: dict[Kind, Served] = {}  # in the last call that each kind of row was in
        self._projected = Projected()

    def _check_parts(self) -> None:
        """Raises :class:`ReferenceProblem` where nothing of what may be looked at was kept."""
        part, looks_at = self.reference.parts.get(self.pass_name), self.strength.looks_at
        if part is None or looks_at is None:
            return
        both = torch.minimum(part.over(part.size), looks_at.over(part.size, torch.device("cpu"))[:, 0])
        if not float(both.max()) > 1 / 255:
            raise ReferenceProblem(f"Reference {self.reference.name!r} was saved with a mask and keeps nothing of what "
                                   "its mask here lets be looked at; take that out, or save it again.")

    def replayed(self, features: Reference) -> None:
        """The reference's features, computed from its trajectory."""
        self._features, self._record, self.needs_replay = features, features.passes[self.pass_name], False
        self._kept_as = kept_as(features.manifest, self.pass_name)
        self._ahead = None
        self.sites = self._factors.keys() & features.sites(self.pass_name)
        self._blocks = self._block_factors.keys() & features.blocks(self.pass_name)

    def acts_at(self, progress: float) -> bool:
        """Whether it is anything but 0 in a model call."""
        return self.strength.acts and self.strength.over_progress(progress) != 0

    @property
    def adapts(self) -> bool:
        """Whether it changes the statistics of block outputs anywhere."""
        return bool(self._block_factors)

    def adapts_here(self, block: Block) -> bool:
        """Whether it may act on a block's output, in the model call that runs."""
        return self._acting and block in self._blocks

    def acts_here(self, site: Site) -> bool:
        """Whether it may act in a layer, in the model call that runs."""
        return self._acting and site in self.sites

    def begin_call(self, call: ModelCall, progress: float) -> None:
        self._serving, self._acting = {}, self.acts_at(progress)
        if not self._acting:
            return
        self.due, self._call = True, call
        self._coefficients = {kind: self.strength.at(progress, kind) for kind in call.visits}
        self._adains = {kind: self.strength.adain_at(progress, kind) for kind in call.visits}
        for kind, visit in call.visits.items():
            if not self._coefficients[kind] and not self._adains[kind]:
                continue
            self._note_missing(kind)
            if served := self._record.serving(call.sigma, visit, kind):
                self._serving[kind] = served
        self._last |= self._serving
        self._projected.only(self._last.values())
        if self._ahead:
            # In the order in which layers run.
            self._ahead.begin_call([self._key(site, kind) for site in sorted(self.sites)
                                    for kind, served in self._serving.items()
                                    if self._coefficients[kind] and not self._projected.find(served, site)])

    def strength_at(self, site: Site, kind: Kind) -> float:
        return self._coefficients[kind] * self._factors[site]

    def fetch(self, site: Site, kind: Kind, layer: SiteInput, like: Tensor) -> KeyValues | None:
        """K and V for a layer, in the dtype and on the device of ``like``; None where the reference is silent."""
        served = self._serving.get(kind) if self._coefficients.get(kind) else None
        if served is None:
            return None
        found = self._projected.find(served, site)
        if found is None:
            self._ahead = self._ahead or Ahead(self._features, like.device)
            parts = self._ahead.take(self._key(site, kind))
            if parts is None:
                return None
            self.acted = True
            decoded = decode(parts, like.dtype, like.device)
            found = self._feature(decoded, site, layer)
            if len(self._record.levels) < len(self._record.calls):  # the next calls may have the same level nearest
                self._projected.keep(served, site, found)
        return found

    def adain_at(self, block: Block, kind: Kind) -> float:
        return self._adains.get(kind, 0.0) * self._block_factors[block]

    def statistics(self, block: Block, kind: Kind, like: Tensor) -> Tensor | None:
        """Those of a block's output in the reference ``[2, C]``, on the device of ``like`` ``[B, C, ...]``; None where
        the reference is silent. Raises :class:`ReferenceProblem` where they are of another block."""
        served = self._serving.get(kind)
        if served is None:
            return None
        if (served, block) not in self._statistics:
            parts = self._features.feature(Key(self.pass_name, served.call, block, served.kind))
            if parts is None:
                return None
            self._statistics[served, block] = parts[STATISTICS].float().to(like.device)
        found = self._statistics[served, block]
        if found.shape != (2, like.shape[1]):
            raise ReferenceProblem(f"Reference {self.reference.name!r} has statistics that this model's block {block} "
                                   f"cannot take ({found.shape[1]} channels instead of {like.shape[1]}); save it "
                                   "again.")
        self.acted = self.adapted = True
        return found

    def where(self, tokens: int, device: torch.device, rows: slice) -> Tensor | None:
        """The mask over a layer's tokens, ``[tokens, 1]`` or, by a word, ``[rows, tokens, 1]``; None where it acts
        everywhere."""
        if self._call is None or (self.strength.mask is None and self.watch is None):
            return None
        if self._call.tiled or not self._call.host:
            raise ReferenceProblem("A mask needs the picture in one piece, and here it is drawn in tiles; switch "
                                   "MultiDiffusion or Tiled Diffusion off, or take the mask out.")
        found = None if self.strength.mask is None else self.strength.mask.where(tokens, self._call.size, device)
        if self.watch is None:
            return found
        words, nowhere = self._words(rows), torch.zeros(tokens, 1, device=device)
        where = torch.stack([mask.where(tokens, self._call.size, device) if mask else nowhere for mask in words])
        return where if found is None else where * found

    def knows_where(self, rows: slice) -> bool:
        """Whether it can be told where it is to act: a word is seen from the second call on, in pictures that have
        it."""
        return self.watch is None or any(self._words(rows))

    def _words(self, rows: slice) -> list[Mask | None]:
        """The mask of each row by a word."""
        assert self.watch and self._call
        return [self.watch.mask(row.image) for row in self._call.rows[rows]]

    def _feature(self, decoded: Mapping[str, Tensor], site: Site, layer: SiteInput) -> KeyValues:
        """What a layer looks at of a decoded feature, with statistics where they are wanted."""
        k, v = self._key_values(decoded, site, layer)
        found = KeyValues(*self._seen(site, k, v, decoded.get("bias")))
        if not self.strength.adain_attention:
            return found
        keys, queries = token_statistics(found.k, found.bias), None
        if "h" in decoded:
            q = layer.project_queries(decoded["h"])
            q, _, bias = self._seen(site, q, q, decoded.get("bias"))
            queries = token_statistics(q, bias)
        else:
            sentence = (f"Reference {self.reference.name!r} keeps keys and values alone in some layers, so the new "
                        "picture's queries stay as they are there.")
            self.notes += [sentence] if sentence not in self.notes else []
        return found._replace(keys=keys, queries=queries)

    def _seen(self, site: Site, k: Tensor, v: Tensor,
              bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What of a feature may be looked at. Raises :class:`ReferenceProblem` where its tokens are no places."""
        part = self._features.parts.get(self.pass_name)
        if part is not None:
            return self._seen_of(part, site, k, v, bias)
        if self.strength.looks_at is None and self._marked is None:
            return k, v, bias
        grid = self._grid(site)
        places = grid is not None and grid[0] * grid[1] == len(k)
        if not places and self.strength.looks_at is None:
            self._note(f"Reference {self.reference.name!r} keeps merged tokens, which are no places of its picture, so "
                       "all of it was looked at, not only what was marked; save it as Exact or Balanced.")
            return k, v, bias
        if grid is None or not places:
            raise ReferenceProblem(f"Reference {self.reference.name!r} does not tell where in its picture its tokens "
                                   "are, so a part of it cannot be chosen; save it again, or take its mask out.")
        shares = [mask.over(grid, k.device) for mask in (self.strength.looks_at, self._marked) if mask]
        return looked_at(k, v, bias, shares[0] if len(shares) == 1 else shares[0] * shares[1])

    def _seen_of(self, part: Part, site: Site, k: Tensor, v: Tensor,
                 bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same where only a part of the picture was kept: what is beyond that no mask brings back."""
        grid = self._grid(site)
        if grid is None or part.count(grid) != len(k):
            raise ReferenceProblem(f"Reference {self.reference.name!r} is damaged: its layer {site} has other tokens "
                                   "than the mask leaves that it was saved with; save it again.")
        kept = part.kept(grid)
        share = part.over(grid)[kept]
        for mask in filter(None, (self.strength.looks_at, self._marked)):
            share = torch.minimum(share, mask.over(grid, share.device)[kept, 0])
        return looked_at(k, v, bias, share[:, None])

    def _grid(self, site: Site) -> tuple[int, int] | None:
        """Rows and columns of a site's kept tokens in the reference's picture; None where that is not known."""
        size = size_of(self._features.manifest, self.pass_name)
        if size is None and self.reference.seen(self.pass_name):  # of an earlier version
            size = self.reference.latent_size(self.pass_name)
        if size is None or site not in self._kept_as:
            return None
        rows, columns = size
        for _ in range(self._widths[site].level):  # every down-sampling halves and rounds up
            rows, columns = -(-rows // 2), -(-columns // 2)
        return self._kept_as[site].grid(rows, columns)

    def _key_values(self, decoded: Mapping[str, Tensor], site: Site, layer: SiteInput) -> tuple[Tensor, Tensor]:
        """K and V of a decoded feature. Raises :class:`ReferenceProblem` where the layer is of another width: a lineage
        does not tell what a file says of its tensors."""
        try:
            k, v = layer.project(decoded["h"]) if "h" in decoded else (decoded["k"], decoded["v"])
        except RuntimeError as error:
            if no_memory(error):
                raise
            raise self._unfit(site, first_line(error)) from error
        if k.shape[-1] != self._widths[site].width:
            raise self._unfit(site, f"{k.shape[-1]} wide instead of {self._widths[site].width}")
        return k, v

    def _unfit(self, site: Site, why: str) -> ReferenceProblem:
        return ReferenceProblem(f"Reference {self.reference.name!r} has features that this model's layer {site} cannot "
                                f"take ({why}); save it again.")

    def _key(self, site: Site, kind: Kind) -> Key:
        """The feature that serves rows of a kind in a layer of the call that runs."""
        served = self._serving[kind]
        return Key(self.pass_name, served.call, site, served.kind)

    def _note_missing(self, kind: Kind) -> None:
        for branch, other in ((COND, UNCOND), (UNCOND, COND)):
            kept = self._record.kept
            if kind.branch == branch and not has_branch(kept, branch) and has_branch(kept, other):
                sentence = (f"Reference {self.reference.name!r} was made without the {branch}itional branch; the other "
                            "branch's features serve for both.")
                self._note(sentence)

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _marked(reference: Reference, pass_name: str) -> Mask | None:
    """What of its picture a reference was saved with a word for. Raises :class:`ReferenceProblem` where that cannot be
    read."""
    marked = reference.manifest.get("marked")
    if marked is None:
        return None
    found = Mask.read(marked[pass_name]) if isinstance(marked, Mapping) and pass_name in marked else None
    if found is None and not (isinstance(marked, Mapping) and pass_name not in marked):
        raise ReferenceProblem(f"What was marked in reference {reference.name!r} cannot be read; switch off that only "
                               "this is looked at, or save it again.")
    return found


def _how_they_differ(reference: Reference, lineage: Lineage) -> str:
    """What to add where two lineages have the same name, as far as it goes: earlier versions wrote shorter ones."""
    if not lineage.family.startswith(reference.manifest.get("family", "?")):
        return ""
    return f" of another build (its layers are {reference.lineage}, here they are {lineage.signature})"
