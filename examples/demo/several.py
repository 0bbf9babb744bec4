"""What two references at once do: how much of each is in the picture, beside either alone.

Both references are of the target's kind. Only attributes in which they differ count: what they share says nothing of
either.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .characters import NAMED, UNNAMED
from .client import Client, Recipe
from .measure import Measured, Words, adherence_matrix, bootstrap, mean_of_rows
from .pairs import Order, Pair, make_pairs
from .reader import Reader

FIRST, SECOND = "first", "second"
# By name, the strength of each reference.
WAYS: dict[str, Mapping[str, float]] = {
    "plain": {}, "first": {FIRST: 0.4}, "second": {SECOND: 0.25}, "both": {FIRST: 0.4, SECOND: 0.25},
    "unlike second": {SECOND: -0.25}, "first, unlike second": {FIRST: 0.4, SECOND: -0.25},
}
# What is claimed: a way, the reference that counts, and the way that it is held against; the sign is that of more.
CLAIMS = (("both", FIRST, "second", 1), ("both", SECOND, "first", 1), ("both", FIRST, "plain", 1),
          ("both", SECOND, "plain", 1), ("first, unlike second", FIRST, "unlike second", 1),
          ("first, unlike second", SECOND, "first", -1), ("first, unlike second", FIRST, "first", 1),
          ("first, unlike second", SECOND, "unlike second", -1))


@dataclass
class Drawn:
    """What was read off the pictures: the two references' words, and the targets' by the way they were guided."""

    pairs: list[Pair]
    references: dict[str, list[Words]] = field(default_factory=lambda: {FIRST: [], SECOND: []})
    targets: dict[str, list[Words]] = field(default_factory=dict)

    def report(self) -> dict:
        """By way the share of each reference's words, among those in which they differ, and adherence; and for every
        claim the difference, positive where it holds."""
        wanted = [pair.target.named for pair in self.pairs]
        found: dict = {name: {**{which: _value(self._likes(name, which))
                                 for which in (FIRST, SECOND)},
                              "adherence": mean_of_rows(adherence_matrix(wanted, words))._asdict()}
                       for name, words in self.targets.items()}
        found["claims"] = {f"{way}: {which} over {other}": _value(
            sign * (self._likes(way, which) - self._likes(other, which)))
            for way, which, other, sign in CLAIMS}
        return found

    def _likes(self, way: str, which: str) -> np.ndarray:
        """``[targets, attributes]``: 1 where a target has the reference's word, NaN where both references have it."""
        rows = zip(self.references[FIRST], self.references[SECOND], self.references[which], self.targets[way])
        return np.array([[float(target[name] == one[name]) if first[name] != second[name] else np.nan
                          for name in UNNAMED] for first, second, one, target in rows])


def second_references(seed: int, pairs: Sequence[Pair]) -> list[Order]:
    """One more reference for every pair, of its kind, in another pose and on another ground than the first."""
    rng = random.Random(f"refdrop second references {seed}")
    return [Order(pair.kind, rng.choice([pose for pose in NAMED["pose"] if pose != pair.reference.pose]),
                  rng.choice([ground for ground in NAMED["ground"] if ground != pair.reference.ground]),
                  rng.randrange(2**31, 2**32)) for pair in pairs]


def compare(client: Client, recipe: Recipe, reader: Reader, seed: int, count: int,
            progress: Callable[[str], None] = print) -> Drawn:
    """Draws every pair's target in all :data:`WAYS`."""
    pairs = make_pairs(seed, count)
    made = Drawn(pairs, targets={name: [] for name in WAYS})
    for number, (pair, second) in enumerate(zip(pairs, second_references(seed, pairs))):
        progress(f"pair {number + 1} of {len(pairs)} ({pair.kind})")
        for which, order in ((FIRST, pair.reference), (SECOND, second)):
            answer = client.txt2img(recipe.payload(order, {
                "enabled": True, "mode": "Save", "store": "RAM", "reference": which, "replace": True}))
            made.references[which].append(reader.read([answer.image])[0])
        for name, strengths in WAYS.items():
            listed = [{"name": which, "rfg": c} for which, c in strengths.items()]
            settings = {"enabled": True, "mode": "Use", "store": "RAM", "references": listed} if listed else None
            image = client.txt2img(recipe.payload(pair.target, settings)).image
            made.targets[name].append(reader.read([image])[0])
    return made


def table(report: Mapping) -> str:
    """For people: how much of each reference is in the pictures, and whether the claims hold."""
    lines = [f"{'guided by':24}{'like the first':24}{'like the second':24}adherence"]
    lines += [f"{name:24}" + "".join(f"{_said(row[key]):24}" for key in (FIRST, SECOND, "adherence")).rstrip()
              for name, row in report.items() if name != "claims"]
    lines += ["", "more of the first, and where it is to be unlike it, less of the second:"]
    return "\n".join(lines + [f"{name:44}{_said(row)}" for name, row in report["claims"].items()])


def _said(row: Mapping[str, float]) -> str:
    return f"{row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def _value(matrix: np.ndarray) -> dict[str, float]:
    def mean(rows: np.ndarray) -> float:
        taken = matrix[rows]
        return float(np.nanmean(taken)) if not np.isnan(taken).all() else float("nan")

    found: Measured = bootstrap(len(matrix), mean)
    return found._asdict()
