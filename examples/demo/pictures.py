"""Does a drawing guide as a generated picture does: the gain in agreement of either, over the same pairs.

The generated reference's words are read off it, and another picture of the very same description is drawn with a pen:
one that the model never made. Each guides the same target, from the same seed.
"""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .characters import UNNAMED, Character, draw
from .client import Client, Recipe
from .measure import Words, adherence_matrix, agreement_matrix, bootstrap, mean_of_rows
from .pairs import Order, Pair
from .reader import Reader

PLAIN, GENERATED = "plain", "generated"
DRAWINGS = {"drawing": "Noising", "inverted": "Inversion"}  # how a drawing is brought to noise


@dataclass
class Drawn:
    """What was read off the pictures, pair by pair: the references' words and the targets', by what guided them."""

    pairs: list[Pair]
    references: list[Words] = field(default_factory=list)
    targets: dict[str, list[Words]] = field(default_factory=dict)

    def report(self) -> dict:
        """Agreement, adherence and gain by what guided, and a drawing's gain over the generated reference's."""
        agreement = {name: agreement_matrix(self.references, words) for name, words in self.targets.items()}
        wanted = [pair.target.named for pair in self.pairs]
        found: dict = {name: {"agreement": mean_of_rows(matrix)._asdict(),
                              "adherence": mean_of_rows(adherence_matrix(wanted, self.targets[name]))._asdict()}
                       for name, matrix in agreement.items()}
        plain = agreement[PLAIN].mean(axis=1)
        gains = {name: agreement[name].mean(axis=1) - plain for name in (GENERATED, *DRAWINGS)}
        for name, gain in gains.items():
            found[name]["gain"] = mean_of_rows(gain[:, None])._asdict()
        for name in DRAWINGS:
            found[name]["of_generated"] = bootstrap(len(self.pairs), lambda rows, name=name: _ratio(
                gains[name][rows].mean(), gains[GENERATED][rows].mean()))._asdict()
        return found


def compare(client: Client, recipe: Recipe, reader: Reader, pairs: Sequence[Pair], c: float = 0.3,
            progress: Callable[[str], None] = print) -> Drawn:
    """Draws every pair's target plain, guided by its generated reference, and by a drawing of the same description,
    either way."""
    made = Drawn(list(pairs), targets={name: [] for name in (PLAIN, GENERATED, *DRAWINGS)})

    def drawn(order: Order, **settings) -> Image.Image:
        asked = {"enabled": True, "store": "RAM", "reference": "compared", **settings} if settings else None
        return client.txt2img(recipe.payload(order, asked)).image

    def guided(order: Order) -> Words:
        return reader.read([drawn(order, mode="Use", rfg=c)])[0]

    for number, pair in enumerate(pairs):
        progress(f"pair {number + 1} of {len(pairs)} ({pair.kind})")
        seen = reader.read([drawn(pair.reference, mode="Save", replace=True)])[0]
        made.references.append(seen)
        made.targets[PLAIN].append(reader.read([drawn(pair.target)])[0])
        made.targets[GENERATED].append(guided(pair.target))
        who = Character(**pair.reference.named, **{name: seen[name] for name in UNNAMED})
        picture = as_text(draw(who, random.Random(pair.reference.seed)))
        for name, way in DRAWINGS.items():
            drawn(pair.reference, mode="Save", replace=True, picture=picture, picture_by=way)
            made.targets[name].append(guided(pair.target))
    return made


def as_text(image: Image.Image) -> str:
    """As PNG in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def table(report: dict) -> str:
    """The report's lines for people."""
    lines = [f"{'guided by':12}{'agreement':24}{'adherence':24}{'gain':24}of the generated one's"]
    for name, entry in report.items():
        cells = [f"{entry[key]['value']:.3f} ({entry[key]['low']:.3f}-{entry[key]['high']:.3f})" if key in entry else ""
                 for key in ("agreement", "adherence", "gain", "of_generated")]
        lines.append(f"{name:12}" + "".join(f"{cell:24}" for cell in cells).rstrip())
    return "\n".join(lines)


def _ratio(one: float, other: float) -> float:
    return float(one / other) if other > 0 else float(np.nan)
