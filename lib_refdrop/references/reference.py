"""A reference: who made it and how, which model calls it saw, and what is kept of them.

Tensors have names, in memory as in a file (``cond`` stands for any kind of row, see
:class:`~lib_refdrop.model.rows.Kind`):

- a *feature*, in parts (:data:`~lib_refdrop.references.codec.PARTS`): ``base/0003/output.4.1/cond/h``;
- the *statistics* of a block's output (from format 3 on), mean and standard deviation by channel ``[2, C]``:
  ``base/0003/output.4/cond/stats``;
- the *mask* of a pass that was saved with one (from format 3 on), ``[h, w]`` uint8 of its latents' size: ``base/mask``.
  Its features have the tokens that it leaves, see :class:`~.part.Part`;
- the *trajectory*: what the model was called on, ``base/0003/x/cond`` (a latent) and ``base/0003/t/cond`` (its
  timestep), and its conditioning, once for each that differs: ``base/given/0/context``. The manifest's ``given`` says
  which of them each call had. (Format 1 has one conditioning a pass and branch, ``base/given/cond/context``.)
  """

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple
from uuid import uuid4

import torch
from torch import Tensor

from ..model.rows import COND, Kind
from ..model.schedule import distance, reach, threshold
from ..model.sites import Block, Lineage, Site
from ..words import ReferenceProblem
from .codec import PARTS
from .part import Part

FORMAT_VERSION = 3
STATISTICS = "stats"
GIVEN = "given"
_SEEN = ("x", "t")
_LARGEST = 1e6  # far beyond what fp16 can hold



# There are few of them, in the names of a hundred thousand tensors.
@lru_cache(4096)
def _place(text: str) -> Site | Block:
    return Site.parse(text) if text.count(".") == 2 else Block.parse(text)


_kind = lru_cache(256)(Kind.parse)


class RecordedCall(NamedTuple):
    """One model call of a recorded pass: its noise level, and which visit of that level it was.

    Samplers of second order (Heun) come to a sigma twice, with other latents; both are recorded.
    """

    sigma: float
    visit: int = 0


class Key(NamedTuple):
    """Where a feature belongs: pass ("base" or "hires"), index into its calls, site or block, kind of row."""

    pass_name: str
    call: int
    site: Site | Block
    kind: Kind

    def tensor_name(self, part: str) -> str:
        """The name of one of its parts."""
        return f"{self.pass_name}/{self.call:04d}/{self.site}/{self.kind}/{part}"

    @classmethod
    def parse(cls, name: str) -> tuple[Key, str]:
        """The inverse of :meth:`tensor_name`. Raises ValueError for another name, also for another spelling of one."""
        pass_name, call, site, kind, part = name.split("/")
        key = cls(pass_name, int(call), _place(site), _kind(kind))
        known = part in PARTS if isinstance(key.site, Site) else part == STATISTICS
        if not known or f"{key.call:04d}" != call:
            raise ValueError(f"no feature is named {name}")
        return key, part


class Served(NamedTuple):
    """The recorded call, and the kind of its rows, whose features serve a row of a model call."""

    kind: Kind
    call: int


@dataclass(frozen=True)
class PassRecord:
    """The calls of one recorded pass and which of them, by kind of row, have features.

    ``percent`` is the part of the schedule that was asked for, from its noisy start: beyond it the reference is silent.
    """

    calls: tuple[RecordedCall, ...]
    kept: Mapping[Kind, frozenset[int]]
    percent: float = 100.0

    @cached_property
    def levels(self) -> list[float]:
        """The noise levels that have features, the noisiest first."""
        return sorted({self.calls[call].sigma for calls in self.kept.values() for call in calls}, reverse=True)

    @cached_property
    def _known(self) -> list[float]:
        return sorted({call.sigma for call in self.calls})

    def covers(self, sigma: float) -> bool:
        """Whether the reference speaks for this noise level: within what was recorded and asked for.

        Down to the picture itself where all of the schedule was asked for; upwards as :func:`~.schedule.reach` says.
        """
        if not self._known or sigma > self._highest:
            return False
        return min(self._known, key=lambda known: distance(known, sigma)) >= self._least

    @cached_property
    def _highest(self) -> float:
        return reach(self._known)

    @cached_property
    def _least(self) -> float:
        return threshold(self._known, self.percent)

    @cached_property
    def _by_level(self) -> dict[float, dict[Kind, list[int]]]:
        found: dict[float, dict[Kind, list[int]]] = {}
        for kind, calls in self.kept.items():
            for call in sorted(calls):
                found.setdefault(self.calls[call].sigma, {}).setdefault(kind, []).append(call)
        return found

    def serving(self, sigma: float, visit: int, kind: Kind) -> Served | None:
        """What serves a row at ``sigma``: of the nearest level kept (:func:`distance`), the row's own kind, else the
        first part of its branch, else the other branch. Of several calls at that level the ``visit``-th, or the one
        nearest to it.

        None where the reference does not speak for that level.
        """
        if not self._by_level or not self.covers(sigma):
            return None
        there = self._by_level[min(self._by_level, key=lambda level: (distance(level, sigma), -level))]
        served = kind if kind in there else Kind(kind.branch) if Kind(kind.branch) in there else min(there)
        return Served(served, min(there[served], key=lambda call: (abs(self.calls[call].visit - visit), call)))


