"""What masks do: on the shirt alone, and at Save on the figure alone.

The masks are drawn, not read off the pictures: where a figure in the prompt's pose has its shirt, wherever the drawing
may have moved it to.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from PIL import Image

from .characters import Character, draw
from .client import Client, Recipe
from .measure import SKY, SUBJECT, Measured, Words, agreement_matrix, bootstrap, mean_of_rows
from .pairs import Order, Pair, make_pairs
from .reader import Reader

STRENGTH = 0.5
DRAWINGS = 24  # of which a mask is the average
SHIRT = "shirt"
OTHERS = tuple(name for name in (*SUBJECT, SKY) if name != SHIRT)
WAYS = ("plain", "whole", "shirt")
# Of prompts that name the kind alone: without a reference, by all of it, by one of which the figure alone was kept.
OPEN = ("open", "open, whole", "open, figure")


def shirt(pose: str) -> Image.Image:
    """Where figures in a pose have their shirt, soft where they differ."""
    return _changed("shirt", pose, [{"shirt": "red"}, {"shirt": "blue"}])


def figure(pose: str) -> Image.Image:
    """Where figures in a pose are."""
    other = _changed("figure", pose, [{"sky": "blue", "ground": "grass"}, {"sky": "pink", "ground": "snow"}])
    return Image.eval(other, lambda level: 255 - level)


def _changed(which: str, pose: str, changes: Sequence[Mapping[str, str]]) -> Image.Image:
    """What changes in a drawing with some attributes, on average over many."""
    plain = Character("chef", pose, "grass", "red", "black", "brown", "short", "tan", "blue")
    found = []
    for number in range(DRAWINGS):
        one, other = (np.asarray(draw(replace(plain, **change), random.Random(f"{which} {number}")), dtype=np.int16)
                      for change in changes)
        found.append(np.abs(one - other).max(axis=2) > 20)
    return Image.fromarray((np.mean(found, axis=0) * 255).astype(np.uint8))


@cache
def encoded(mask: Callable[[str], Image.Image], pose: str) -> str:
    """A mask as the API takes it."""
    buffer = io.BytesIO()
    mask(pose).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass
class Drawn:
    """What was read off the pictures, by the way they were guided; seconds a picture took, and bytes of references."""

    pairs: list[Pair]
    references: list[Words] = field(default_factory=list)
    targets: dict[str, list[Words]] = field(default_factory=lambda: {way: [] for way in (*WAYS, *OPEN)})
    seconds: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in (*WAYS, *OPEN)})
    sizes: dict[str, list[int]] = field(default_factory=lambda: {"whole": [], "figure": []})

    def report(self) -> dict:
        """Agreement in the shirt, in everything else that prompts leave open, and of the ground; what a mask adds to
        plain pictures and takes from those guided throughout; time and size."""
        rows = {"shirt": (SHIRT,), "others": OTHERS, "subject": SUBJECT, "ground": ("ground",)}
        found: dict = {way: {name: _mean(self._alike(way, names)) for name, names in rows.items()}
                       for way in self.targets}
        found["claims"] = {
            "shirt: masked over plain": _difference(self._alike("shirt", (SHIRT,)), self._alike("plain", (SHIRT,))),
            "others: masked over plain": _difference(self._alike("shirt", OTHERS), self._alike("plain", OTHERS)),
            "others: whole over plain": _difference(self._alike("whole", OTHERS), self._alike("plain", OTHERS)),
            "ground: figure kept over all kept": _difference(self._alike(OPEN[2], ("ground",)),
                                                             self._alike(OPEN[1], ("ground",))),
            "subject: figure kept over all kept": _difference(self._alike(OPEN[2], SUBJECT),
                                                              self._alike(OPEN[1], SUBJECT)),
        }
        found["time of a mask over none"] = _ratio(self.seconds["shirt"], self.seconds["whole"])
        found["size of a figure over all"] = _ratio(self.sizes["figure"], self.sizes["whole"])
        return found

    def _alike(self, way: str, names: Sequence[str]) -> np.ndarray:
        return agreement_matrix(self.references, self.targets[way], names)


def compare(client: Client, recipe: Recipe, reader: Reader, seed: int, count: int,
            progress: Callable[[str], None] = print) -> Drawn:
    """Draws every pair's target in all :data:`WAYS`, and without a pose and a ground in all that are :data:`OPEN`."""
    pairs, bare = make_pairs(seed, count), make_pairs(seed, count, open_prompts=True)
    made = Drawn(pairs)
    for number, (pair, other) in enumerate(zip(pairs, bare)):
        progress(f"pair {number + 1} of {count} ({pair.kind})")
        pose = str(pair.reference.pose)
        save = {"enabled": True, "mode": "Save", "store": "RAM", "replace": True}
        answer = client.txt2img(recipe.payload(pair.reference, {**save, "reference": "whole"}))
        made.references.append(reader.read([answer.image])[0])
        client.txt2img(recipe.payload(pair.reference, {**save, "reference": "figure",
                                                       "reference_mask": encoded(figure, pose)}))
        for name, sizes in made.sizes.items():
            memory = getattr(client, "memory", None)  # a web UI at a URL does not show it
            sizes.append(memory.load(name).nbytes if memory else 1)
        masks = {"mask": encoded(shirt, str(pair.target.pose)), "reference_mask": encoded(shirt, pose)}
        for way, order, settings in (
                ("plain", pair.target, None), ("whole", pair.target, {}), ("shirt", pair.target, masks),
                (OPEN[0], other.target, None), (OPEN[1], other.target, {}),
                (OPEN[2], other.target, {"reference": "figure"})):
            _draw(client, recipe, reader, made, way, order, settings)
    return made


def _draw(client: Client, recipe: Recipe, reader: Reader, made: Drawn, way: str, order: Order,
          settings: Mapping[str, str] | None) -> None:
    use = {"enabled": True, "mode": "Use", "store": "RAM", "reference": "whole", "rfg": STRENGTH}
    answer = client.txt2img(recipe.payload(order, None if settings is None else {**use, **settings}))
    made.targets[way].append(reader.read([answer.image])[0])
    made.seconds[way].append(answer.seconds)


def table(report: Mapping) -> str:
    """For people: agreement by way, and what a mask changes."""
    lines = [f"{'':16}" + "".join(f"{name:26}" for name in ("shirt", "others", "subject", "ground")).rstrip()]
    lines += [f"{way:16}" + "".join(f"{_said(report[way][name]):26}" for name in report[way]).rstrip()
              for way in (*WAYS, *OPEN)]
    return "\n".join([*lines, "", *(f"{name:40}{_said(row)}" for name, row in report["claims"].items()),
                      *(f"{name:40}{report[name]:.3f}" for name in report if " over " in name)])


def _said(row: Mapping[str, float]) -> str:
    return f"{row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def _mean(matrix: np.ndarray) -> dict[str, float]:
    return mean_of_rows(matrix)._asdict()


def _difference(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    matrix = one - other
    found: Measured = bootstrap(len(matrix), lambda rows: float(matrix[rows].mean()))
    return found._asdict()


def _ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Of medians: a busy machine makes outliers."""
    return float(np.median(one) / np.median(other))
