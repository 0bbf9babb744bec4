"""A reference: who made it and how, which model calls it saw, and the features kept of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from .sites import COND, UNCOND, Lineage, Site, other_branch

FORMAT_VERSION = 1


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
        """The name in a file; ``part`` is "k" or "v"."""
        return f"{self.pass_name}/{self.call:04d}/{self.site}/{self.branch}/{part}"

    @classmethod
    def parse(cls, name: str) -> tuple[Key, str]:
        """The inverse of :meth:`tensor_name`. Raises ValueError for another name."""
        pass_name, call, site, branch, part = name.split("/")
        if branch not in (COND, UNCOND) or part not in ("k", "v"):
            raise ValueError(f"no feature is named {name}")
        return cls(pass_name, int(call), Site.parse(site), branch), part


@dataclass(frozen=True)
class PassRecord:
    """The calls of one recorded pass and which of them, by branch, have features."""

    calls: tuple[Call, ...]
    kept: Mapping[str, frozenset[int]]

    def branch_for(self, branch: str) -> str:
        """The branch itself, or the other one where the reference was made without it (CFG 1, say)."""
        return branch if self.kept.get(branch) else other_branch(branch)

    def nearest(self, sigma: float, visit: int, branch: str) -> int | None:
        """The call whose features serve at ``sigma``: the nearest kept one in log sigma.

        Of several calls at that sigma the ``visit``-th serves, or the last. None beyond the end of what was kept, that
        is where the nearest call of the *recorded* run lies outside the kept range: a reference of the first half of a
        schedule is silent in the second.
        """
        kept = self.kept.get(branch)
        if not kept:
            return None

        def distance(call: Call) -> float:
            return abs(_log(call.sigma) - _log(sigma))

        low, high = min(self.calls[i].sigma for i in kept), max(self.calls[i].sigma for i in kept)
        if not low <= min(self.calls, key=distance).sigma <= high:
            return None
        best = min((self.calls[i] for i in kept), key=distance).sigma
        visits = sorted(i for i in kept if self.calls[i].sigma == best)
        return min(visits, key=lambda i: (abs(self.calls[i].visit - visit), i))


@dataclass
class Reference:
    """One generation that later ones are guided by.

    ``manifest`` is plain JSON (prompt, seed, sampler, model and so on); ``features`` maps tensor names
    (:meth:`Key.tensor_name`) to ``[tokens, width]`` tensors and may read them from a file when asked.
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

    def key_values(self, key: Key) -> tuple[Tensor, Tensor]:
        """K and V of one feature, each ``[tokens, width]``, in the precision they were kept in."""
        return self.features[key.tensor_name("k")], self.features[key.tensor_name("v")]

    def sites(self, pass_name: str) -> set[Site]:
        """The sites that have features in a pass."""
        return {key.site for key in keys_of(self.features) if key.pass_name == pass_name}


def keys_of(names: Iterable[str]) -> set[Key]:
    """The feature keys among tensor names. Raises ValueError for a name that is none."""
    return {Key.parse(name)[0] for name in names}


def passes_from(calls: Mapping[str, Iterable[Call]], names: Iterable[str]) -> dict[str, PassRecord]:
    """The pass records that belong to recorded calls and the tensor names kept of them."""
    kept: dict[str, dict[str, set[int]]] = {name: {} for name in calls}
    for key in keys_of(names):
        kept[key.pass_name].setdefault(key.branch, set()).add(key.call)
    return {name: PassRecord(tuple(calls[name]), {branch: frozenset(found) for branch, found in kept[name].items()})
            for name in calls}


def describe_lineage(lineage: Lineage) -> dict[str, str]:
    """The manifest's words about a lineage."""
    return {"lineage": lineage.signature, "family": lineage.family}


def _log(sigma: float) -> float:
    return math.log(max(sigma, 1e-6))