@dataclass
class Reference:
    """One generation that later ones are guided by.

    ``manifest`` is plain JSON (prompt, seed, sampler, model and so on); ``features`` maps the names of tensors,
    features and trajectory, to tensors and may read them from a file when asked. ``content`` is equal only where
    everything kept is: that of a file stays the same when it is renamed, opened again or copied.
    """

    name: str
    manifest: dict
    passes: dict[str, PassRecord]
    features: Mapping[str, Tensor] = field(repr=False)
    nbytes: int = 0
    content: str = field(default_factory=lambda: uuid4().hex, repr=False)
    _sound: set[str] = field(default_factory=set, init=False, repr=False)  # tensors whose numbers were looked at

    @property
    def lineage(self) -> str:
        """The signature of the model family it was made with."""
        return self.manifest["lineage"]

    def changed(self) -> bool:
        """Whether its file was written into since it was opened, so that what was read may be of two references. False
        in memory, and once the file is closed; a file replaced as a whole is no change."""
        look = getattr(self.features, "changed", None)
        return look is not None and look()

    def close(self) -> None:
        """Closes its file, if it has one: nothing that was not read yet can be."""
        let_go = getattr(self.features, "close", None)
        if let_go is not None:
            let_go()

    def _tensor(self, name: str) -> Tensor:
        """A tensor whose numbers a model can take. Raises :class:`ReferenceProblem`."""
        tensor = self.features[name]
        if name not in self._sound:
            if not _is_sound(tensor):
                raise ReferenceProblem(f"Reference {self.name!r} is damaged: it holds numbers that no model has "
                                       f"({name}); delete it and save it again.")
            self._sound.add(name)
        return tensor

    @cached_property
    def _parts(self) -> dict[Key, list[str]]:
        found: dict[Key, list[str]] = {}
        for name in self.features:
            if is_feature(name):
                key, part = Key.parse(name)
                found.setdefault(key, []).append(part)
        return found

    @cached_property
    def _seen(self) -> dict[str, dict[Kind, list[int]]]:
        """By pass and kind, the calls whose latent was kept."""
        found: dict[str, dict[Kind, list[int]]] = {}
        for name in self.features:
            if is_trajectory(name):
                pass_name, call, part, kind = name.split("/")
                if part == "x":
                    found.setdefault(pass_name, {}).setdefault(Kind.parse(kind), []).append(int(call))
        return {name: {kind: sorted(calls) for kind, calls in kinds.items()} for name, kinds in found.items()}

    @cached_property
    def _given(self) -> dict[str, dict[str, list[str]]]:
        """By pass and the third part of their names, the names of tensors of conditioning."""
        found: dict[str, dict[str, list[str]]] = {}
        for name in self.features:
            if is_trajectory(name):
                pass_name, second, which, part = name.split("/")
                if second == GIVEN:
                    found.setdefault(pass_name, {}).setdefault(which, []).append(part)
        return found

    def feature(self, key: Key) -> dict[str, Tensor] | None:
        """The parts of one feature as they were kept, or None where it was not. Raises :class:`ReferenceProblem` for
        numbers that are damaged, as :meth:`inputs` does."""
        parts = self._parts.get(key)
        return {part: self._tensor(key.tensor_name(part)) for part in parts} if parts else None

    def sites(self, pass_name: str) -> set[Site]:
        """The sites that have features in a pass."""
        return {key.site for key in self._parts if key.pass_name == pass_name and isinstance(key.site, Site)}

    def blocks(self, pass_name: str) -> set[Block]:
        """The blocks of whose outputs there are statistics in a pass."""
        return {key.site for key in self._parts if key.pass_name == pass_name and isinstance(key.site, Block)}

    def seen(self, pass_name: str) -> Mapping[Kind, list[int]]:
        """By kind of row, the calls of a pass whose latent was kept, for replay."""
        return self._seen.get(pass_name, {})

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The part of the picture that is kept, by pass: of those that were saved with a mask. Raises
        :class:`ReferenceProblem` where a mask is none."""
        try:
            return {name: Part(self.features[part_name(name)]) for name in self.passes
                    if part_name(name) in self.features}
        except ValueError as error:
            raise ReferenceProblem(f"Reference {self.name!r} is damaged: the mask that it was saved with is black; "
                                   "delete it and save it again.") from error

    def latent_size(self, pass_name: str) -> tuple[int, int]:
        """Height and width of the latents of a pass that has a trajectory."""
        kind, calls = next(iter(self.seen(pass_name).items()))
        return tuple(self.features[trajectory_name(pass_name, calls[0], "x", kind)].shape[-2:])

    def inputs(self, pass_name: str, call: int, kind: Kind) -> dict[str, Tensor]:
        """What the model was called on: ``x`` ``[C, h, w]``, ``t`` (a number) and the conditioning by name."""
        which = self.given_number(pass_name, call, kind)
        found = {part: self._tensor(f"{pass_name}/{GIVEN}/{which}/{part}")
                 for part in self._given.get(pass_name, {}).get(which, ())}
        return found | {part: self._tensor(trajectory_name(pass_name, call, part, kind)) for part in _SEEN}

    def given_number(self, pass_name: str, call: int, kind: Kind) -> str:
        """The third part of the names of a call's conditioning: a number, or in format 1 the branch."""
        listed = self.manifest.get(GIVEN, {}).get(pass_name, {}).get(str(kind))
        return str(kind) if listed is None else str(listed[call])


