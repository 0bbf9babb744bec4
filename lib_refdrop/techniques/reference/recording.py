"""Save: collects what a plan wants while passes run, and makes a reference of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...model.layer import ModelCall, PromptInput, SiteInput
from ...model.rows import Kind
from ...model.schedule import threshold
from ...model.sites import Block, Lineage, Site
from ...references.codec import Representation, encode
from ...references.manifest import compose
from ...references.part import NoPlaces, Part
from ...references.plan import Plan
from ...references.reference import (
    STATISTICS,
    Key,
    RecordedCall,
    Reference,
    given_name,
    is_feature,
    is_part,
    is_trajectory,
    part_name,
    passes_from,
    trajectory_name,
)
from ...stores import LimitReached, Saved, Writer
from ...words import ReferenceProblem
from ..technique import Outcome, Technique
from .adain import statistics
from .levels import Levels
from .rfg import token_grid
from .word_masks import Watch, Word


class Recording(Technique):
    """What is kept of one image, number ``image`` of a batch, over all passes of its generation; changes no picture.

    With a ``writer`` everything goes there as it comes, so that a large reference is never held in memory; otherwise
    :meth:`reference` has it. Which noise levels are kept is decided by :class:`Levels`: what they give up goes from the
    writer again. So do levels for which it has no room: what is kept never takes more than the writer may.
    """

    def __init__(self, lineage: Lineage, provenance: dict, plan: Plan, writer: Writer | None = None,
                 image: int = 0, part: Callable[[tuple[int, int]], Part] | None = None) -> None:
        """``part`` says what is kept of a picture whose latents have a height and width; None: all of it."""
        self._part_of, self._parts = part, dict[str, Part]()  # by pass
        self.lineage, self.image, self.provenance, self.plan = lineage, image, provenance, plan
        self._blocks = plan.blocks
        self._writer = writer
        self._held: dict[str, Tensor] = {}  # without a writer
        self._sizes: dict[str, int] = {}  # of all that is kept, by name
        self._kept_as: dict[str, dict[Site, Representation]] = {}
        self._calls: dict[str, list[RecordedCall]] = {}
        self._given: dict[str, dict[Kind, list[int]]] = {}
        self._contents: dict[tuple[str, bytes], int] = {}
        self._levels: dict[str, Levels] = {}
        self._pass, self._size, self._sigma = "", (0, 0), 0.0
        self._pictures: dict[str, tuple[int, int]] = {}  # height and width of each pass's latents
        self._now: dict[Kind, tuple[int, int]] = {}  # in the call that runs: the row to keep and the recorded call
        self._left: int | None = None  # of the writer's room before the last call's features
        self._most_a_call = 0  # bytes that the features of a call of this pass took
        self._thinned = False
        self._outcome, self._tiled = Outcome(), False
        self._watch: Watch | None = None
        self._marked: dict[str, dict] = {}

    def begin_pass(self, name: str, sigmas: Sequence[float] | None = None, word: Word | None = None) -> None:
        """Starts "base" or "hires" (again): what was recorded of a pass of that name is forgotten.

        ``sigmas`` are the noise levels of the pass where they are known in advance: nothing else is then even looked
        at. Where a ``word`` of the prompt is in the picture is kept, too.
        """
        self._watch = Watch(self.lineage, self._of_mine(word)) if word else None
        self.cross_sites = self._watch.sites if self._watch else ()
        self._marked.pop(name, None)
        self._drop([each for each in self._sizes if each.startswith(name + "/")])
        self._parts.pop(name, None)
        self._contents = {key: number for key, number in self._contents.items() if key[0] != name}
        self._pass, self._calls[name], self._given[name], self._kept_as[name] = name, [], {}, {}
        self._levels[name] = Levels(self.plan, sigmas, self._room() is not None)
        self._now, self._outcome = {}, Outcome()
        self._left, self._most_a_call = None, 0

    @property
    def share(self) -> float:
        """How much of the picture is kept."""
        return min((part.share for part in self._parts.values()), default=1.0)

    @property
    def hears_blocks(self) -> bool:
        return bool(self._blocks)

    def call(self, call: ModelCall) -> None:
        self._outcome.calls += 1
        self._look(call)
        self._now, self._size, self._sigma = {}, call.size, call.sigma
        self._tiled = self._tiled or call.tiled
        if call.tiled:  # what a layer sees of a tile is no picture's feature
            return
        left, levels = self._room(), self._levels[self._pass]
        if self._left is not None and left is not None:
            self._most_a_call = max(self._most_a_call, self._left - left)
        self._left = None
        if call.host:
            self._pictures[self._pass] = call.size
        before = list(levels.kept)
        wanted = levels.wants(call.sigma)
        for sigma in set(before) - set(levels.kept):
            self._drop_level(self._pass, sigma)
        first = self.plan.levels is None or any(visit == 0 for visit in call.visits.values())
        wanted = wanted and first and bool(self.plan.sites) and self._has_room(call.sigma)
        for kind, visit in call.visits.items():
            row = call.row_of(kind, self.image)
            if row is None:
                continue
            index = self._index(call.sigma, visit)
            if call.host and self.plan.trajectory and levels.in_part(call.sigma):
                self._see(index, kind, self._inputs(call, row))
            if wanted and kind.branch in self.plan.branches and (visit == 0 or self.plan.levels is None):
                self._now[kind] = row, index
        if self._now:
            self._left = self._room()
        self._outcome.acted += bool(self._now)

    def attention(self, site: Site, own: Tensor, layer: SiteInput) -> Tensor:
        if self._watch:
            self._watch.self_attention(site, layer)
        for kind, (row, index) in list(self._now.items()):
            if kind in self._now:  # its level may just have been given up
                self.keep(index, site, kind, layer, row)
        return own

    def block(self, block: Block, output: Tensor) -> Tensor:
        for kind, (row, index) in list(self._now.items()):
            if kind in self._now:
                self.keep_block(index, block, kind, output[row])
        return output

    def cross_attention(self, site: Site, layer: PromptInput) -> None:
        if self._watch:
            self._watch.cross_attention(site, layer)

    def finish(self) -> Outcome:
        if self._watch:
            self._watch.end()
            if mask := self._watch.mask(self.image):
                self._marked[self._pass] = {"words": self._watch.word.text, **mask.kept()}
        levels = self._levels[self._pass]
        if self._thinned:
            self._outcome.note(f"There was room for {len(levels.kept)} noise levels only." if levels.kept else
                               "There was no room for features, so only the trajectory is kept.")
        return self._outcome

    def keep(self, call: int, site: Site, kind: Kind, layer: SiteInput, row: int) -> None:
        """Keeps one feature, if the plan wants this site, as the plan says, on the CPU."""
        key, representation = Key(self._pass, call, site, kind), self.plan.sites.get(site)
        if representation is None or any(key.tensor_name(part) in self._sizes for part in ("h", "k")):
            return
        hidden = layer.hidden(row) if representation.what == "hidden" else None
        k = v = grid = None
        if hidden is not None:
            count = len(hidden)
        else:  # asked for, or nobody knows what K and V are made of
            representation, (k, v) = replace(representation, what="kv"), layer.key_values(row)
            count = len(k)
        part = self._part(self._size)
        if representation.merges(count) or part:
            try:
                grid = token_grid(count, *self._size)
            except ValueError as error:
                if part:
                    raise NoPlaces from error
                #   # another extension has merged tokens (ToMe) or cut the picture: no parts to be found
                representation = replace(representation, pool=1, tokens=None)
        self._kept_as[self._pass][site] = representation
        kept = part.kept(representation.grid(*grid)) if part and grid else None
        for name, value in encode(representation, hidden, k, v, grid, kept).items():
            if not self._keep(key.tensor_name(name), value):
                break

    def keep_block(self, call: int, block: Block, kind: Kind, output: Tensor) -> None:
        """Keeps the statistics of a block's output ``[C, H, W]``, if the plan wants them. Raises
        :class:`ReferenceProblem` where they are not finite."""
        name = Key(self._pass, call, block, kind).tensor_name(STATISTICS)
        if block not in self._blocks or name in self._sizes:
            return
        part = self._part(self._size)
        share = None if part is None else part.over(output.shape[-2:]).to(output.device)
        found = statistics(output[None], share)[0].cpu()
        if not torch.isfinite(found).all():
            raise ReferenceProblem("This generation has NaN or infinite numbers in its blocks, so it was not saved; "
                                   "try full precision (--no-half) or another model.")
        dtype = self._blocks[block]
        limit = torch.finfo(dtype).max
        self._keep(name, found.clamp(-limit, limit).to(dtype))

    def place(self, sigma: float, visit: int, size: tuple[int, int]) -> int:
        """The index of the recorded call at this level and visit, which joins the others where it is new; for
        replays."""
        self._size = size
        if size != (0, 0):
            self._pictures[self._pass] = size
        return self._index(sigma, visit)

    def reference(self, name: str) -> Reference:
        """What was recorded, as a reference. Raises :class:`ReferenceProblem` where there is nothing to keep."""
        manifest = self._finished(name)
        return Reference(name, manifest, passes_from(self._calls, self._held, self.plan.percent), dict(self._held),
                         sum(self._sizes.values()))

    def commit(self) -> Saved:
        """Finishes the writer's file. Raises :class:`ReferenceProblem` as :meth:`reference` does, and StoreProblem."""
        assert self._writer is not None
        while True:
            try:
                return self._writer.commit(self._finished(""))
            except LimitReached:  # of what its manifest takes
                if self._give_up() is None:
                    raise

    def abort(self) -> None:
        """Nothing will come of it: the writer leaves nothing behind."""
        if self._writer:
            self._writer.abort()

    def _look(self, call: ModelCall) -> None:
        """Where the words are is looked for in the call that begins."""
        if self._watch:
            self._watch.begin_call(call)

    def _of_mine(self, word: Word) -> Word:
        """In the one picture that is kept."""
        return replace(word, places=lambda row: word.places(row) if row.image == self.image else ())

    def _inputs(self, call: ModelCall, row: int) -> dict[str, Tensor]:
        """What is kept as what the model was called on there, see :meth:`Reference.inputs`."""
        assert call.host
        return call.host.inputs(row)

    def _index(self, sigma: float, visit: int) -> int:
        calls, call = self._calls[self._pass], RecordedCall(sigma, visit)
        if call not in calls:
            calls.append(call)
        return calls.index(call)

    def _part(self, size: tuple[int, int]) -> Part | None:
        """What is kept of this pass's picture, whose latents have ``size``; it is kept beside that."""
        if self._part_of is None:
            return None
        if self._pass not in self._parts:
            self._parts[self._pass] = self._part_of(size)
            self._keep(part_name(self._pass), self._parts[self._pass].mask)
        return self._parts[self._pass]

    def _see(self, call: int, kind: Kind, inputs: Mapping[str, Tensor]) -> None:
        """The model is called on ``inputs`` (see :meth:`Reference.inputs`): a part of the trajectory."""
        if trajectory_name(self._pass, call, "x", kind) in self._sizes:
            return
        self._part((inputs["x"].shape[-2], inputs["x"].shape[-1]))
        for part in ("x", "t"):
            self._keep(trajectory_name(self._pass, call, part, kind), inputs[part])
        conditioning = {name: _own(value) for name, value in inputs.items() if name not in ("x", "t")}
        content = (self._pass, _digest(conditioning))
        number = self._contents.setdefault(content, len(self._contents))
        for name, value in conditioning.items():
            if (stored := given_name(self._pass, number, name)) not in self._sizes:
                self._keep(stored, value)
        numbers = self._given[self._pass].setdefault(kind, [])
        numbers += [-1] * (call + 1 - len(numbers))
        numbers[call] = number

    def _keep(self, name: str, value: Tensor) -> bool:
        """Whether it was kept: not a feature of a level that has to be given up for want of room."""
        value = _own(value)
        while self._writer:
            try:
                self._writer.add(name, value)
                break
            except LimitReached:
                gone = self._give_up()
                if gone is None:
                    raise
                if gone == (self._pass, self._sigma):
                    self._now = {}
                    if is_feature(name):
                        return False
        else:
            self._held[name] = value
        self._sizes[name] = value.nbytes
        return True

    def _has_room(self, sigma: float) -> bool:
        """Whether features of another call may be kept, at this level of noise: other levels are given up for it where
        they are missed less."""
        left = self._room()
        if left is None:
            return True
        kept = self._levels[self._pass].kept
        while left is not None and left < self._most_a_call and sigma in kept and self._give_up() is not None:
            left, kept = self._room(), self._levels[self._pass].kept
        return sigma in kept

    def _room(self) -> int | None:
        """The bytes that the writer may still take; None where there is no limit."""
        return self._writer.left if self._writer else None

    def _give_up(self) -> tuple[str, float] | None:
        """Lets the level go that is missed least, of the pass that has most; None where there is none left."""
        name = max(self._levels, key=lambda each: (len(self._levels[each].kept), each == self._pass))
        gone = self._levels[name].give_up()
        if gone is None:
            return None
        self._drop_level(name, gone)
        self._thinned = True
        return name, gone

    def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            del self._sizes[name]
            self._held.pop(name, None)
        if self._writer and names:
            self._writer.drop(names)

    def _drop_level(self, pass_name: str, sigma: float, trajectory: bool = False) -> None:
        """Lets go of a level's features, of its latents only where asked."""
        starts = tuple(f"{pass_name}/{index:04d}/" for index, call in enumerate(self._calls[pass_name])
                       if call.sigma == sigma)
        self._drop([name for name in self._sizes if name.startswith(starts)
                    and (trajectory or not is_trajectory(name))])

    def _finished(self, name: str) -> dict:
        """The manifest; before it, what turned out to lie beyond the part of the schedule asked for is dropped."""
        for pass_name, calls in self._calls.items():
            for sigma in self._levels[pass_name].end():
                self._drop_level(pass_name, sigma)
            least = threshold([call.sigma for call in calls], self.plan.percent)
            for sigma in {call.sigma for call in calls if call.sigma < least}:
                self._drop_level(pass_name, sigma, trajectory=True)
                for numbers in self._given[pass_name].values():
                    numbers[:] = [-1 if calls[index].sigma == sigma else number for index, number in enumerate(numbers)]
        if all(map(is_part, self._sizes)):  # which are nothing by themselves
            self._drop(list(self._sizes))
        if not self._sizes and self._tiled:
            raise ReferenceProblem("The picture was made in tiles, of which no reference can be made, so none was "
                                   "saved; switch MultiDiffusion or Tiled Diffusion off for a Save.")
        if not self._sizes and self._thinned:
            raise ReferenceProblem("There was no room for a single noise level, so no reference was saved; allow it "
                                   "more.")
        if not self._sizes:
            raise ReferenceProblem("Nothing was recorded, so no reference was saved: the model made no call at the "
                                   "layers chosen.")
        given = {name: {kind: numbers + [-1] * (len(self._calls[name]) - len(numbers))
                        for kind, numbers in kinds.items()}
                 for name, kinds in self._given.items()}
        return compose(self.lineage, self.provenance, self.plan, self._kept_as, sum(self._sizes.values()), self._calls,
                       given, name, self._pictures, self._marked,
                       {each: part.share for each, part in self._parts.items()})


def _digest(conditioning: Mapping[str, Tensor]) -> bytes:
    """Equal for equal conditionings only."""
    digest = hashlib.sha256()
    for name in sorted(conditioning):
        value = conditioning[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def _own(value: Tensor) -> Tensor:
    """A copy on the CPU that does not hold on to a larger tensor."""
    value = value.detach().to("cpu")
    if value.untyped_storage().nbytes() > value.nbytes or not value.is_contiguous():
        value = value.clone(memory_format=torch.contiguous_format)
    return value
