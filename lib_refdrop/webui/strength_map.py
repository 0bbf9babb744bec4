"""The strength of guidance as a small picture: blocks of the model from top to bottom, the schedule from left to right.

It is drawn of the same :class:`Strength` that a generation is guided with, so that it cannot say anything else.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

from ..guides import CONCATENATE, Guide, checked
from ..hosts import find_adapter
from ..model.rows import BRANCHES, COND, Kind
from ..model.sites import SECTIONS, Lineage, Site, SiteShape
from ..techniques.reference.strength import Strength
from ..words import RefDropError, SettingsError
from .host import Host

# The settings that it shows.
SHOWN = ("layers", "use_from", "use_until", "rfg", "layer_input", "layer_middle", "layer_output", "blend", "weight",
         "style_fidelity")
_COLUMNS = 40  # of the schedule
_LABEL, _CELL, _ROW, _TOP = 68, 4, 9, 14  # widths and heights, in the picture's own unit
_NAMES = {"cond": "prompt", "uncond": "negative prompt"}
_MORE, _LESS = "#2f7ed8", "#d8572f"  # towards the reference, and away from it
_USUAL = {  # what is drawn of while no model is loaded: blocks with self-attention, and layers in each
    "SD 1.5": {"input": {1: 1, 2: 1, 4: 1, 5: 1, 7: 1, 8: 1}, "middle": {0: 1},
               "output": dict.fromkeys(range(3, 12), 1)},
    "SDXL": {"input": {4: 2, 5: 2, 7: 10, 8: 10}, "middle": {0: 10}, "output": {0: 10, 1: 10, 2: 10, 3: 2, 4: 2, 5: 2}},
}


class _Band(NamedTuple):
    """Layers of a block that are guided alike: what they are called, and their strength by branch and column."""

    name: str
    values: dict[str, list[float]]


def strength_map(host: Host, layers: str, use_from: float, use_until: float, rfg: float, layer_input: bool,
                 layer_middle: bool, layer_output: bool, blend: str, weight: float, style_fidelity: float) -> str:
    """HTML: the picture for these settings on the model that is loaded, or one sentence where they have a mistake."""
    try:
        on = zip(SECTIONS, (layer_input, layer_middle, layer_output))
        guide = checked(Guide("", float(rfg or 0), float(use_from or 0), float(use_until or 0), str(layers or ""),
                              blend=blend, weight=float(weight or 0), style_fidelity=float(style_fidelity or 0)),
                        "Guidance")
        strength = guide.strength(tuple(section for section, chosen in on if chosen))
        bands, whose = _bands(strength, host)
    except RefDropError as problem:
        return f"<p>{html.escape(str(problem))}</p>"
    unit = f"of the weight {guide.weight:g}" if guide.blend == CONCATENATE else ""
    return _drawn(bands, " ".join(filter(None, ["Strength of guidance", unit, whose])))


def _bands(strength: Strength, host: Host) -> tuple[list[_Band], str]:
    """What is guided how on the loaded model, or where there is none, on the usual one that has the places named.
    Raises :class:`SettingsError` for a place that is not there."""
    model, problem = host.loaded_model(), None
    if model is not None:
        try:
            p = SimpleNamespace(sd_model=model, rows=list, branch_rows=list)
            return _of(strength, find_adapter(p).lineage(p)), ""
        except SettingsError:
            raise
        except RefDropError:  # a model that cannot be guided: a generation says so
            pass
    for name, blocks in _USUAL.items():
        try:
            return _of(strength, _lineage(blocks)), f"on {name}"
        except SettingsError as error:
            problem = problem or error
    assert problem
    raise problem


def _lineage(blocks: dict[str, dict[int, int]]) -> Lineage:
    return Lineage({Site(section, block, index): SiteShape(8, 64) for section, numbers in blocks.items()
                    for block, count in numbers.items() for index in range(count)})


def _of(strength: Strength, lineage: Lineage) -> list[_Band]:
    factors = strength.course.by_site(lineage)
    columns = {branch: [strength.at(column / _COLUMNS, Kind(branch)) for column in range(_COLUMNS)]
               for branch in BRANCHES}
    found = []
    for section in SECTIONS:
        for block in sorted({site.block for site in lineage.sites if site.section == section}):
            sites = sorted(site for site in lineage.sites if site[:2] == (section, block))
            by_factor: dict[float, list[int]] = {}
            for site in sites:
                factor = factors[site] if section in strength.sections else 0.0
                by_factor.setdefault(factor, []).append(site.index)
            for factor, indices in by_factor.items():
                name = f"{section}.{block}" if len(by_factor) == 1 else f"{section}.{block}.{_listed(indices)}"
                found.append(_Band(name, {branch: [factor * value + 0.0 for value in values]
                                          for branch, values in columns.items()}))
    return found


def _listed(numbers: Sequence[int]) -> str:
    """``0–3,7``: neighbours as a range."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)


