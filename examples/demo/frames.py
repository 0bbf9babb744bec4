"""Do sequences hold: the flicker of frames that each begin in a drawn one, and the likeness of a story's pictures.

A figure walks over its ground, drawn with a pen, frame by frame; every frame is drawn again by img2img with noise of
its own. *Flicker* is how much more consecutive pictures differ than the drawn frames do, in grey levels; *changes* is
the share of attributes that read otherwise in the next frame. *Off the frame* is how far pictures are from the frames
that they begin in: what is steady because it stands still would be further off.

A story is of one kind of figure in other poses and on other grounds, each picture from a seed of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .characters import ACROSS, NAMED, UNNAMED, Character, draw, draw_character
from .client import Client, Recipe
from .measure import Words, bootstrap
from .pairs import Order, make_pairs
from .pictures import as_text
from .reader import Reader

PLAIN, ONE_NOISE = "plain", "plain, one noise"
SEQUENCES = ("First", "Previous", "First and previous")
FRAMES, PICTURES = 5, 4  # of a sequence, of a story
FRAMES_C, STORIES_C = 0.2, 0.3
DENOISING = 0.5
STEP = 2.5  # pixels that the figure goes from frame to frame


@dataclass
class Drawn:
    """By way: the pictures' frames ``[sequences, frames, H, W, 3]`` as they were drawn and as words, and stories."""

    given: list[np.ndarray] = field(default_factory=list)
    frames: dict[str, list[np.ndarray]] = field(default_factory=dict)
    frame_words: dict[str, list[list[Words]]] = field(default_factory=dict)
    orders: list[list[Order]] = field(default_factory=list)
    stories: dict[str, list[list[Words]]] = field(default_factory=dict)

    def report(self) -> dict:
        """Each measure by way, and by how much it differs from the plain way's, with intervals over sequences."""
        frames = {way: {"flicker": np.array([flicker(one, given) for one, given in zip(made, self.given)]),
                        "changes": np.array([_changes(words) for words in self.frame_words[way]]),
                        "off_frame": np.array([_apart(one, given) for one, given in zip(made, self.given)])}
                  for way, made in self.frames.items()}
        stories = {way: {"like_first": np.array([_likeness(words, first=True) for words in made]),
                         "like_previous": np.array([_likeness(words, first=False) for words in made]),
                         "adherence": np.array([_adherence(words, orders)
                                                for words, orders in zip(made, self.orders)])}
                   for way, made in self.stories.items()}
        return {"frames": _compared(frames), "stories": _compared(stories)}


def compare(client: Client, recipe: Recipe, reader: Reader, seed: int, count: int,
            progress: Callable[[str], None] = print, c: float | None = None) -> Drawn:
    """Draws ``count`` walks and as many stories, plain and as each of :data:`SEQUENCES`."""
    made = Drawn(frames={way: [] for way in (PLAIN, ONE_NOISE, *SEQUENCES)},
                 frame_words={way: [] for way in (PLAIN, ONE_NOISE, *SEQUENCES)},
                 stories={way: [] for way in (PLAIN, *SEQUENCES)})
    for number, pair in enumerate(make_pairs(seed, count)):
        progress(f"sequence {number + 1} of {count} ({pair.kind})")
        rng = random.Random(f"refdrop sequence {seed} {number}")
        who = draw_character(rng, pair.kind)
        walk = [drawn.resize((recipe.width, recipe.height), Image.Resampling.LANCZOS) for drawn in frames_of(who, rng)]
        made.given.append(_arrays(walk))
        made.orders.append(story_of(pair.reference, rng))
        for way in made.frames:
            settings = _settings(way, f"evaluation walk {seed} {number}", FRAMES_C if c is None else c)
            pictures = []
            for index, frame in enumerate(walk):
                order = Order(who.kind, who.pose, who.ground, pair.target.seed + (index if way != ONE_NOISE else 0))
                pictures.append(client.img2img({**recipe.payload(order, settings), "init_images": [as_text(frame)],
                                                "denoising_strength": DENOISING}).image)
            made.frames[way].append(_arrays(pictures))
            made.frame_words[way].append(reader.read(pictures))
        for way in made.stories:
            settings = _settings(way, f"evaluation story {seed} {number}", STORIES_C if c is None else c)
            made.stories[way].append(reader.read([client.txt2img(recipe.payload(order, settings)).image
                                                  for order in made.orders[-1]]))
    return made


