"""Save: collects what a plan wants while passes run, and makes a reference of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from uuid import uuid4

import torch
from torch import Tensor

from ...model.layer import ModelCall, SiteInput
from ...model.rows import Kind
from ...model.schedule import SAME, crowded, descending, spread, threshold
from ...model.sites import Lineage, Site
from ...references.codec import Representation, encode
from ...references.plan import Plan
from ...references.reference import (
    FORMAT_VERSION,
    GIVEN,
    Key,
    RecordedCall,
    Reference,
    describe_lineage,
    given_name,
    is_trajectory,
    passes_from,
    trajectory_name,
)
from ...stores import Saved, Writer
from ...words import ReferenceProblem
from ..technique import Outcome, Technique
from .rfg import token_grid


class Recording(Technique):
    """What is kept of one image, number ``image`` of a batch, over all passes of its generation; changes no picture.

    With a ``writer`` everything goes there as it comes, so that a large reference is never held in memory; otherwise
    :meth:`reference` has it. Which noise levels are kept is decided by :class:`_Levels`: what they give up goes from the
    writer again, so that at no time more is kept than the plan allows.
    """

    def __init__(self, lineage: Lineage, provenance: dict, plan: Plan, writer: Writer | None = None, image: int = 0) -> None:
        self.lineage, self.image, self.provenance, self.plan = lineage, image, provenance, plan
        self._writer = writer
        self._held: dict[str, Tensor] = {}  # without a writer
        self._sizes: dict[str, int] = {}  # of all that is kept, by name
        self._kept_as: dict[Site, Representation] = {}
        self._calls: dict[str, list[RecordedCall]] = {}
        self._given: dict[str, dict[Kind, list[int]]] = {}
        self._contents: dict[tuple[str, bytes], int] = {}
        self._pass, self._levels, self._size = "", _Levels(plan, None), (0, 0)
        self._now: dict[Kind, tuple[int, int]] = {}  # in the call that runs: the row to keep and the recorded call
        self._outcome, self._tiled = Outcome(), False

    def begin_pass(self, name: str, sigmas: Sequence[float] | None = None) -> None:
        """Starts "base" or "hires" (again): what was recorded of a pass of that name is forgotten.

        ``sigmas`` are the noise levels of the pass where they are known in advance: nothing else is then even looked at.
        """
        self._drop([each for each in self._sizes if each.startswith(name + "/")])
        self._contents = {key: number for key, number in self._contents.items() if key[0] != name}
        self._pass, self._calls[name], self._given[name] = name, [], {}
        self._levels, self._now, self._outcome = _Levels(self.plan, sigmas), {}, Outcome()

    def call(self, call: ModelCall) -> None:
        self._outcome.calls += 1
        self._now, self._size = {}, call.size
        self._tiled = self._tiled or call.tiled
        if call.tiled:  # what a layer sees of a tile is no picture's feature
            return
        wanted = self._levels.wants(call.sigma)
        for sigma in self._levels.given_up():
            self._drop_level(sigma)
        for kind, visit in call.visits.items():
            row = call.row_of(kind, self.image)
            if row is None:
                continue
            index = self._index(call.sigma, visit)
            if call.host and self.plan.trajectory and self._levels.in_part(call.sigma):
                self._see(index, kind, call.host.inputs(row))
            if wanted and kind.branch in self.plan.branches and self.plan.sites:
                self._now[kind] = row, index
        self._outcome.acted += bool(self._now)

    def attention(self, site: Site, own: Tensor, layer: SiteInput) -> Tensor:
        for kind, (row, index) in self._now.items():
            self.keep(index, site, kind, layer, row)
        return own

    def finish(self) -> Outcome:
        return self._outcome

    def keep(self, call: int, site: Site, kind: Kind, layer: SiteInput, row: int) -> None:
        """Keeps one feature, if the plan wants this site, as the plan says, on the CPU."""
        key, representation = Key(self._pass, call, site, kind), self.plan.sites.get(site)
        if representation is None or any(key.tensor_name(part) in self._sizes for part in ("h", "k")):
            return
        hidden = layer.hidden(row) if representation.what == "hidden" else None
        k = v = None
        if hidden is None:  # asked for, or nobody knows what K and V are made of
            representation, (k, v) = replace(representation, what="kv"), layer.key_values(row)
        count, grid = len(k if hidden is None else hidden), None
        representation = replace(representation, pool=self.plan.kept_as(site, count).pool)
        if representation.pool > 1:
            try:
                grid = token_grid(count, *self._size)
            except ValueError:  # another extension has merged tokens (ToMe) or cut the picture: no squares to be found
                representation = replace(representation, pool=1)
        self._kept_as[site] = representation
        for part, value in encode(representation, hidden, k, v, grid).items():
            self._keep(key.tensor_name(part), value)

    def place(self, sigma: float, visit: int, size: tuple[int, int]) -> int:
        """The index of the recorded call at this level and visit, which joins the others where it is new; for replays."""
        self._size = size
        return self._index(sigma, visit)

    def reference(self, name: str) -> Reference:
        """What was recorded, as a reference. Raises :class:`ReferenceProblem` where there is nothing to keep."""
        manifest = self._finished(name)
        return Reference(name, manifest, passes_from(self._calls, self._held, self.plan.percent), dict(self._held),
                         sum(self._sizes.values()))

    def commit(self) -> Saved:
        """Finishes the writer's file. Raises :class:`ReferenceProblem` as :meth:`reference` does, and StoreProblem."""
        return self._writer.commit(self._finished(""))

    def abort(self) -> None:
        """Nothing will come of it: the writer leaves nothing behind."""
        if self._writer:
            self._writer.abort()

    def _index(self, sigma: float, visit: int) -> int:
        calls, call = self._calls[self._pass], RecordedCall(sigma, visit)
        if call not in calls:
            calls.append(call)
        return calls.index(call)

    def _see(self, call: int, kind: Kind, inputs: Mapping[str, Tensor]) -> None:
        """The model is called on ``inputs`` (see :meth:`Reference.inputs`): a part of the trajectory."""
        if trajectory_name(self._pass, call, "x", kind) in self._sizes:
            return
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

    def _keep(self, name: str, value: Tensor) -> None:
        value = _own(value)
        self._sizes[name] = value.nbytes
        if self._writer is None:
            self._held[name] = value
        else:
            self._writer.add(name, value)

    def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            del self._sizes[name]
            self._held.pop(name, None)
        if self._writer and names:
            self._writer.drop(names)

    def _drop_level(self, sigma: float, trajectory: bool = False) -> None:
        """Lets go of a level's features, of its latents only where asked."""
        starts = tuple(f"{self._pass}/{index:04d}/" for index, call in enumerate(self._calls[self._pass])
                       if call.sigma == sigma)
        self._drop([name for name in self._sizes if name.startswith(starts) and (trajectory or not is_trajectory(name))])

    def _finished(self, name: str) -> dict:
        """The manifest; before it, what turned out to lie beyond the part of the schedule asked for is dropped."""
        for pass_name, calls in self._calls.items():
            self._pass = pass_name
            least = threshold([call.sigma for call in calls], self.plan.percent)
            for sigma in {call.sigma for call in calls if call.sigma < least}:
                self._drop_level(sigma, trajectory=True)
                for numbers in self._given[pass_name].values():
                    numbers[:] = [-1 if calls[index].sigma == sigma else number for index, number in enumerate(numbers)]
        if not self._sizes and self._tiled:
            raise ReferenceProblem("The picture was made in tiles, of which no reference can be made, so none was saved; switch "
                                   "MultiDiffusion or Tiled Diffusion off for a Save.")
        if not self._sizes:
            raise ReferenceProblem("Nothing was recorded, so no reference was saved: the model made no call at the layers "
                                   "chosen.")
        return {
            "format": FORMAT_VERSION, "name": name, "id": uuid4().hex,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **describe_lineage(self.lineage), **self.provenance,
            "kept": {**replace(self.plan, sites=self._kept_as).manifest(), "bytes": sum(self._sizes.values())},
            "passes": {name: [list(call) for call in calls] for name, calls in self._calls.items()},
            GIVEN: {name: {str(kind): numbers + [-1] * (len(self._calls[name]) - len(numbers))
                           for kind, numbers in kinds.items()} for name, kinds in self._given.items()},
        }


