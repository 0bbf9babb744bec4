"""Masks by a word: how well the mask of the figure's word covers the figure, and what guides within it.

The overlap is measured where the figure is known to the pixel: a drawing by the renderer is saved as a reference, with
its description for a caption, and what the reference remembers of its word is held against the figure that was drawn.
Then a generated reference guides targets whose prompts leave the place open: as a whole, and with masks by the word on
one side or both.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from .characters import Character, draw, draw_character
from .client import LocalClient, Recipe
from .measure import Words, agreement_matrix, bootstrap, mean_of_rows, measures
from .pairs import Pair, make_pairs
from .pictures import as_text
from .reader import Reader

PLAIN, WHOLE, ITS, NEW, BOTH = "plain", "no mask", "in the reference", "in the new picture", "in both"
COLUMNS = {"subject": "subject_agreement", "sky": "sky_agreement", "ground": "ground_agreement",
           "pose": "pose_agreement"}
SUBJECT, SURROUNDINGS = ("shirt", "trousers", "hair", "length", "skin"), ("sky", "ground")


def ways(word: str) -> dict[str, Mapping[str, Any] | None]:
    """By name, what a Use is asked for besides its strength; None for no Use."""
    return {PLAIN: None, WHOLE: {"marked_only": False}, ITS: {}, NEW: {"marked_only": False, "mask_word": word},
            BOTH: {"mask_word": word}}


@dataclass
class Seen:
    """What was found, pair by pair: overlaps, and the words read off the references and the targets."""

    pairs: list[Pair]
    overlaps: list[float] = field(default_factory=list)
    references: list[Words] = field(default_factory=list)
    targets: dict[str, list[Words]] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """The overlap, the measures of every way, and what masks leave of the surroundings' gain over plain."""
        wanted, kinds = [pair.target.named for pair in self.pairs], [pair.kind for pair in self.pairs]
        found = {way: measures(self.references, wanted, words, kinds) for way, words in self.targets.items()}
        return {
            "overlap": {**mean_of_rows(np.array(self.overlaps)[:, None])._asdict(), "each": self.overlaps},
            "ways": {way: {name: all_of[name]._asdict() for name in COLUMNS.values()} for way, all_of in found.items()},
            "left": {way: {"surroundings": self._left(way, SURROUNDINGS), "subject": self._left(way, SUBJECT)}
                     for way in (ITS, NEW, BOTH)},
        }

    def _left(self, way: str, names: Sequence[str]) -> dict[str, float]:
        """The share that a way leaves of what guiding without a mask has more than plain."""
        plain, whole, masked = (agreement_matrix(self.references, self.targets[each], names).mean(axis=1)
                                for each in (PLAIN, WHOLE, way))

        def share(rows: np.ndarray) -> float:
            gain = (whole - plain)[rows].mean()
            return float((masked - plain)[rows].mean() / gain) if gain > 0 else float("nan")

        return bootstrap(len(self.pairs), share)._asdict()


def compare(client: LocalClient, recipe: Recipe, reader: Reader, seed: int, count: int, c: float = 0.4,
            progress: Callable[[str], None] = print) -> Seen:
    """Saves every pair's drawing and its reference, and draws its target in all :func:`ways`."""
    made = Seen(make_pairs(seed, count, open_prompts=True), targets={way: [] for way in ways("")})
    for number, pair in enumerate(made.pairs):
        progress(f"pair {number + 1} of {count} ({pair.kind})")

        saving = {"enabled": True, "mode": "Save", "store": "RAM", "reference": "marked", "replace": True,
                  "reference_mask_word": pair.kind}
        who = described(pair)
        drawing = as_text(draw(who, random.Random(pair.reference.seed)))
        client.txt2img(recipe.payload(pair.reference, {**saving, "picture": drawing}))
        made.overlaps.append(overlap(marked(client, "marked"), figure_of(who, pair.reference.seed)))
        made.references.append(reader.read([client.txt2img(recipe.payload(pair.reference, saving)).image])[0])
        for way, settings in ways(pair.kind).items():
            asked = None if settings is None else {"enabled": True, "mode": "Use", "store": "RAM", "rfg": c,
                                                   "reference": "marked", **settings}
            made.targets[way].append(reader.read([client.txt2img(recipe.payload(pair.target, asked)).image])[0])
    return made


def described(pair: Pair) -> Character:
    """A character as the reference's prompt says; what it leaves open is drawn by its seed."""
    order = pair.reference
    return replace(draw_character(random.Random(order.seed), order.kind), **order.named)


def figure_of(character: Character, seed: int) -> np.ndarray:
    """``[SIZE, SIZE]`` bool: where :func:`draw` with this seed puts the figure: what stays as it is when sky and ground
    change."""
    others = [replace(character, sky=sky, ground=ground) for sky, ground in (("violet", "bricks"), ("mint", "snow"))]
    one, other = (np.asarray(draw(each, random.Random(seed)), dtype=float) for each in others)
    return np.abs(one - other).sum(axis=2) < 20


def marked(client: LocalClient, name: str) -> np.ndarray:
    """The mask that a reference in memory was saved with, from 0 to 1."""
    from lib_refdrop.techniques.reference.masks import Mask
    with client.memory.using(name) as reference:
        mask = Mask.read(reference.manifest["marked"]["base"])
        return mask.picture.numpy()


def overlap(mask: np.ndarray, figure: np.ndarray) -> float:
    """Intersection over union of a mask of any size, stretched over the picture, and a figure."""
    stretched = Image.fromarray((mask * 255).astype(np.uint8)).resize(figure.shape[::-1], Image.Resampling.BILINEAR)
    found = np.asarray(stretched) > 127
    return float((found & figure).sum() / (found | figure).sum())


def table(report: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"a word's mask over the figure that was drawn: {_said(report['overlap'])} (intersection over union)", "",
             f"{'mask':22}" + "".join(f"{name:24}" for name in COLUMNS).rstrip()]
    lines += [f"{way:22}" + "".join(f"{_said(row[name]):24}" for name in COLUMNS.values()).rstrip()
              for way, row in report["ways"].items()]
    lines += ["", "left of what guiding without a mask has more than plain:",
              f"{'mask':22}{'surroundings':24}subject"]
    return "\n".join(lines + [f"{way:22}{_said(row['surroundings']):24}{_said(row['subject'])}"
                              for way, row in report["left"].items()])


def _said(row: Mapping[str, float]) -> str:
    return f"{row['value']:.3f} ({row['low']:.3f}-{row['high']:.3f})"
