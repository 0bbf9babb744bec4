"""Draws every set plain and by every method, and measures each row of pictures. Intervals: bootstrap over sets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from demo.client import Client, Recipe
from demo.experiment import Experiment
from demo.measure import mean_of_rows
from demo.methods import Method
from demo.report import interval, with_interval
from PIL import Image

from .judging import Judge
from .sets import PromptSet

MEASURES = ("subject_distance", "background_distance", "prompt_score", "copy_rate")
_WANTED = {"subject_distance": "low", "background_distance": "high", "prompt_score": "high", "copy_rate": "low"}
Row = tuple[str, str]  # method and strength


@dataclass
class Measured:
    """Values of every set, ``{row: {measure: [a set each]}}``, and seconds a picture."""

    values: dict[Row, dict[str, list[float]]] = field(default_factory=dict)
    seconds: dict[Row, list[float]] = field(default_factory=dict)
    pictures: int = 0


PLAIN: Row = ("plain", "")


def run(client: Client, recipe: Recipe, sets: Sequence[PromptSet], methods: Mapping[str, Method], judge: Judge,
        seed: int, progress: Callable[[str], None] = print,
        keep: Callable[[str, Image.Image], None] = lambda name, picture: None) -> Measured:
    """``keep(name, picture)`` gets every picture. Raises :class:`demo.client.RequestRefused`.

    The first setting's picture is saved as the reference and belongs to every row; the others are drawn for each row
    from the same seeds.
    """
    experiment, measured = Experiment(client, recipe, "benchmark"), Measured()
    rows = {PLAIN: None, **{(name, strength): settings for name, method in methods.items()
                            for strength, settings in method.items()}}
    for number, each in enumerate(sets, 1):
        progress(f"set {number} of {len(sets)} ({each.subject}): {1 + len(rows) * (len(each.settings) - 1)} pictures")
        first, *orders = each.orders(seed)
        saved = experiment.save(first).image
        reference = judge.look(saved)
        keep(f"{number:03} reference", saved)
        measured.pictures += 1
        for row, settings in rows.items():
            seen = []
            for place, order in enumerate(orders, 2):
                answer = experiment.plain(order) if settings is None else experiment.guided(order, settings)
                measured.seconds.setdefault(row, []).append(answer.seconds)
                measured.pictures += 1
                keep(" ".join(filter(None, (f"{number:03}", *row, f"{place}"))), answer.image)
                seen.append(judge.look(answer.image))
            found = _of_set(judge, each.prompts, reference, seen)
            for name, value in found.items():
                measured.values.setdefault(row, {}).setdefault(name, []).append(value)
    return measured


def _of_set(judge: Judge, prompts: Sequence[str], reference: Any, seen: Sequence[Any]) -> dict[str, float]:
    """Distances over all twos of the set, the reference among them; the rest over the pictures that it could guide."""
    twos = list(combinations([reference, *seen], 2))
    return {
        "subject_distance": statistics.fmean(judge.subject_distance(*two) for two in twos),
        "background_distance": statistics.fmean(judge.background_distance(*two) for two in twos),
        "prompt_score": statistics.fmean(judge.prompt_score(one, prompt) for one, prompt in zip(seen, prompts[1:])),
        "copy_rate": statistics.fmean(judge.copied(one, prompt, reference, prompts[0])
                                      for one, prompt in zip(seen, prompts[1:])),
    }


def report(measured: Measured, methods: Mapping[str, Method], judge: Judge) -> dict[str, Any]:
    """The same fields whoever judges: ``uses`` says with what."""
    rows = []
    for row, values in measured.values.items():
        found = {name: mean_of_rows(np.array(values[name])[:, None]) for name in MEASURES}
        rows.append({"method": row[0], "strength": row[1],
                     "settings": {} if row == PLAIN else dict(methods[row[0]][row[1]]),
                     **{name: found[name].value for name in MEASURES},
                     "intervals": {name: interval(found[name]) for name in MEASURES},
                     "seconds": round(statistics.median(measured.seconds[row]), 4)})
    return {"sets": len(measured.values[PLAIN]["copy_rate"]), "pictures": measured.pictures, "uncut": judge.uncut,
            "uses": dict(judge.uses), "wanted": dict(_WANTED), "rows": rows}


def table(found: Mapping[str, Any]) -> str:
    """A row for each method at each strength, in ASCII for every terminal."""
    names = [", ".join(filter(None, (row["method"], row["strength"]))) for row in found["rows"]]
    wide = max(map(len, names)) + 2
    lines = [" " * wide + "".join(f"{name.replace('_', ' '):22}" for name in MEASURES) + "s/picture"]
    lines += [f"{name:{wide}}" + "".join(f"{with_interval(row, field):22}" for field in MEASURES)
              + f"{row['seconds']:9.2f}" for name, row in zip(names, found["rows"])]
    lines += [" " * wide + "".join(f"({_WANTED[name]} is good)".ljust(22) for name in MEASURES)]
    if found["uncut"]:
        lines += ["", f"In {found['uncut']} of {found['pictures']} pictures no subject was told from its background: "
                  "their two distances mean little."]
    return "\n".join(line.rstrip() for line in lines)
