"""Procedurally drawn characters: the demo model's whole world.

A picture shows one figure. Three attributes are *named* by its caption (kind, pose, ground); six are *unnamed*
(shirt, trousers, hair, length of hair, skin, sky), so a prompt leaves them to the seed. Some unnamed ones are skewed by
the kind: most pirates wear red. That stereotype is what a negative RFG coefficient can be seen to break.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, replace

from PIL import Image, ImageDraw

SIZE = 128  # pixels, both ways
ACROSS = (-7, 7)  # pixels from the middle that the figure stands at

NAMED = {
    "kind": ("pirate", "nurse", "wizard", "king", "chef", "farmer"),
    "pose": ("up", "down", "wide", "waving"),
    "ground": ("grass", "sand", "snow", "bricks"),
}
UNNAMED = {
    "shirt": ("red", "blue", "green", "yellow", "purple", "white"),
    "trousers": ("black", "blue", "brown", "orange", "teal"),
    "hair": ("black", "brown", "blond", "ginger", "grey"),
    "length": ("short", "long"),
    "skin": ("light", "tan", "dark"),
    "sky": ("blue", "pink", "cream", "grey", "mint", "violet"),
}
ATTRIBUTES = {**NAMED, **UNNAMED}

# With this probability a character of the kind has the stereotype's value; otherwise any value, uniformly.
SKEW = 0.6
STEREOTYPES = {
    "pirate": {"shirt": "red", "hair": "black", "length": "long"},
    "nurse": {"shirt": "white", "hair": "blond"},
    "wizard": {"shirt": "purple", "hair": "grey", "length": "long"},
    "king": {"shirt": "yellow", "hair": "ginger"},
    "chef": {"shirt": "white", "length": "short"},
    "farmer": {"shirt": "green", "length": "short"},
}

_SHIRT = {"red": (205, 40, 45), "blue": (45, 85, 205), "green": (45, 150, 65), "yellow": (240, 200, 40),
          "purple": (130, 55, 165), "white": (245, 245, 245)}
_TROUSERS = {"black": (35, 35, 40), "blue": (50, 80, 170), "brown": (120, 75, 40), "orange": (230, 120, 35),
             "teal": (20, 150, 150)}
_HAIR = {"black": (25, 22, 25), "brown": (105, 62, 30), "blond": (235, 205, 105), "ginger": (205, 90, 30),
         "grey": (175, 175, 182)}
_SKIN = {"light": (250, 215, 185), "tan": (205, 150, 105), "dark": (110, 70, 48)}
_SKY = {"blue": (120, 185, 240), "pink": (245, 170, 195), "cream": (248, 232, 165), "grey": (140, 142, 148),
        "mint": (155, 225, 180), "violet": (165, 140, 222)}
_GROUND = {"grass": (75, 150, 60), "sand": (222, 195, 125), "snow": (238, 244, 250), "bricks": (160, 78, 60)}


@dataclass(frozen=True)
class Character:
    """One value for every attribute, each a word of :data:`ATTRIBUTES`."""

    kind: str
    pose: str
    ground: str
    shirt: str
    trousers: str
    hair: str
    length: str
    skin: str
    sky: str

    def view(self, rng: random.Random) -> Character:
        """The same character in another picture: pose and ground drawn again."""
        return replace(self, pose=rng.choice(NAMED["pose"]), ground=rng.choice(NAMED["ground"]))

    def attributes(self) -> dict[str, str]:
        return asdict(self)


def draw_character(rng: random.Random, kind: str | None = None) -> Character:
    """A random character, with the stereotypes of its kind at :data:`SKEW`."""
    kind = kind or rng.choice(NAMED["kind"])
    values = {name: rng.choice(words) for name, words in ATTRIBUTES.items() if name != "kind"}
    for name, word in STEREOTYPES[kind].items():
        if rng.random() < SKEW:
            values[name] = word
    return Character(kind=kind, **values)


POSE_WORDS = {"up": "arms up", "down": "arms down", "wide": "arms wide", "waving": "waving"}


def prompt(kind: str, pose: str | None = None, ground: str | None = None) -> str:
    """The plain caption, e.g. ``"a pirate arms up on grass"``; a part left out stays unnamed."""
    words = ["a", kind]
    if pose:
        words.append(POSE_WORDS[pose])
    if ground:
        words += ["on", ground]
    return " ".join(words)


def caption(character: Character, rng: random.Random) -> str:
    """A training caption: usually all three named attributes, sometimes fewer, with the grammar varied a little."""
    pose = character.pose if rng.random() < 0.9 else None
    ground = character.ground if rng.random() < 0.9 else None
    if rng.random() < 0.7:
        return prompt(character.kind, pose, ground)
    parts = [character.kind] + ([POSE_WORDS[pose]] if pose else []) + ([ground] if ground else [])
    if rng.random() < 0.5:
        parts[0] = f"{rng.choice(('picture', 'drawing', 'portrait'))} of a {parts[0]}"
    return ", ".join(parts)


def strip_caption(character: Character) -> str:
    """The caption of a comic strip: several pictures of one character in one image."""
    return f"a comic of a {character.kind}"


WORDS = sorted({word for text in (
    *NAMED["kind"], *NAMED["ground"], *POSE_WORDS.values(), "a an the of on in with and picture drawing portrait comic",
    *UNNAMED["shirt"], *UNNAMED["hair"], *UNNAMED["sky"], *UNNAMED["trousers"],
    "shirt hair sky long short skin light tan dark trousers",
) for word in text.split()})


def draw(character: Character, rng: random.Random) -> Image.Image:
    """The picture, RGB, ``SIZE`` square. ``rng`` moves the figure and shades it a little; the attributes stay."""
    scale = 4  # drawn larger and reduced, for smooth edges
    image = Image.new("RGB", (SIZE * scale, SIZE * scale), _shade(_SKY[character.sky], rng))
    pen = _Pen(image, scale, 64 + rng.uniform(*ACROSS), 42 + rng.uniform(-3, 3), rng.uniform(0.93, 1.06))
    horizon = 104 + rng.uniform(-3, 3)
    pen.raw.rectangle((0, horizon * scale, SIZE * scale, SIZE * scale), fill=_shade(_GROUND[character.ground], rng))
    skin, shirt = _shade(_SKIN[character.skin], rng), _shade(_SHIRT[character.shirt], rng)
    hair, trousers = _shade(_HAIR[character.hair], rng), _shade(_TROUSERS[character.trousers], rng)

    if character.length == "long":
        pen.box(-28, -8, 28, 34, hair, radius=10)
    pen.disc(0, -2, 22, hair)
    pen.box(-17, 44, -2, 74, trousers)
    pen.box(2, 44, 17, 74, trousers)
    pen.box(-20, 72, -2, 80, (45, 35, 32), radius=3)
    pen.box(2, 72, 20, 80, (45, 35, 32), radius=3)
    _arms(pen, character.pose, shirt, skin, flip=rng.random() < 0.5)
    pen.box(-21, 17, 21, 52, shirt, radius=7)
    pen.box(-17, 46, 17, 54, trousers)
    pen.disc(0, 2, 17, skin)
    pen.disc(-6, 1, 2.6, (25, 25, 30))
    pen.disc(6, 1, 2.6, (25, 25, 30))
    pen.box(-5, 9, 5, 12, (150, 45, 50), radius=1)
    _headgear(pen, character.kind)
    return image.resize((SIZE, SIZE), Image.LANCZOS)


class _Pen:
    """Draws in the figure's own units: the origin is its face."""

    def __init__(self, image: Image.Image, scale: int, x: float, y: float, zoom: float) -> None:
        self.raw = ImageDraw.Draw(image)
        self._x, self._y, self._unit, self._zoom = x * scale, y * scale, scale, zoom

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self._x + x * self._unit * self._zoom, self._y + y * self._unit * self._zoom

    def disc(self, x: float, y: float, radius: float, fill) -> None:
        self.raw.ellipse((*self._at(x - radius, y - radius), *self._at(x + radius, y + radius)), fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill, radius: float = 0) -> None:
        corners = (*self._at(left, top), *self._at(right, bottom))
        self.raw.rounded_rectangle(corners, radius * self._unit * self._zoom, fill=fill)

    def shape(self, points, fill) -> None:
        self.raw.polygon([self._at(x, y) for x, y in points], fill=fill)

    def limb(self, start, end, fill, width: float = 11) -> None:
        self.raw.line((*self._at(*start), *self._at(*end)), fill=fill, width=round(width * self._unit * self._zoom))
        self.disc(*start, width / 2, fill)
        self.disc(*end, width / 2, fill)


