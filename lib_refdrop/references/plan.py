"""What is kept of a generation: a plan for one model, recipes for any, and the presets among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..model.rows import BRANCHES, COND
from ..model.schedule import spread, threshold
from ..model.sites import SECTIONS, Block, Lineage, Site
from .codec import Representation


@dataclass(frozen=True)
class Plan:
    """What to keep of a generation.

    ``sites`` not in it are not kept; ``levels`` is how many noise levels have features (None: all, and every call at
    each), spread over the schedule whatever the number of steps; ``percent`` cuts the schedule's quiet end off (at
    least one level stays); ``trajectory`` keeps what the model was called on, at every level that is left, so that
    everything can be computed again. ``explanation`` is a line for people. Where sites are kept, so are the statistics
    of their blocks' outputs, which are small.
    """

    name: str
    sites: Mapping[Site, Representation]
    branches: tuple[str, ...] = BRANCHES
    levels: int | None = None
    percent: float = 100.0
    trajectory: bool = True
    explanation: str = ""

    @property
    def blocks(self) -> dict[Block, torch.dtype]:
        """The blocks of whose outputs statistics are kept, and in what type."""
        return {Block(site.section, site.block): statistics_type(how) for site, how in self.sites.items()}

    def chosen_of(self, sigmas: Iterable[float], among: Iterable[float] | None = None) -> set[float]:
        """Which of a schedule's noise levels have features; with ``among`` no others can."""
        sigmas = list(sigmas)
        least = threshold(sigmas, self.percent)
        return set(spread([sigma for sigma in sigmas if sigma >= least], self.levels, among))

    def only(self, sections: tuple[str, ...], percent: float) -> Plan:
        """The part of it that a user chose: sections, and a part of the schedule."""
        return replace(self, percent=percent,
                       sites={site: how for site, how in self.sites.items() if site.section in sections})

    def note(self, steps: int) -> str:
        """A sentence where fewer noise levels are kept than serve ``steps`` of them well; otherwise nothing."""
        if not self.sites or self.levels is None or self.levels >= served_well(steps):
            return ""
        return (f"{self.levels} noise {'level serves' if self.levels == 1 else 'levels serve'} {steps} steps less well "
                f"than {served_well(steps)} do; keep more where the likeness matters.")

    def manifest(self, kept_as: Mapping[str, Mapping[Site, Representation]] | None = None) -> dict[str, Any]:
        """The plan as plain JSON; sites by pass, under the words of how they are kept: as planned, or as in
        ``kept_as``."""
        passes: dict[str, dict[str, list[str]]] = {}
        for name, how in ({"base": self.sites} if kept_as is None else kept_as).items():
            passes[name] = {}
            for site, representation in sorted(how.items()):
                passes[name].setdefault(str(representation), []).append(str(site))
        return {"plan": self.name, "explanation": self.explanation, "sites": passes, "branches": list(self.branches),
                "levels": self.levels, "save_percent": self.percent, "trajectory": self.trajectory}


@dataclass(frozen=True)
class Recipe:
    """A plan for any model: at most ``tokens`` of each layer are kept (None: all), of ``levels`` noise levels (None:
    all)."""

    precision: str = "own"
    tokens: int | None = None
    levels: int | None = None
    branches: tuple[str, ...] = BRANCHES
    sections: tuple[str, ...] = SECTIONS
    trajectory: bool = True

    def plan(self, name: str, lineage: Lineage, percent: float = 100.0) -> Plan:
        sites = dict.fromkeys(lineage.chosen(self.sections), self.kept_as)
        return Plan(name, sites, self.branches, self.levels, percent, self.trajectory, f"{name}: {self.words()}.")

    @property
    def kept_as(self) -> Representation:
        return Representation("hidden", self.precision, tokens=self.tokens)

    def words(self, branches: int = 2) -> str:
        """How features are kept, for people; of so many branches that there are."""
        if not self.sections:
            return "the trajectory only; features are computed again when it is used"
        precision = "the model's own precision" if self.precision == "own" else self.precision
        merged = [] if self.tokens is None else [f"at most {self.tokens} tokens a layer"]
        levels = "every noise level" if self.levels is None else f"{self.levels} noise levels"
        left_out = [section for section in SECTIONS if section not in self.sections]
        sites = [f"without the {' and '.join(left_out)} layers"] if left_out else []
        which = "both branches" if len(self.branches) > 1 else f"{self.branches[0]}itional branch only"
        return ", ".join([f"hidden states in {precision}", *merged, levels, *sites, *[which] * (branches > 1)])

    def changes(self) -> list[str]:
        """What it does to an exact reference, in the words of :mod:`~lib_refdrop.references.contributions`; merging
        tokens, whose cost depends on how many there are, apart."""
        found = [self.precision] if self.precision != "own" else []
        found += [f"levels{self.levels}"] if self.levels is not None else []
        found += ["cond_only"] if self.branches == (COND,) else []
        return found + [f"without_{section}" for section in SECTIONS if section not in self.sections]


# The presets, best first. What they keep of the effect and their sizes are in the README.
RECIPES = {
    "Exact": Recipe(trajectory=False),
    "Balanced": Recipe("int4", 896, levels=3),
    "Small": Recipe("int4", 896, levels=2, sections=("middle", "output")),
    "Tiny": Recipe(sections=()),
}
PRESETS = tuple(RECIPES)


def preset(name: str, lineage: Lineage) -> Plan:
    """One of :data:`PRESETS`, the same for pictures of all sizes. Raises KeyError for another name."""
    return RECIPES[name].plan(name, lineage)


def statistics_type(how: Representation) -> torch.dtype:
    """Of the statistics of a block whose sites are kept so."""
    return torch.float32 if how.precision == "own" else torch.float16


def served_well(steps: int) -> int:
    """How many noise levels serve so many steps well."""
    return min(steps, 2)
