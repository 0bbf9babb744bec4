"""A reference: who made it and how, which model calls it saw, and what is kept of them.

Tensors have names, in memory as in a file:

- a *feature*, in parts (:data:`~lib_refdrop.references.codec.PARTS`): ``base/0003/output.4.1/cond/h``;
- the *trajectory*: what the UNet was called on, ``base/0003/x/cond`` (a latent) and ``base/0003/t/cond`` (its
  timestep), and once for a pass the conditioning, ``base/given/cond/context``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from .codec import PARTS
from ..model.sites import BRANCHES, COND, UNCOND, Lineage, Site, other_branch

FORMAT_VERSION = 1
_GIVEN, _SEEN = "given", ("x", "t")


class Call(NamedTuple):
    """One model call of a recorded pass: its noise level, and which visit of that level it was.

    Samplers of second order (Heun) come to a sigma twice, with other latents; both are recorded.
    """

    sigma: float
    visit: int = 0


class Key(NamedTuple):
    """Where a feature belongs: pass ("base" or "hires"), index into its calls, site, branch."""

    pass_name: str
    call: int
    site: Site
    branch: str

    def tensor_name(self, part: str) -> str:
        """The name of one of its parts."""
        return f"{self.pass_name}/{self.call:04d}/{self.site}/{self.branch}/{part}"

    @classmethod
    def parse(cls, name: str) -> tuple[Key, str]:
        """The inverse of :meth:`tensor_name`. Raises ValueError for another name."""
        pass_name, call, site, branch, part = name.split("/")
        if branch not in (COND, UNCOND) or part not in PARTS:
            raise ValueError(f"no feature is named {name}")
        return cls(pass_name, int(call), Site.parse(site), branch), part


@dataclass(frozen=True)
class PassRecord:
    """The calls of one recorded pass and which of them, by branch, have features: every ``stride``-th noise level."""

    calls: tuple[Call, ...]
    kept: Mapping[str, frozenset[int]]
    stride: int = 1

    def branch_for(self, branch: str) -> str:
        """The branch itself, or the other one where the reference was made without it (CFG 1, say)."""
        return branch if self.kept.get(branch) else other_branch(branch)

    def nearest(self, sigma: float, visit: int, branch: str) -> int | None:
        """The call whose features serve at ``sigma``: the nearest kept one in log sigma.

        Of several calls at that sigma the ``visit``-th serves, or the last. None beyond the end of what was kept, that
        is where the nearest call of the *recorded* run lies outside the range that the kept ones speak for: a reference
        of the first half of a schedule is silent in the second.
        """
        kept = self.kept.get(branch)
        if not kept:
            return None

        def distance(call: Call) -> float:
            return abs(_log(call.sigma) - _log(sigma))

        low, high = self._reach(kept)
        if not low <= min(self.calls, key=distance).sigma <= high:
            return None
        best = min((self.calls[i] for i in kept), key=distance).sigma
        visits = sorted(i for i in kept if self.calls[i].sigma == best)
        return min(visits, key=lambda i: (abs(self.calls[i].visit - visit), i))

    def _reach(self, kept: frozenset[int]) -> tuple[float, float]:
        """The least and the greatest recorded sigma that the kept calls speak for.

        With every n-th level kept, each speaks for those up to the next kept one.
        """
        levels = sorted({call.sigma for call in self.calls}, reverse=True)
        places = [levels.index(self.calls[i].sigma) for i in kept]
        return levels[min(max(places) + self.stride - 1, len(levels) - 1)], levels[min(places)]


@dataclass
class Reference:
    """One generation that later ones are guided by.

    ``manifest`` is plain JSON (prompt, seed, sampler, model and so on); ``features`` maps the names of tensors, features
    and trajectory, to tensors and may read them from a file when asked.
    """

    name: str
    manifest: dict
    passes: dict[str, PassRecord]
    features: Mapping[str, Tensor] = field(repr=False)
    nbytes: int = 0

    @property
    def lineage(self) -> str:
        """The signature of the model family it was made with."""
        return self.manifest["lineage"]

    @cached_property
    def _parts(self) -> dict[Key, list[str]]:
        found: dict[Key, list[str]] = {}
        for name in self.features:
            if not is_trajectory(name):
                key, part = Key.parse(name)
                found.setdefault(key, []).append(part)
        return found

    def feature(self, key: Key) -> dict[str, Tensor] | None:
        """The parts of one feature as they were kept, or None where it was not."""
        parts = self._parts.get(key)
        return {part: self.features[key.tensor_name(part)] for part in parts} if parts else None

    def sites(self, pass_name: str) -> set[Site]:
        """The sites that have features in a pass."""
        return {key.site for key in self._parts if key.pass_name == pass_name}

    def seen(self, pass_name: str, branch: str) -> list[int]:
        """The calls of a pass whose latent was kept, for replay."""
        return [index for index in range(len(self.passes[pass_name].calls))
                if trajectory_name(pass_name, index, "x", branch) in self.features]

    def latent_size(self, pass_name: str) -> tuple[int, int]:
        """Height and width of the latents of a pass that has a trajectory."""
        branch = COND if self.seen(pass_name, COND) else UNCOND
        return tuple(self.features[trajectory_name(pass_name, self.seen(pass_name, branch)[0], "x", branch)].shape[-2:])

    def inputs(self, pass_name: str, call: int, branch: str) -> dict[str, Tensor]:
        """What the UNet was called on: ``x`` ``[C, h, w]``, ``t`` (a number) and the conditioning by name."""
        given = f"{pass_name}/{_GIVEN}/{branch}/"
        found = {name[len(given):]: self.features[name] for name in self.features if name.startswith(given)}
        return found | {part: self.features[trajectory_name(pass_name, call, part, branch)] for part in _SEEN}


def trajectory_name(pass_name: str, call: int, part: str, branch: str) -> str:
    """The name of a call's latent (``x``) or timestep (``t``)."""
    return f"{pass_name}/{call:04d}/{part}/{branch}"