class _Levels:
    """Which noise levels of a pass are kept.

    With the schedule known they are :func:`~lib_refdrop.model.schedule.spread` over the part of it that the plan asks for.
    Otherwise, and from the first call on that is not of that schedule, every level is kept as it comes, and of more than
    the plan allows the one that is missed least is given up.
    """

    def __init__(self, plan: Plan, sigmas: Sequence[float] | None) -> None:
        self._count, self._percent = plan.levels, plan.percent
        self._schedule = descending(sigmas or [])
        self._least = threshold(self._schedule, plan.percent) if self._schedule else 0.0
        self._chosen = spread([sigma for sigma in self._schedule if sigma >= self._least], plan.levels)
        self._kept: list[float] = []
        self._given_up: list[float] = []
        self._known = bool(self._schedule)

    def wants(self, sigma: float) -> bool:
        """Whether features are to be kept at this level, which the model is called at now."""
        if self._known and self._count is not None and not _among(sigma, self._schedule):
            # Samplers of second order call the model between two levels of their schedule; those were never counted on.
            if self._kept and _among_span(sigma, self._schedule):
                return False
            self._known = False
        if not self.in_part(sigma):
            return False
        if self._known and self._count is not None and not _among(sigma, self._chosen):
            return False
        if sigma not in self._kept:
            self._kept.append(sigma)
            if self._count is not None and len(self._kept) > self._count:
                gone = crowded(self._kept)
                self._kept.remove(gone)
                self._given_up.append(gone)
        return sigma in self._kept

    def in_part(self, sigma: float) -> bool:
        """Whether a level lies in the part of the schedule that was asked for, as far as that is known."""
        return sigma >= self._least

    def given_up(self) -> list[float]:
        """Levels that were kept and are to go, since this was asked last."""
        gone, self._given_up = self._given_up, []
        return gone


def _among(sigma: float, levels: Sequence[float]) -> bool:
    return any(abs(sigma - level) <= SAME * level for level in levels)


def _among_span(sigma: float, levels: Sequence[float]) -> bool:
    return levels[-1] * (1 - SAME) <= sigma <= levels[0] * (1 + SAME)


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