def _arms(pen: _Pen, pose: str, sleeve, hand, flip: bool) -> None:
    ends = {"up": (40, -14), "down": (29, 50), "wide": (51, 23)}
    sides = (("up", "down") if flip else ("down", "up")) if pose == "waving" else (pose, pose)
    for sign, name in zip((-1, 1), sides):
        x, y = ends[name]
        pen.limb((sign * 17, 23), (sign * x, y), sleeve)
        pen.disc(sign * x, y, 6.5, hand)


def _headgear(pen: _Pen, kind: str) -> None:
    if kind == "pirate":
        pen.shape([(-30, -10), (30, -10), (16, -24), (0, -32), (-16, -24)], (20, 20, 25))
        pen.disc(0, -19, 4.5, (245, 245, 245))
        pen.disc(6, 1, 5, (20, 20, 25))
    elif kind == "nurse":
        pen.box(-17, -26, 17, -11, (250, 250, 250), radius=3)
        pen.box(-2, -24, 2, -13, (210, 30, 40))
        pen.box(-6, -20.5, 6, -16.5, (210, 30, 40))
    elif kind == "wizard":
        pen.shape([(-25, -10), (25, -10), (4, -42)], (55, 40, 120))
        pen.disc(2, -21, 4, (245, 220, 80))
    elif kind == "king":
        pen.shape([(-18, -9), (18, -9), (21, -30), (10, -19), (0, -32), (-10, -19), (-21, -30)], (250, 205, 45))
        pen.disc(0, -14, 3.2, (210, 30, 40))
    elif kind == "chef":
        pen.box(-16, -22, 16, -10, (250, 250, 250))
        for x in (-12, 0, 12):
            pen.disc(x, -27, 10, (250, 250, 250))
    elif kind == "farmer":
        pen.box(-31, -15, 31, -9, (215, 170, 85), radius=3)
        pen.box(-16, -29, 16, -11, (215, 170, 85), radius=6)
        pen.box(-16, -18, 16, -14, (150, 60, 45))


def _shade(colour, rng: random.Random):
    factor = rng.uniform(0.94, 1.04)
    return tuple(min(255, round(channel * factor)) for channel in colour)