def frames_of(who: Character, rng: random.Random, count: int = FRAMES) -> list[Image.Image]:
    """The figure on its way from left to right; shades, size and ground stay."""
    seed = rng.random()
    return [draw(who, _Placed(seed, STEP * (index - (count - 1) / 2))) for index in range(count)]


def story_of(first: Order, rng: random.Random, count: int = PICTURES) -> list[Order]:
    """So many pictures of one kind, from the first: each in another pose and on another ground than the one before."""
    orders = [first]
    while len(orders) < count:
        pose, ground = (rng.choice([word for word in NAMED[name] if word != getattr(orders[-1], name)])
                        for name in ("pose", "ground"))
        orders.append(Order(first.kind, pose, ground, rng.randrange(2**31, 2**32)))
    return orders


def flicker(made: np.ndarray, given: np.ndarray) -> float:
    """How much more consecutive pictures ``[frames, H, W, 3]`` differ than the frames given, in grey levels."""
    return float(np.abs(np.diff(made, axis=0)).mean() - np.abs(np.diff(given, axis=0)).mean())


def table(report: Mapping) -> str:
    """For people: every measure by way, and what sequences change of the plain way's."""
    lines = []
    for what, name in (("frames", f"frames, {FRAMES} a sequence"), ("stories", f"stories of {PICTURES}")):
        keys = list(report[what][PLAIN]["measured"])
        lines += ["", f"{name:22}" + "".join(f"{key.replace('_', ' '):28}" for key in keys).rstrip()]
        for way, row in report[what].items():
            lines.append(f"{way:22}" + "".join(f"{_said(row['measured'][key]):28}" for key in keys).rstrip())
            if "over_plain" in row:
                lines.append(f"{'  over plain':22}"
                             + "".join(f"{_said(row['over_plain'][key]):28}" for key in keys).rstrip())
    return "\n".join(lines).strip()


class _Placed(random.Random):
    """As its seed has it, but for where the figure stands."""

    def __init__(self, seed: float, place: float) -> None:
        super().__init__(seed)
        self._place = place

    def uniform(self, a: float, b: float) -> float:
        found = super().uniform(a, b)
        return self._place if (a, b) == ACROSS else found


def _settings(way: str, name: str, c: float) -> dict | None:
    if way not in SEQUENCES:
        return None
    return {"enabled": True, "mode": "Use", "rfg": c, "sequence": way, "sequence_name": f"{name} {way}",
            "on_problem": "Stop"}


def _arrays(pictures: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture.convert("RGB"), np.float32) for picture in pictures])


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def _changes(words: Sequence[Words]) -> float:
    return float(np.mean([one[name] != other[name] for one, other in zip(words, words[1:]) for name in UNNAMED]))


def _likeness(words: Sequence[Words], first: bool) -> float:
    """With the first picture, or with the one before: the share of attributes that prompts leave open."""
    others = [words[0]] * (len(words) - 1) if first else words
    return float(np.mean([one[name] == other[name] for one, other in zip(others, words[1:]) for name in UNNAMED]))


def _adherence(words: Sequence[Words], orders: Sequence[Order]) -> float:
    return float(np.mean([one[name] == word for one, order in zip(words, orders)
                          for name, word in order.named.items()]))


def _compared(measured: Mapping[str, Mapping[str, np.ndarray]]) -> dict:
    plain = measured[PLAIN]
    return {way: {"measured": {key: _value(values) for key, values in row.items()},
                  **({} if way == PLAIN else {"over_plain": {key: _value(values - plain[key])
                                                             for key, values in row.items()}})}
            for way, row in measured.items()}


def _value(values: np.ndarray) -> dict[str, float]:
    return bootstrap(len(values), lambda rows: float(values[rows].mean()))._asdict()


def _said(row: Mapping[str, float]) -> str:
    return f"{row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
