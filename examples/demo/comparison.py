"""Methods side by side: every pair's target by each of them at each of its strengths, and the time each takes.

Time is a ratio to a plain picture that the same process draws right before or right after, in turns, so that what else
the machine does weighs on both. The median of the pairs is told; each has used its reference before, as pictures of a
series have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from .client import Client, Recipe
from .experiment import Experiment
from .figures import stacked
from .measure import MEASURES, bootstrap, measures
from .methods import Method
from .pairs import Pair
from .planes import Track, plane
from .reader import Reader
from .report import interval, with_interval

TIMED = 12  # pairs
COLUMNS = {"agreement": "agreement", "subject": "subject_agreement", "adherence": "prompt_adherence",
           "copy rate": "copy_rate"}
PLACE = {"sky": "sky_agreement", "ground": "ground_agreement", "pose": "pose_agreement"}


@dataclass
class Compared:
    """What a comparison made, pair by pair; ``ratios`` are times over plain."""

    pairs: list[Pair]
    references: list[Image.Image] = field(default_factory=list)
    plain: list[Image.Image] = field(default_factory=list)
    guided: dict[str, dict[str, list[Image.Image]]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)


def compare(client: Client, recipe: Recipe, pairs: Sequence[Pair], methods: Mapping[str, Method],
            progress: Callable[[str], None] = print, timed: int = TIMED) -> Compared:
    """Draws everything. Raises :class:`RequestRefused` where a picture could not be made as asked."""
    experiment = Experiment(client, recipe, "methods")
    made = Compared(list(pairs), guided={name: {strength: [] for strength in method}
                                         for name, method in methods.items()},
                    ratios={name: [] for name in methods})
    for number, pair in enumerate(pairs):
        progress(f"pair {number + 1} of {len(pairs)} ({pair.kind}): {', '.join(methods)}")
        made.references.append(experiment.save(pair.reference).image)
        made.plain.append(experiment.plain(pair.target).image)
        for name, method in methods.items():
            for strength, settings in method.items():
                made.guided[name][strength].append(experiment.guided(pair.target, settings).image)
        if number < timed:
            for name, method in methods.items():
                made.ratios[name].append(_ratio(experiment, pair, list(method.values()), number))
    return made


def _ratio(experiment: Experiment, pair: Pair, strengths: Sequence[Mapping[str, Any]], number: int) -> float:
    """Time over plain in pair ``number``: strengths take turns, and after each round of them plain and guided do."""
    turn, strength = divmod(number, len(strengths))
    seconds = {}
    for plain in (True, False) if turn % 2 == 0 else (False, True):
        answer = experiment.plain(pair.target) if plain else experiment.guided(pair.target, strengths[strength])
        seconds[plain] = answer.seconds
    return seconds[False] / seconds[True]


def judge(made: Compared, reader: Reader, methods: Mapping[str, Method]) -> dict[str, Any]:
    """The fields of ``methods.json``."""
    references, kinds = reader.read(made.references), [pair.kind for pair in made.pairs]
    wanted = [pair.target.named for pair in made.pairs]

    def entry(pictures: Sequence[Image.Image]) -> dict[str, Any]:
        found = measures(references, wanted, reader.read(pictures), kinds)
        return {**{name: found[name].value for name in MEASURES},
                "intervals": {name: interval(found[name]) for name in MEASURES}}

    return {
        "pairs": len(made.pairs), "plain": entry(made.plain),
        "methods": [{
            "name": name, "time_over_plain": _time(made.ratios[name]),
            "curve": [{"strength": strength, "settings": dict(settings), **entry(made.guided[name][strength])}
                      for strength, settings in method.items()],
        } for name, method in methods.items()],
    }


def _time(ratios: Sequence[float]) -> dict[str, Any] | None:
    """Median ratio with its interval; None where nothing was timed."""
    if not ratios:
        return None
    values = np.asarray(ratios)
    found = bootstrap(len(values), lambda rows: float(np.median(values[rows])))
    return {"median": found.value, "interval": interval(found), "pairs": len(values)}


def table(report: Mapping[str, Any]) -> str:
    """A row for each method at each strength, twice: what is wanted, and what belongs to the place. In ASCII."""
    rows = [("plain", report["plain"], None)]
    for method in report["methods"]:
        for number, entry in enumerate(method["curve"]):
            name = ", ".join(filter(None, (method["name"], entry["strength"])))
            rows.append((name, entry, None if number else method["time_over_plain"]))
    wide = 2 + max(len(name) for name, _, _ in rows)

    def block(columns: Mapping[str, str], timed: bool) -> list[str]:
        lines = [" " * wide + "".join(f"{heading:22}" for heading in columns) + "time over plain" * timed]
        lines += [f"{name:{wide}}" + "".join(f"{with_interval(entry, field):22}" for field in columns.values())
                  + _shown(time if timed else None) for name, entry, time in rows]
        return [*lines, ""]

    lines = [*block(COLUMNS, True), *block(PLACE, False),
             "agreement: unnamed attributes equal to the reference's, subject: the figure's own of them; adherence:",
             "named ones equal to the prompt's; copy rate: pairs with the reference's ground or pose although the",
             "prompt names another; sky, ground, pose: equal to the reference's. Plain is the base rate of all. time:",
             "median ratio. 95 % intervals."]
    return "\n".join(line.rstrip() for line in lines)


def _shown(time: Mapping[str, Any] | None) -> str:
    if time is None:
        return ""
    low, high = time["interval"]
    return f"{time['median']:.2f} ({low:.2f}-{high:.2f})"


def figure(report: Mapping[str, Any], title: str) -> Image.Image:
    """Agreement of every method against adherence, and against the copy rate. RGB."""
    def tracks(x: str) -> list[Track]:
        rows = [("plain", [{"strength": "", **report["plain"]}]),
                *((method["name"], method["curve"]) for method in report["methods"])]
        return [Track(name, [(entry[x], entry["agreement"]) for entry in curve],
                      [(entry["intervals"][x], entry["intervals"]["agreement"]) for entry in curve],
                      [entry["strength"] for entry in curve]) for name, curve in rows]

    copying, what = ("copy_rate", "copy rate (less is better)")
    if not math.isfinite(report["plain"][copying]):  # prompts leave the place open
        copying, what = ("ground_agreement", "ground agreement (near plain is better)")
    panels = [plane(tracks("prompt_adherence"), title, "prompt adherence (more is better)", "agreement"),
              plane(tracks(copying), "95 % intervals", what, "agreement")]
    return stacked(panels, across=True)
