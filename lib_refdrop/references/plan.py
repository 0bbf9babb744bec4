"""What is kept of a generation: presets, and the best that fits a budget. Sizes are known before anything is made."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from .codec import Representation, encoded_bytes
from .contributions import Contributions, load
from ..model.rows import BRANCHES, COND
from ..model.schedule import spread, threshold
from ..model.sites import SECTIONS, Lineage, Site
from ..words import said

MEGABYTE = 10**6
_LATENT_CHANNELS, _PROMPT_TOKENS = 4, 77
_MANIFEST, _A_CALL = 1700, 15  # bytes of a file's manifest but for the plan, and for each call recorded
_LEAST_ROOM, _MOST_ROOM = 2**13, 2**20  # a file written as the run goes leaves a hundredth of it for the header
_ENTRY = len('"":{"dtype":"F16","shape":[],"data_offsets":[,]},')  # of each tensor in the header, but for what differs


@dataclass(frozen=True)
class Plan:
    """What to keep of a generation.

    ``sites`` not in it are not kept; ``levels`` is how many noise levels have features, spread evenly in log sigma (None:
    all), whatever the number of steps; ``percent`` cuts the schedule's quiet end off (at least one level stays);
    ``trajectory`` keeps what the UNet was called on, at every level that is left, so that everything can be computed again. Tokens are merged only in layers that have more than
    ``merge_over``: of a small picture each tells much, and attention over few costs little. ``explanation`` is a line
    for people.
    """

    name: str
    sites: Mapping[Site, Representation]
    branches: tuple[str, ...] = BRANCHES
    levels: int | None = None
    percent: float = 100.0
    trajectory: bool = True
    explanation: str = ""
    merge_over: int = 0

    def chosen_of(self, sigmas: Iterable[float]) -> set[float]:
        """Which of a schedule's noise levels have features."""
        sigmas = list(sigmas)
        least = threshold(sigmas, self.percent)
        return set(spread([sigma for sigma in sigmas if sigma >= least], self.levels))

    def kept_as(self, site: Site, count: int) -> Representation | None:
        """How a site is kept in a picture that gives it ``count`` tokens; None where it is not."""
        representation = self.sites.get(site)
        if representation and representation.pool > 1 and count <= self.merge_over:
            return replace(representation, pool=1)
        return representation

    def manifest(self) -> dict:
        """The plan as plain JSON; sites under the words of how they are kept."""
        sites: dict[str, list[str]] = {}
        for site, representation in sorted(self.sites.items()):
            sites.setdefault(str(representation), []).append(str(site))
        return {"plan": self.name, "explanation": self.explanation, "sites": sites, "branches": list(self.branches),
                "levels": self.levels, "save_percent": self.percent, "trajectory": self.trajectory}


