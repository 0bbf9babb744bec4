"""What every way of keeping a reference smaller costs: one recording a pair, cut down in many ways, each of them used.

A variant *keeps* the share of the exact reference's gain in agreement over plain pictures that is left. Its *likeness*
says the same of the pictures themselves, with less chance in it: 1 where they are those of the exact reference, 0 where
they are as far from them as plain ones. Intervals are 95 % by bootstrap over whole pairs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib_refdrop.model.rows import COND
from lib_refdrop.model.schedule import threshold
from lib_refdrop.model.sites import SECTIONS, Lineage
from lib_refdrop.references.budget import LEVELS
from lib_refdrop.references.plan import RECIPES, Recipe
from lib_refdrop.references.recode import recode
from lib_refdrop.references.reference import Key, Reference, is_trajectory, passes_from
from lib_refdrop.references.sizes import Picture, estimate

from .client import LocalClient, RequestRefused
from .client import Recipe as Sampling
from .measure import Measured, agreement_matrix, bootstrap, mean_of_rows
from .pairs import Order, Pair
from .reader import Reader
from .report import interval, write
from .shapes import SDXL

C = 0.3
NAME = "ablation"
_LEAST_GAIN = 0.01  # of agreement; shares of less say nothing
Variant = Callable[[Reference], Reference]

# One thing done to an exact reference, for the table that budgets are kept by.
CHANGES = (
    *(Recipe(precision) for precision in ("fp16", "int8", "fp8", "int4")),
    *(Recipe(levels=levels) for levels in LEVELS if levels is not None),
    Recipe(branches=(COND,)),
    *(Recipe(sections=tuple(other for other in SECTIONS if other != section)) for section in SECTIONS),
)
_LATE = ("middle", "output")
# Several at once: what a preset could be.
CANDIDATES = (
    *(Recipe("int4", levels=levels, sections=sections) for levels in (4, 3, 2) for sections in (SECTIONS, _LATE)),
    Recipe("int4", levels=1), Recipe("int4", levels=3, branches=(COND,)), Recipe("int8", levels=3),
)
MERGED = (2, 4, 16)  # tokens of the finest layers into one


def name_of(recipe: Recipe) -> str:
    return "+".join(recipe.changes()) or "exact"


def variants(lineage: Lineage, cells: int = 16 * 16) -> dict[str, Variant]:
    """Every variant by name: the changes one by one, parts of the schedule, the presets and what they could be.
    ``cells`` are those of the pictures' latents, as many as the finest layers have tokens."""
    def planned(recipe: Recipe, name: str, percent: float = 100.0) -> Variant:
        return lambda whole: recode(whole, recipe.plan(name, lineage, percent))

    return {
        **{name_of(recipe): planned(replace(recipe, trajectory=False), name_of(recipe))
           for recipe in (*CHANGES, *CANDIDATES)},
        **{f"merged{times}": planned(Recipe(tokens=cells // times, trajectory=False), "") for times in MERGED},
        **{f"first{percent}": planned(Recipe(trajectory=False), "", percent) for percent in (25, 50, 75)},
        "last50": lambda whole: last(whole, 50),
        **{name: planned(recipe, name) for name, recipe in RECIPES.items() if name != "Exact"},
    }


def last(whole: Reference, percent: float) -> Reference:
    """Features of the quiet end of the schedule only."""
    least = {name: threshold([call.sigma for call in record.calls], 100 - percent)
             for name, record in whole.passes.items()}

    def late(name: str) -> bool:
        key, _ = Key.parse(name)
        return whole.passes[key.pass_name].calls[key.call].sigma < least[key.pass_name]

    features = {name: whole.features[name] for name in whole.features if not is_trajectory(name) and late(name)}
    calls = {name: record.calls for name, record in whole.passes.items()}
    return Reference(whole.name, dict(whole.manifest), passes_from(calls, features), features,
                     sum(value.nbytes for value in features.values()))


@dataclass
class Pictures:
    """What an ablation made, pair by pair; ``bytes`` are of the references' numbers."""

    references: list[Image.Image] = field(default_factory=list)
    plain: list[Image.Image] = field(default_factory=list)
    exact: list[Image.Image] = field(default_factory=list)
    varied: dict[str, list[Image.Image]] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)


class Ablation:
    """Draws every pair's target plain, guided by its exact reference, and by every variant of that."""

    def __init__(self, client: LocalClient, sampling: Sampling, progress: Callable[[str], None] = print) -> None:
        self._client, self._sampling, self._progress = client, sampling, progress

    def run(self, pairs: Sequence[Pair], chosen: Mapping[str, Variant]) -> Pictures:
        """Raises :class:`RequestRefused` where a picture could not be made as asked, guided ones included."""
        made = Pictures(varied={name: [] for name in chosen})
        exact = RECIPES["Exact"].plan("Exact", self._client.lineage)
        for number, pair in enumerate(pairs):
            self._progress(f"pair {number + 1} of {len(pairs)} ({pair.kind}): {len(chosen) + 4} pictures")
            whole = self._record(pair.reference, number, made)
            made.plain.append(self._client.txt2img(self._sampling.payload(pair.target)).image)
            made.exact.append(self._use(pair.target, recode(whole, exact), "exact", number, made))
            for name, derive in chosen.items():
                made.varied[name].append(self._use(pair.target, derive(whole), name, number, made))
        return made

    def _record(self, order: Order, number: int, made: Pictures) -> Reference:
        """Everything there is to keep of a picture: every feature, and the trajectory."""
        names = {keep: f"{NAME} {number} {keep}" for keep in ("Exact", "Tiny")}
        for keep, name in names.items():
            answer = self._client.txt2img(self._sampling.payload(order, {
                "enabled": True, "mode": "Save", "store": "RAM", "reference": name, "replace": True, "keep": keep}))
        made.references.append(answer.image)
        exact, trajectory = (self._client.memory.load(name) for name in names.values())
        for name in names.values():
            self._client.memory.delete(name)
        features = {**exact.features, **{name: trajectory.features[name] for name in trajectory.features}}
        manifest = {**exact.manifest, "given": trajectory.manifest["given"]}
        return Reference(exact.name, manifest, exact.passes, features, exact.nbytes + trajectory.nbytes)

    def _use(self, order: Order, reference: Reference, variant: str, number: int, made: Pictures) -> Image.Image:
        made.bytes[variant] = reference.nbytes
        # A name of its own for every pair: what is computed again from a trajectory is remembered by it.
        name = self._client.memory.save(reference, f"{NAME} {number} {variant}", replace=True).name
        try:
            answer = self._client.txt2img(self._sampling.payload(order, {
                "enabled": True, "mode": "Use", "rfg": C, "store": "RAM", "reference": name, "on_problem": "Stop"}))
        finally:
            self._client.memory.delete(name)
        if not answer.guided:
            raise RequestRefused(f"The picture for {order.prompt!r} came back without guidance by variant {variant!r}.")
        return answer.image


def judge(made: Pictures, reader: Reader) -> dict[str, Any]:
    """What the pictures show: agreement, and what each variant keeps of the exact reference's gain."""
    references = reader.read(made.references)
    plain, exact, *varied = (agreement_matrix(references, reader.read(pictures))
                             for pictures in (made.plain, made.exact, *made.varied.values()))
    return {
        "pairs": len(made.plain), "c": C,
        **{name: {"agreement": mean_of_rows(matrix).value, "interval": interval(mean_of_rows(matrix))}
           for name, matrix in (("plain", plain), ("exact", exact))},
        "exact_bytes": made.bytes["exact"],
        "variants": {name: _row(name, matrix, plain, exact, made) for name, matrix in zip(made.varied, varied)},
    }


def _row(name: str, matrix: np.ndarray, plain: np.ndarray, exact: np.ndarray, made: Pictures) -> dict[str, Any]:
    def share(rows: np.ndarray) -> float:
        gain = exact[rows].mean() - plain[rows].mean()
        return float((matrix[rows].mean() - plain[rows].mean()) / gain) if gain > _LEAST_GAIN else float("nan")

    agreement, kept, likeness = mean_of_rows(matrix), bootstrap(len(matrix), share), _likeness(made.varied[name], made)
    return {"bytes": made.bytes[name], "agreement": agreement.value, "interval": interval(agreement),
            "kept": kept.value, "kept_interval": interval(kept), "likeness": likeness.value,
            "likeness_interval": interval(likeness)}


def _likeness(pictures: Sequence[Image.Image], made: Pictures) -> Measured:
    def far(others: Sequence[Image.Image]) -> np.ndarray:
        return np.array([float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())
                         for one, other in zip(others, made.exact)])

    plain, varied = far(made.plain), far(pictures)
    return bootstrap(len(plain), lambda rows: float(1 - varied[rows].sum() / plain[rows].sum()) if plain[rows].any()
                     else float("nan"))


def contributions(report: Mapping[str, Any], command: str) -> dict[str, Any]:
    """The content of ``lib_refdrop/references/contributions.json``: single changes with the likeness they leave, where
    it is known."""
    single = {*(name_of(recipe) for recipe in CHANGES), *(f"merged{times}" for times in MERGED)}
    kept = {name: round(row["likeness"], 3) for name, row in report["variants"].items()
            if name in single and row["likeness"] == row["likeness"]}
    return {"made_with": f"{command} ({report['pairs']} pairs)", "kept": kept}


def write_all(report: dict[str, Any], command: str, out: Path) -> None:
    write({**report, "made_with": command}, out / "ablation.json")
    text = json.dumps(contributions(report, command), indent=1)
    (out / "contributions.json").write_text(text + "\n", encoding="utf-8")


def table(report: Mapping[str, Any]) -> str:
    """For people, in ASCII for every terminal; with the megabytes of the same for SDXL, 512x768, 20 steps, 16 bit."""
    sizes = sizes_for(SDXL, Picture(64, 96, 20))
    lines = [f"{'':28}{'bytes':>12}{'agreement':>11}{'kept':>7}  {'95 %':14}{'likeness':>9}  {'95 %':14}{'SDXL MB':>9}"]
    for name in ("plain", "exact"):
        size = report["exact_bytes"] if name == "exact" else ""
        lines.append(f"{name:28}{size:>12}{report[name]['agreement']:11.3f}")
    for name, row in report["variants"].items():
        low, high = row["kept_interval"]
        least, most = row["likeness_interval"]
        size = f"{sizes[name] / 1e6:9.1f}" if name in sizes else ""
        lines.append(f"{name:28}{row['bytes']:12}{row['agreement']:11.3f}{row['kept']:7.0%}  "
                     f"{f'{low:.0%} to {high:.0%}':14}{row['likeness']:9.3f}  {f'{least:.3f}-{most:.3f}':14}{size}")
    return "\n".join(lines)


def sizes_for(lineage: Lineage, picture: Picture) -> dict[str, int]:
    """The bytes of every recipe among the variants for another model and picture."""
    recipes = {**{name_of(recipe): recipe for recipe in (*CHANGES, *CANDIDATES)}, **RECIPES}
    return {name: estimate(recipe.plan(name, lineage), lineage, picture) for name, recipe in recipes.items()}
