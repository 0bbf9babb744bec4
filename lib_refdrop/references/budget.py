"""The best of a generation that fits into so many bytes."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from ..model.rows import BRANCHES, COND
from ..model.sites import SECTIONS, Lineage
from ..stores import safetensors
from ..stores.safetensors import Entry
from ..words import said
from .codec import Representation, described
from .contributions import Contributions, load
from .part import Part
from .plan import Plan, Recipe, statistics_type
from .reference import STATISTICS
from .sizes import FLOATS, Picture, estimate, features_kept, grid_at, manifest_text, tensors

MEGABYTE = 10**6
# What there is to choose among.
PRECISIONS = ("own", "fp16", "int8", "int4")
TOKENS = (None, 2048, 1024, 512, 256)
LEVELS = (None, 10, 7, 5, 4, 3, 2)
_LONGEST_NAME = "hires/0000/{}/uncond/{}"
_LAST = 10**10  # where a tensor may lie in its file at most
_MANIFEST = 500  # letters more than usual that it may have
_IN_MANIFEST = len('\\"\\", ')  # round a site's name


def within(budget_bytes: int, lineage: Lineage, *pictures: Picture, table: Contributions | None = None,
           sections: tuple[str, ...] = SECTIONS, percent: float = 100.0) -> Plan:
    """The plan that keeps most of the effect in ``budget_bytes`` over all passes, and says in a line what it does.

    What several changes leave is predicted as the product of what each leaves. Of equals the least changed is taken:
    nothing is given up for nothing. Changes that were not measured are not made. Where not even the smallest recipe
    fits, the trajectory alone is kept. ``sections`` and ``percent`` are the user's own choice and count as no loss.
    """
    table, name = table or load(), f"{budget_bytes / MEGABYTE:g} MB"
    kinds, best = (_kinds(lineage), _blocks(lineage)), None
    branches = max(picture.branches for picture in pictures)
    rest, room = _all_but_features(lineage, pictures, percent), safetensors.room(budget_bytes)
    for recipe in _recipes(sections, pictures):
        kept = _predicted(recipe, table, sections, _merged(recipe, lineage, pictures))
        if kept is None or (best and kept <= best[0]):
            continue
        if _most_bytes(recipe, kinds, rest, pictures, percent, room) <= budget_bytes:
            best = kept, recipe
    if best is None:
        plan = Recipe(sections=()).plan(name, lineage, percent)
        size = said(estimate(plan, lineage, *pictures))
        return replace(plan, explanation=f"{name}: too little for features, so only the trajectory is kept and they "
                                         f"are computed again when it is used ({size}).")
    plan = best[1].plan(name, lineage, percent)
    size = said(estimate(plan, lineage, *pictures))
    return replace(plan, explanation=f"{name}: {best[1].words(branches)}; expected to keep "
                                     f"{100 * best[0]:.0f} % of the effect ({size}).")


class _Kind(NamedTuple):
    """What decides the size of a site's features."""

    section: str
    level: int
    width: int
    letters: int  # of its name


def _kinds(lineage: Lineage) -> Counter[_Kind]:
    return Counter(_Kind(site.section, shape.level, shape.width, len(str(site)))
                   for site, shape in lineage.sites.items())


class _BlockKind(NamedTuple):
    """What decides the size of a block's statistics."""

    section: str
    width: int
    letters: int


def _blocks(lineage: Lineage) -> Counter[_BlockKind]:
    return Counter(_BlockKind(block.section, width, len(str(block))) for block, width in lineage.blocks.items())