@dataclass(frozen=True)
class Picture:
    """What is about to be recorded: the latent's cells, the model calls a branch, how many branches, the bytes of one
    of the model's numbers, and the bytes of one branch's conditioning (None: as usual for the model)."""

    height: int
    width: int
    steps: int
    branches: int = 2
    element_size: int = 2
    given: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A plan for any model. ``pools`` is the side of the square of tokens merged into one: first in the layers that see
    the picture finest, then one halving coarser and so on; the last goes for all that are coarser still."""

    precision: str = "own"
    pools: tuple[int, ...] = (1,)
    levels: int | None = None
    branches: tuple[str, ...] = BRANCHES
    sections: tuple[str, ...] = SECTIONS
    trajectory: bool = True
    merge_over: int = 0

    def plan(self, name: str, lineage: Lineage, percent: float = 100.0) -> Plan:
        finest = _finest(lineage)
        sites = {site: self.kept_as(lineage.sites[site].level - finest) for site in lineage.chosen(self.sections)}
        return Plan(name, sites, self.branches, self.levels, percent, self.trajectory, f"{name}: {self.words()}.",
                    self.merge_over)

    def kept_as(self, coarser: int) -> Representation:
        """The representation so many halvings below the finest layers."""
        return Representation("hidden", self.precision, self.pools[min(coarser, len(self.pools) - 1)])

    def words(self, branches: int = 2) -> str:
        """How features are kept, for people; of so many branches that there are."""
        if not self.sections:
            return "the trajectory only; features are computed again when it is used"
        precision = "the model's own precision" if self.precision == "own" else self.precision
        sides = [f"{pool}×{pool} tokens merged" if pool > 1 else "all tokens" for pool in self.pools]
        if len(self.pools) > 1:
            sides = [f"{sides[0]} in the finest layers", f"{sides[1]} in the others"]
        elif self.pools == (1,):
            sides = []
        elif self.merge_over:
            sides = [f"{sides[0]} in layers of more than {self.merge_over}"]
        levels = "every noise level" if self.levels is None else f"{self.levels} noise levels"
        left_out = [section for section in SECTIONS if section not in self.sections]
        sites = [f"without the {' and '.join(left_out)} layers"] if left_out else []
        which = "both branches" if len(self.branches) > 1 else f"{self.branches[0]}itional branch only"
        return ", ".join([f"hidden states in {precision}", *sides, levels, *sites, *[which] * (branches > 1)])

    def changes(self) -> list[str]:
        """What it does to an exact reference, in the words of :mod:`~lib_refdrop.references.contributions`."""
        pools = "_".join(map(str, self.pools))
        found = [self.precision] if self.precision != "own" else []
        found += [f"pool{pools}"] if pools != "1" else []
        found += [f"levels{self.levels}"] if self.levels is not None else []
        found += ["cond_only"] if self.branches == (COND,) else []
        return found + [f"without_{section}" for section in SECTIONS if section not in self.sections]


# The presets, best first. What they keep of the effect and their sizes are in the README.
RECIPES = {
    "Exact": Recipe(trajectory=False),
    "Balanced": Recipe("int4", pools=(2,), levels=3, merge_over=2048),
    "Small": Recipe("int4", pools=(2,), levels=2, sections=("middle", "output"), merge_over=2048),
    "Tiny": Recipe(sections=()),
}
PRESETS = tuple(RECIPES)

# What a budget chooses among.
PRECISIONS = ("own", "fp16", "int8", "int4")
POOLS = ((1,), (2, 1), (4, 1), (2,), (4, 2), (4,))
LEVELS = (None, 10, 7, 5, 4, 3, 2)


def preset(name: str, lineage: Lineage) -> Plan:
    """One of :data:`PRESETS`, the same for pictures of all sizes. Raises KeyError for another name."""
    return RECIPES[name].plan(name, lineage)


def within(budget_bytes: int, lineage: Lineage, picture: Picture, table: Contributions | None = None,
           sections: tuple[str, ...] = SECTIONS, percent: float = 100.0) -> Plan:
    """The plan that keeps most of the effect in ``budget_bytes``, and says in a line what it does.

    What several changes leave is predicted as the product of what each leaves, in full per cent, because it was not
    measured more exactly; of equals the smallest is taken. Changes that were not measured are not made. Where not even
    the smallest recipe fits, the trajectory alone is kept. ``sections`` and ``percent`` are the user's own choice and
    count as no loss.
    """
    table, name = table or load(), f"{budget_bytes / MEGABYTE:g} MB"
    kinds, best = _kinds(lineage), None
    for recipe in _recipes(sections, picture):
        kept = _predicted(recipe, table, sections)
        if kept is None or (best and kept < best[0]):
            continue
        size = _recipe_bytes(recipe, kinds, lineage, picture, percent)
        if size <= budget_bytes and (best is None or (kept, -size) > best[:2]):
            best = kept, -size, recipe
    if best is None:
        plan = Recipe(sections=()).plan(name, lineage, percent)
        size = said(estimate(plan, lineage, picture))
        return replace(plan, explanation=f"{name}: too little for features, so only the trajectory is kept and they "
                                         f"are computed again when it is used ({size}).")
    plan = best[2].plan(name, lineage, percent)
    size = said(estimate(plan, lineage, picture))
    return replace(plan, explanation=f"{name}: {best[2].words(picture.branches)}; expected to keep "
                                     f"{100 * best[0]:.0f} % of the effect ({size}).")


def tokens(site: Site, lineage: Lineage, picture: Picture) -> tuple[int, int]:
    """Rows and columns of a site's tokens: the latent's, halved as often as its level says, rounding up each time."""
    return _grid(lineage.sites[site].level, picture)


def levels_kept(plan: Plan, steps: int) -> int:
    """How many of ``steps`` noise levels have features."""
    return _levels(plan.percent, plan.levels, steps)


def estimate(plan: Plan, lineage: Lineage, picture: Picture) -> int:
    """The bytes of the file that a plan's recording of one pass will be: numbers, header and manifest."""
    alike = Counter((plan.kept_as(site, math.prod(tokens(site, lineage, picture))), _kind(site, lineage))
                    for site in plan.sites)
    calls = min(len(plan.branches), picture.branches) * levels_kept(plan, picture.steps)
    parts = [calls * count * _feature(*what, picture) for what, count in alike.items()]
    manifest = len(json.dumps(json.dumps(plan.manifest())))
    return _file_bytes(parts + [_trajectory(lineage, picture, plan.percent)] * plan.trajectory, manifest, picture)


class _Share(NamedTuple):
    """What tensors take in a file: bytes of their numbers, letters in its header but for the digits of their places,
    and how many they are."""

    numbers: int
    letters: int
    tensors: int

    def __rmul__(self, count: int) -> _Share:
        return _Share(*(count * part for part in self))


class _Kind(NamedTuple):
    """What decides the size of a site's features."""

    section: str
    level: int
    width: int
    letters: int  # of its name


def _kind(site: Site, lineage: Lineage) -> _Kind:
    shape = lineage.sites[site]
    return _Kind(site.section, shape.level, shape.width, len(str(site)))


