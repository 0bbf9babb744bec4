"""A sentence as a picture: what a cell of a plot shows that could not be drawn."""

from __future__ import annotations

import textwrap

from PIL import Image, ImageDraw, ImageFont

_LETTER, _LINE = 6, 12  # pixels of a letter of Pillow's own font, across and down
_COLUMNS = 34  # letters of a line, enlarged to the picture's width


def picture(sentence: str, width: int, height: int) -> Image.Image:
    """The sentence in white on black, in whole letters as large as a line of some 30 lets them be."""
    scale = max(1, width // (_LETTER * _COLUMNS))
    small = Image.new("RGB", (max(1, width // scale), max(1, height // scale)))
    # Pillow's own font, the only one that is everywhere, has Latin letters alone in older versions.
    plain = sentence.translate({0x2212: "-", 0x2013: "-", 0xD7: "x"}).encode("latin-1", "replace").decode("latin-1")
    lines = textwrap.wrap(plain, max(8, small.width // _LETTER - 2))
    draw, font = ImageDraw.Draw(small), ImageFont.load_default()
    for number, line in enumerate(lines):
        draw.text((_LETTER, _LETTER + number * _LINE), line, fill=(255, 255, 255), font=font)
    return small.resize((width, height), Image.Resampling.NEAREST)