def _most_bytes(recipe: Recipe, kinds: tuple[Counter[_Kind], Counter[_BlockKind]], rest: _Share,
                pictures: tuple[Picture, ...], percent: float, room: int) -> int:
    """At most so many bytes a writer counts for a recipe, without making its plan: a budget looks at thousands.
    ``rest`` is all but its features, ``room`` what is left for the header at least."""
    plan, total = Plan("", {}, recipe.branches, recipe.levels, percent), rest
    for picture in pictures:
        features = features_kept(plan, picture)
        for kind, count in kinds[0].items():
            if kind.section in recipe.sections:
                each = _feature(recipe.kept_as, kind, grid_at(kind.level, picture), picture.element_size, picture.part)
                total = _Share(total.numbers + features * count * each.numbers,
                               total.letters + features * count * each.letters + count * (kind.letters + _IN_MANIFEST))
        for block, count in kinds[1].items():
            if block.section in recipe.sections:
                each = _statistics(recipe.kept_as, block)
                total = _Share(total.numbers + features * count * each.numbers,
                               total.letters + features * count * each.letters)
    return total.numbers + max(room, total.letters)


class _Share(NamedTuple):
    """Bytes of tensors' numbers, and at most so many that they take in the header."""

    numbers: int
    letters: int


def _all_but_features(lineage: Lineage, pictures: tuple[Picture, ...], percent: float) -> _Share:
    plan, numbers = Recipe(sections=()).plan("", lineage, percent), 0
    letters = _MANIFEST + len(json.dumps(manifest_text(plan, lineage, pictures)))
    for picture in pictures:
        for name, dtype, shape in tensors(plan, lineage, picture):
            numbers += math.prod(shape) * dtype.itemsize
            letters += safetensors.letters_of(name, Entry(safetensors.NAMES[dtype], shape, _LAST, _LAST))
    return _Share(numbers, letters)


@lru_cache(maxsize=4096)
def _feature(how: Representation, kind: _Kind, grid: tuple[int, int], element_size: int,
             whole_or_part: Part | None = None) -> _Share:
    """One feature."""
    numbers = letters = 0
    for part, (dtype, shape) in described(how, grid, kind.width, FLOATS[element_size],
                                              whole_or_part).items():
        numbers += math.prod(shape) * dtype.itemsize
        name = _LONGEST_NAME.format("a" * kind.letters, part)
        letters += safetensors.letters_of(name, Entry(safetensors.NAMES[dtype], shape, _LAST, _LAST))
    return _Share(numbers, letters)


@lru_cache(maxsize=4096)
def _statistics(how: Representation, kind: _BlockKind) -> _Share:
    """Those of one block."""
    dtype, shape = statistics_type(how), (2, kind.width)
    entry = Entry(safetensors.NAMES[dtype], shape, _LAST, _LAST)
    return _Share(math.prod(shape) * dtype.itemsize,
                  safetensors.letters_of(_LONGEST_NAME.format("a" * kind.letters, STATISTICS), entry))


def _predicted(recipe: Recipe, table: Contributions, sections: tuple[str, ...], merged: float) -> float | None:
    """The share of the effect that a recipe should keep; None where a change was not measured. ``merged`` is how many
    of the finest layers' tokens become one."""
    given_up = {f"without_{section}" for section in SECTIONS if section not in sections}
    kept = [table.of(change) for change in recipe.changes() if change not in given_up] + [table.merging(merged)]
    return math.prod(each for each in kept if each is not None) if None not in kept else None


def _merged(recipe: Recipe, lineage: Lineage, pictures: tuple[Picture, ...]) -> float:
    """How many tokens become one, on average, where most are merged."""
    finest = min((shape.level for shape in lineage.sites.values()), default=0)
    grids = [grid_at(finest, picture) for picture in pictures]
    return max(math.prod(grid) / math.prod(recipe.kept_as.grid(*grid)) for grid in grids)


def _recipes(sections: tuple[str, ...], pictures: tuple[Picture, ...]) -> Iterator[Recipe]:
    """Everything a budget may choose, the least changed first."""
    some = [part for count in range(len(sections), 0, -1) for part in itertools.combinations(sections, count)]
    branches = (BRANCHES, (COND,)) if any(picture.branches > 1 for picture in pictures) else (BRANCHES,)
    for precision, most, levels, kept, part in itertools.product(PRECISIONS, TOKENS, LEVELS, branches, some):
        if precision != "fp16" or any(picture.element_size > 2 for picture in pictures):
            yield Recipe(precision, most, levels, kept, part)
