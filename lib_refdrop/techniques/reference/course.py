"""Where, when and in which branch a reference acts: an expression people can type and paste.

    output.0=0, middle=0.5; 0.1-0.8 ramp 0.1

Parts are divided by semicolons or commas, in any order:

- ``place=factor`` multiplies the strength there: ``all``, a section (``input``, ``middle``, ``output``), a block
  (``output.0``) or a single layer (``output.0.1``). What names a place most exactly decides; the rest is 1.
- ``cond=factor`` and ``uncond=factor`` do so for the branches.
- ``0.1-0.8`` is the part of the schedule, from its noisy start, in which it acts at all (``10%-80%`` is the same);
  ``ramp 0.1`` behind it lets the strength rise and fall over so much of the schedule.
- ``0=0, 0.2=1, 1=0.5`` are points of progress that the factor runs through, in straight lines.
- ``Everything``, ``Free layout`` or ``Style only``: see :data:`PRESETS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ...model.rows import BRANCHES, Kind
from ...model.sites import SECTIONS, Block, Lineage, Site
from ...words import MINUS, SettingsError, shown

EVERYTHING, FREE_LAYOUT, STYLE_ONLY = "Everything", "Free layout", "Style only"
PRESETS = {
    EVERYTHING: "every self-attention layer, as in the paper",
    FREE_LAYOUT: "without the first up-sampling block, which copies pose and place (paper, Table 2)",
    STYLE_ONLY: "only the later half of the up-sampling blocks, where colours and textures are made",
}
_MOST = 1000  # letters of an expression
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)%?"
_WINDOW = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})(?:\s+ramp\s+({_NUMBER}))?")
_FACTOR = re.compile(rf"([a-z0-9.%]+)\s*=\s*(-?{_NUMBER})")
_PLACE = re.compile(rf"all|(?:{'|'.join(SECTIONS)})(?:\.\d+){{0,2}}")
_NEARLY = 1e-6  # of the schedule: steps' own progress is a fraction, and people's numbers are decimal


class Window(NamedTuple):
    """A part of the schedule, as fractions of it; the strength rises after ``start`` and falls before ``until`` over
    ``ramp`` of it."""

    start: float = 0.0
    until: float = 1.0
    ramp: float = 0.0

    def factor(self, progress: float) -> float:
        if progress < self.start - _NEARLY or (progress > self.until - _NEARLY and self.until < 1):
            return 0.0
        if not self.ramp:
            return 1.0
        rising = 1.0 if self.start <= 0 else (progress - self.start) / self.ramp
        falling = 1.0 if self.until >= 1 else (self.until - progress) / self.ramp
        return min(1.0, max(0.0, rising), max(0.0, falling))


@dataclass(frozen=True)
class Course:
    """A factor from -1 to 1 for every site, branch and progress; made by :func:`parse`."""

    places: Mapping[str, float] = field(default_factory=dict)
    branches: Mapping[str, float] = field(default_factory=dict)
    window: Window = Window()
    points: tuple[tuple[float, float], ...] = ()
    preset: str = EVERYTHING

    def over_progress(self, progress: float) -> float:
        """The factor at a progress from 0, the noisy start, to 1."""
        return self.window.factor(progress) * _between(self.points, progress)

    def in_branch(self, kind: Kind) -> float:
        return self.branches.get(kind.branch, 1.0)

    def by_site(self, lineage: Lineage) -> dict[Site, float]:
        """The factor of every site of a model. Raises :class:`SettingsError` for a place that it does not have."""
        places = {**_PLACES_OF[self.preset](lineage), **self.places}
        blocks = sorted({site[:2] for site in lineage.sites})
        there = {"all", *SECTIONS, *(f"{section}.{block}" for section, block in blocks), *map(str, lineage.sites)}
        for place in self.places:
            if place not in there:
                named = ", ".join(f"{section}.{block}" for section, block in blocks)
                raise SettingsError(f"This model has no self-attention in {place!r}; its blocks are {named}.")
        return {site: _most_exact(places, str(site), f"{site.section}.{site.block}", site.section)
                for site in lineage.sites}

    def by_block(self, lineage: Lineage) -> dict[Block, float]:
        """The factor of every block's output: single layers' own say nothing of it."""
        places = {**_PLACES_OF[self.preset](lineage), **self.places}
        return {block: _most_exact(places, str(block), block.section) for block in lineage.blocks}


def parse(text: str) -> Course:
    """The course that an expression says; empty is everything. Raises :class:`SettingsError` with one sentence."""
    if len(text) > _MOST:
        raise SettingsError(f"The layers' expression has {len(text)} letters; {_MOST} are the most.")
    places: dict[str, float] = {}
    branches: dict[str, float] = {}
    points: dict[float, float] = {}
    window, preset = None, None
    for part in (part.strip() for part in re.split("[;,]", text.translate(MINUS))):
        low = part.lower()
        named = next((name for name in PRESETS if name.lower() == low), None)
        if not part:
            continue
        if named:
            preset = _once(preset, named, part)
        elif match := _WINDOW.fullmatch(low):
            window = _once(window, _window(part, *match.groups()), part)
        elif match := _FACTOR.fullmatch(low):
            name, factor = match[1], _number(match[2])
            if abs(factor) > 1:
                raise SettingsError(f"A factor lies between -1 and 1, which {shown(part)} does not.")
            if name in BRANCHES:
                branches[name] = _once(branches.get(name), factor, part)
            elif _PLACE.fullmatch(name):
                places[name] = _once(places.get(name), factor, part)
            elif re.fullmatch(_NUMBER, name) and 0 <= _number(name) <= 1:
                points[_number(name)] = _once(points.get(_number(name)), factor, part)
            else:
                raise _unknown(part)
        else:
            raise _unknown(part)
    return Course(places, branches, window or Window(), tuple(sorted(points.items())), preset or EVERYTHING)


def _unknown(part: str) -> SettingsError:
    return SettingsError(f"{shown(part)} in the layers' expression is not understood; write a place and its factor "
                         "like output.0=0 or middle=0.5, a part of the schedule like 0.1-0.8, or "
                         f"{', '.join(PRESETS)}.")


def _once(before: object, value, part: str):
    if before is not None:
        raise SettingsError(f"{shown(part)} in the layers' expression says again what is said already; take one out.")
    return value


def _window(part: str, start: str, until: str, ramp: str | None) -> Window:
    found = Window(_number(start), _number(until), _number(ramp or "0"))
    if not (0 <= found.start < found.until <= 1 and found.ramp <= 1):
        raise SettingsError(f"{shown(part)} is no part of the schedule; write two fractions of it that rise, "
                            "like 0.1-0.8.")
    return found


def _number(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _between(points: tuple[tuple[float, float], ...], progress: float) -> float:
    if not points:
        return 1.0
    if progress <= points[0][0]:
        return points[0][1]
    for (before, low), (after, high) in zip(points, points[1:]):
        if progress <= after:
            return low + (high - low) * (progress - before) / (after - before)
    return points[-1][1]


def _most_exact(places: Mapping[str, float], *names: str) -> float:
    return next((places[name] for name in (*names, "all") if name in places), 1.0)


def _output_blocks(lineage: Lineage) -> list[int]:
    return sorted({site.block for site in lineage.sites if site.section == "output"})


def _without_first_output(lineage: Lineage) -> dict[str, float]:
    return {f"output.{block}": 0.0 for block in _output_blocks(lineage)[:1]}


def _late_outputs(lineage: Lineage) -> dict[str, float]:
    blocks = _output_blocks(lineage)
    return {"all": 0.0, **{f"output.{block}": 1.0 for block in blocks[len(blocks) // 2:]}}


_PLACES_OF = {EVERYTHING: lambda lineage: {}, FREE_LAYOUT: _without_first_output, STYLE_ONLY: _late_outputs}