def trajectory_name(pass_name: str, call: int, part: str, kind: Kind) -> str:
    """The name of a call's latent (``x``) or timestep (``t``)."""
    return f"{pass_name}/{call:04d}/{part}/{kind}"


def given_name(pass_name: str, number: int, name: str) -> str:
    """The name of a piece of conditioning; equal ones have one number."""
    return f"{pass_name}/{GIVEN}/{number}/{name}"


def part_name(pass_name: str) -> str:
    """The name of the mask that a pass was saved with."""
    return f"{pass_name}/mask"


def is_part(name: str) -> bool:
    """Whether a tensor's name is that of a pass's mask."""
    return name.count("/") == 1


def is_feature(name: str) -> bool:
    """Whether a tensor's name is that of a part of a feature, or of a block's statistics."""
    return not is_trajectory(name) and not is_part(name)


def is_trajectory(name: str) -> bool:
    """Whether a tensor's name belongs to a trajectory, not to a feature."""
    return name.count("/") == 3


def passes_from(calls: Mapping[str, Iterable[RecordedCall]], names: Iterable[str],
                percent: float = 100.0) -> dict[str, PassRecord]:
    """The pass records that belong to recorded calls and the tensor names kept of them."""
    kept: dict[str, dict[Kind, set[int]]] = {name: {} for name in calls}
    for name in names:
        if is_feature(name):
            key, _ = Key.parse(name)
            kept[key.pass_name].setdefault(key.kind, set()).add(key.call)
    return {name: PassRecord(tuple(calls[name]), {kind: frozenset(found) for kind, found in kinds.items()}, percent)
            for name, kinds in kept.items()}


def _is_sound(tensor: Tensor) -> bool:
    """Whether numbers are finite and of a size that a model may have: beyond it sums of their squares overflow."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.float())  # NaN spreads to both
    return bool(low >= -_LARGEST) and bool(high <= _LARGEST)


def describe_lineage(lineage: Lineage) -> dict[str, str]:
    """The manifest's words about a lineage."""
    return {"lineage": lineage.signature, "family": lineage.family}


def has_branch(kinds: Iterable[Kind], branch: str = COND) -> bool:
    """Whether any of these kinds is of a branch."""
    return any(kind.branch == branch for kind in kinds)
