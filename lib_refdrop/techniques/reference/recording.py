"""Save: collects what a plan wants while a pass runs, and makes a reference of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from uuid import uuid4

import torch
from torch import Tensor

from ...references.codec import Representation, encode
from ...words import ReferenceProblem
from ...references.plan import Plan
from ...references.reference import (FORMAT_VERSION, Call, Key, Reference, describe_lineage, given_name, passes_from,
                        trajectory_name)
from .rfg import token_grid
from ...model.sites import Lineage, Site
from ...model.layer import SiteInput
from ...stores import Saved, Writer


class Recorder:
    """What is kept of one image, number ``image`` of ``images`` in a batch, over all passes of its generation.

    With a ``writer`` everything goes there as it comes, so that a large reference is never held in memory; otherwise
    :meth:`reference` has it. A plan's percentage keeps the noisiest part of each pass's schedule, at least one step:
    with the schedule known in advance (``sigmas`` of :meth:`begin_pass`) nothing else is ever held, otherwise the rest
    is held until the end of the pass and dropped there.
    """

    def __init__(self, lineage: Lineage, provenance: dict, plan: Plan, writer: Writer | None = None, image: int = 0,
                 images: int = 1) -> None:
        self.lineage, self.image, self.images = lineage, image, images
        self.provenance, self.plan, self._writer = provenance, plan, writer
        self._calls: dict[str, list[Call]] = {}
        self._levels: list[float] = []  # of the pass that runs, as they came
        self._held: dict[str, Tensor] = {}
        self._names: set[str] = set()
        self._kept_as: dict[Site, Representation] = {}
        self._bytes = 0
        self._pass, self._least, self._size = "", 0.0, (0, 0)

    def begin_pass(self, name: str, sigmas: Sequence[float] | None = None) -> None:
        """Starts "base" or "hires" (again): what was recorded of a pass of that name is forgotten.

        Raises :class:`ReferenceProblem` where that has been written already.
        """
        if self._writer and any(each.startswith(name + "/") for each in self._names - set(self._held)):
            raise ReferenceProblem(f"The {name} pass was run twice in one generation, so no reference was saved; keep it "
                                   "in RAM instead.")
        self._held = {key: value for key, value in self._held.items() if not key.startswith(name + "/")}
        self._names = {key for key in self._names if not key.startswith(name + "/")}
        self._pass, self._calls[name], self._levels = name, [], []
        self._least = threshold(sigmas, self.plan.percent) if sigmas else 0.0

    def call(self, sigma: float, visit: int, size: tuple[int, int] = (0, 0)) -> int:
        """The index of the call at this sigma and visit; a second part of one call (the other branch) joins it.

        ``size`` is the latent's height and width, which merging tokens needs.
        """
        calls, call = self._calls[self._pass], Call(sigma, visit)
        if call not in calls:
            calls.append(call)
            if sigma not in self._levels:
                self._levels.append(sigma)
        self._size = size
        return calls.index(call)

    def wants(self, sigma: float, branch: str) -> bool:
        """Whether the plan keeps features of a branch at this noise level."""
        return (bool(self.plan.sites) and branch in self.plan.branches and sigma >= self._least
                and self._levels.index(sigma) % self.plan.stride == 0)

    def saw(self, call: int, branch: str, inputs: Mapping[str, Tensor]) -> None:
        """The UNet is called on ``inputs`` (see :meth:`Reference.inputs`): a part of the trajectory."""
        for name, value in inputs.items():
            stored = (trajectory_name(self._pass, call, name, branch) if name in ("x", "t")
                      else given_name(self._pass, branch, name))
            if stored not in self._names:
                self._keep(stored, value)

    def wants_trajectory(self, sigma: float) -> bool:
        """Whether the plan keeps what the UNet is called on at this noise level."""
        return self.plan.trajectory and sigma >= self._least

    def keep(self, call: int, site: Site, branch: str, layer: SiteInput, row: int) -> None:
        """Keeps one feature, if the plan wants this site, as the plan says, on the CPU."""
        key, representation = Key(self._pass, call, site, branch), self.plan.sites.get(site)
        if representation is None or not self._names.isdisjoint(key.tensor_name(part) for part in ("h", "k")):
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

    def _keep(self, name: str, value: Tensor) -> None:
        value = _own(value)
        self._names.add(name)
        self._bytes += value.nbytes
        if self._writer is None or (self.plan.percent < 100 and not self._least):
            self._held[name] = value
        else:
            self._writer.add(name, value)

    def reference(self, name: str) -> Reference:
        """What was recorded, as a reference. Raises :class:`ReferenceProblem` where there is nothing to keep."""
        manifest = self._finish(name)
        return Reference(name, manifest, passes_from(self._calls, self._held, self.plan.stride), dict(self._held),
                         self._bytes)

    def commit(self) -> Saved:
        """Finishes the writer's file. Raises :class:`ReferenceProblem` as :meth:`reference` does, and StoreProblem."""
        manifest = self._finish("")
        for held, value in self._held.items():
            self._writer.add(held, value)
        self._held = {}
        return self._writer.commit(manifest)

    def abort(self) -> None:
        """Nothing will come of it: the writer leaves nothing behind."""
        if self._writer:
            self._writer.abort()

    def _finish(self, name: str) -> dict:
        for pass_name, calls in self._calls.items():
            least = threshold([call.sigma for call in calls], self.plan.percent)
            late = tuple(f"{pass_name}/{index:04d}/" for index, call in enumerate(calls) if call.sigma < least)
            for key in [key for key in self._held if key.startswith(late)] if late else ():
                self._bytes -= self._held.pop(key).nbytes
                self._names.discard(key)
        if not self._names:
            raise ReferenceProblem("Nothing was recorded, so no reference was saved: the model made no call at the layers "
                                   "chosen.")
        return {
            "format": FORMAT_VERSION, "name": name, "id": uuid4().hex, "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **describe_lineage(self.lineage), **self.provenance,
            "kept": {**replace(self.plan, sites=self._kept_as).manifest(), "bytes": self._bytes},
            "passes": {name: [list(call) for call in calls] for name, calls in self._calls.items()},
        }


def threshold(sigmas: Sequence[float], percent: float) -> float:
    """The smallest sigma among the first ``percent`` of a schedule; the end of a schedule, sigma 0, is no step."""
    steps = sorted({sigma for sigma in sigmas if sigma > 0}, reverse=True)
    if percent >= 100 or not steps:
        return 0.0
    # A hair more than the number itself: schedules reach us in single precision by different roads.
    return steps[max(1, math.ceil(len(steps) * percent / 100)) - 1] * (1 - 1e-4)


def _own(value: Tensor) -> Tensor:
    """A copy on the CPU that does not hold on to a larger tensor."""
    value = value.detach().to("cpu")
    if value.untyped_storage().nbytes() > value.nbytes or not value.is_contiguous():
        value = value.clone(memory_format=torch.contiguous_format)
    return value