def _kinds(lineage: Lineage) -> Counter[_Kind]:
    return Counter(_kind(site, lineage) for site in lineage.sites)


def _recipe_bytes(recipe: Recipe, kinds: Counter[_Kind], lineage: Lineage, picture: Picture, percent: float) -> int:
    """:func:`estimate` of a recipe, without making its plan: a budget looks at thousands."""
    finest, calls = _finest(lineage), _levels(percent, recipe.levels, picture.steps)
    calls *= min(len(recipe.branches), picture.branches)
    chosen = [(kind, count) for kind, count in kinds.items() if kind.section in recipe.sections]
    parts = [calls * count * _feature(recipe.kept_as(kind.level - finest), kind, picture) for kind, count in chosen]
    manifest = 500 + sum(count * (kind.letters + len('\\"\\", ')) for kind, count in chosen)
    return _file_bytes(parts + [_trajectory(lineage, picture, percent)], manifest, picture)


def _feature(representation: Representation, kind: _Kind, picture: Picture) -> _Share:
    """One feature."""
    grid = _grid(kind.level, picture)
    parts = _parts(representation, grid, kind.width)
    entries = sum(_ENTRY + len("base/0000//uncond/") + kind.letters + letters for letters in parts)
    numbers = encoded_bytes(representation, grid, kind.width, kind.width, picture.element_size)
    return _Share(numbers, entries, len(parts))


def _trajectory(lineage: Lineage, picture: Picture, percent: float) -> _Share:
    """Latent and timestep of every call and branch, and the conditioning."""
    latent = _LATENT_CHANNELS * picture.height * picture.width * picture.element_size
    given = _given(lineage) * picture.element_size if picture.given is None else picture.given
    steps = _levels(percent, None, picture.steps)
    tensors = 2 * steps + 1
    entries = tensors * (_ENTRY + len("base/0000/x/uncond") + len("4,64,64") // 2)
    return picture.branches * _Share(steps * (latent + 8) + given, entries, tensors)


def _file_bytes(parts: list[_Share], manifest: int, picture: Picture) -> int:
    numbers, letters, tensors = (sum(part) for part in zip(_Share(0, 0, 0), *parts))
    header = letters + tensors * 2 * len(str(numbers)) + _MANIFEST + _A_CALL * picture.steps + manifest
    return numbers + max(header, min(max(numbers // 100, _LEAST_ROOM), _MOST_ROOM))


def _finest(lineage: Lineage) -> int:
    return min((shape.level for shape in lineage.sites.values()), default=0)


def _grid(level: int, picture: Picture) -> tuple[int, int]:
    return -(-picture.height // 2**level), -(-picture.width // 2**level)  # halving and rounding up, level times over


def _levels(percent: float, levels: int | None, steps: int) -> int:
    noisy = steps if percent >= 100 else max(1, math.ceil(steps * percent / 100))
    return noisy if levels is None else min(noisy, levels)


def _predicted(recipe: Recipe, table: Contributions, sections: tuple[str, ...]) -> float | None:
    """The share of the effect that a recipe should keep, in full per cent; None where a change was not measured."""
    given_up = {f"without_{section}" for section in SECTIONS if section not in sections}
    kept = [table.of(change) for change in recipe.changes() if change not in given_up]
    return None if None in kept else round(math.prod(kept), 2)


def _parts(representation: Representation, grid: tuple[int, int], width: int) -> list[int]:
    """The letters of the name and the shape of each tensor of one feature."""
    count, pool = len(str(grid[0] * grid[1] // representation.pool**2)), representation.pool
    names = ["h"] if representation.what == "hidden" else ["k", "v"]
    letters = [len("h") + count + 1 + len(str(width)) for _ in names]
    if representation.precision in ("int8", "fp8", "int4"):
        letters += [len("h.scale2,") + len(str(width)) for _ in names]
    return letters + [len("w") + count] * any(side > pool and side % pool for side in grid)


def _given(lineage: Lineage) -> int:
    """How many numbers the conditioning of one branch has, for a prompt of usual length."""
    context = {"SD1.5": 768, "SD2": 1024, "SDXL": 2048}.get(
        lineage.family, max((shape.width for shape in lineage.sites.values()), default=0))
    return _PROMPT_TOKENS * context + (2816 if lineage.family == "SDXL" else 0)


def _recipes(sections: tuple[str, ...], picture: Picture) -> Iterator[Recipe]:
    """Everything a budget may choose, the least changed first."""
    some = [part for count in range(len(sections), 0, -1) for part in itertools.combinations(sections, count)]
    branches = (BRANCHES, (COND,)) if picture.branches > 1 else (BRANCHES,)
    for precision, pools, levels, kept, part in itertools.product(PRECISIONS, POOLS, LEVELS, branches, some):
        if precision != "fp16" or picture.element_size > 2:
            yield Recipe(precision, pools, levels, kept, part)