def given_name(pass_name: str, branch: str, name: str) -> str:
    """The name of a piece of conditioning, the same for all calls of a pass."""
    return f"{pass_name}/{_GIVEN}/{branch}/{name}"


def is_trajectory(name: str) -> bool:
    """Whether a tensor's name belongs to a trajectory, not to a feature."""
    return name.count("/") == 3


def check_names(names: Iterable[str], calls: Mapping[str, list[Call]]) -> None:
    """Raises ValueError or KeyError where tensors are named wrongly, are incomplete, or belong to no recorded call."""
    names, parts = set(names), {}
    for name in names:
        if is_trajectory(name):
            _check_trajectory(name, names, calls)
        else:
            key, part = Key.parse(name)
            if not 0 <= key.call < len(calls[key.pass_name]):
                raise ValueError("features without a call")
            parts.setdefault(key, set()).add(part)
    for key, found in parts.items():
        if not ("h" in found or {"k", "v"} <= found) or ("h" in found and found & {"k", "v"}):
            raise ValueError("a feature is incomplete")


def _check_trajectory(name: str, names: set[str], calls: Mapping[str, list[Call]]) -> None:
    pass_name, second, third, fourth = name.split("/")
    if second == _GIVEN:
        if third not in BRANCHES or pass_name not in calls:
            raise ValueError(f"no conditioning is named {name}")
    elif third not in _SEEN or fourth not in BRANCHES or not 0 <= int(second) < len(calls[pass_name]):
        raise ValueError(f"no latent is named {name}")
    elif any(trajectory_name(pass_name, int(second), part, fourth) not in names for part in _SEEN):
        raise ValueError("a latent is without its timestep")


def passes_from(calls: Mapping[str, Iterable[Call]], names: Iterable[str], stride: int = 1) -> dict[str, PassRecord]:
    """The pass records that belong to recorded calls and the tensor names kept of them, every ``stride``-th level."""
    kept: dict[str, dict[str, set[int]]] = {name: {} for name in calls}
    for name in names:
        if not is_trajectory(name):
            key, _ = Key.parse(name)
            kept[key.pass_name].setdefault(key.branch, set()).add(key.call)
    return {name: PassRecord(tuple(calls[name]), {branch: frozenset(found) for branch, found in kept[name].items()},
                             stride) for name in calls}


def describe_lineage(lineage: Lineage) -> dict[str, str]:
    """The manifest's words about a lineage."""
    return {"lineage": lineage.signature, "family": lineage.family}


def _log(sigma: float) -> float:
    return math.log(max(sigma, 1e-6))