def _drawn(bands: Sequence[_Band], what: str) -> str:
    """The picture, with the same in words for who cannot see it."""
    alike = all(band.values[branch] == band.values[COND] for band in bands for branch in BRANCHES)
    branches = (COND,) if alike else BRANCHES
    most = max(abs(value) for band in bands for branch in branches for value in band.values[branch])
    wide, high = _COLUMNS * _CELL, _ROW * len(bands)
    across = _LABEL + len(branches) * (wide + 8)
    parts = []
    for row, band in enumerate(bands):
        y = _TOP + row * _ROW
        parts.append(f'<text x="{_LABEL - 4}" y="{y + 7}" text-anchor="end">{html.escape(band.name)}</text>')
        for place, branch in enumerate(branches):
            x = _LABEL + place * (wide + 8)
            parts += [f'<rect x="{x + start * _CELL}" y="{y}" width="{(stop - start) * _CELL}" height="{_ROW - 1}" '
                      f'fill="{_MORE if value > 0 else _LESS}" fill-opacity="{abs(value) / most:.3g}"/>'
                      for start, stop, value in _stretches(band.values[branch]) if value]
    for place, branch in enumerate(branches):
        x = _LABEL + place * (wide + 8)
        over = "noise" if alike else f"{_NAMES[branch]}: noise"
        parts.append(f'<text x="{x}" y="9">{over}</text><text x="{x + wide}" y="9" text-anchor="end">picture</text>'
                     f'<rect x="{x - .5}" y="{_TOP - 1}" width="{wide + 1}" height="{high + 1}" fill="none" '
                     'stroke="currentColor" stroke-opacity="0.4"/>')
    words = html.escape(f"{what}. {_in_words(bands, branches)}", quote=True)
    height = _TOP + high + 2
    away = any(value < 0 for band in bands for branch in branches for value in band.values[branch])
    caption = f"{what}: full colour is {most:.3g}." if most else f"{what}: 0 everywhere, nothing is guided."
    caption += " Orange keeps away from the reference." if away else ""
    return (f'<div class="refdrop-map"><svg role="img" aria-label="{words}" viewBox="0 0 {across} {height}" '
            f'width="{2 * across}" style="max-width: 100%; height: auto" font-size="8" fill="currentColor" '
            f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg><p>{html.escape(caption)}</p></div>')


def _in_words(bands: Sequence[_Band], branches: Sequence[str]) -> str:
    """Which blocks are guided how, those that are alike together."""
    sentences = []
    for branch in branches:
        alike: dict[tuple[float, ...], list[str]] = {}
        for band in bands:
            alike.setdefault(tuple(band.values[branch]), []).append(band.name)
        said = "; ".join(f"{', '.join(names)}: {_course(values)}" for values, names in alike.items())
        sentences.append(said if len(branches) == 1 else f"{_NAMES[branch].capitalize()}: {said}")
    return ". ".join(sentences) + "."


def _course(values: Sequence[float]) -> str:
    stretches = _stretches(values)
    if len(stretches) == 1:
        return f"{values[0]:.3g}"
    if len(stretches) > 4:  # a ramp
        acting = [column for column, value in enumerate(values) if value]
        return (f"{min(values):.3g} to {max(values):.3g}, from {acting[0] / _COLUMNS:.0%} to "
                f"{(acting[-1] + 1) / _COLUMNS:.0%} of the schedule")
    return ", ".join(f"{value:.3g} from {start / _COLUMNS:.0%} to {stop / _COLUMNS:.0%}"
                     for start, stop, value in stretches)


def _stretches(values: Sequence[float]) -> list[tuple[int, int, float]]:
    """Where a value begins and ends, and the value: neighbours that are equal are one."""
    found: list[tuple[int, int, float]] = []
    for column, value in enumerate(values):
        if found and found[-1][2] == value:
            found[-1] = (found[-1][0], column + 1, value)
        else:
            found.append((column, column + 1, value))
    return found
