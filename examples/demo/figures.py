"""The pictures of a report: a labelled grid, and curves with their intervals. Drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (30, 30, 36), (205, 205, 212), (255, 255, 255)
COLOURS = ((202, 60, 60), (45, 105, 190), (60, 145, 75), (140, 90, 170), (225, 140, 30), (30, 150, 160), (150, 100, 60),
           (225, 95, 165))


def grid(rows: Mapping[str, Sequence[Image.Image]], captions: Mapping[str, Sequence[str]],
         cell: int = 160) -> Image.Image:
    """Rows of pictures, each with its label on the left; ``captions`` stand under the pictures of the row they name.

    A label may have several lines. RGB.
    """
    font, small = ImageFont.load_default(15), ImageFont.load_default(11)
    margin, gap, label, caption = 12, 6, 150, 32
    columns = max(len(pictures) for pictures in rows.values())
    heights = [cell + gap + (caption if name in captions else 0) for name in rows]
    sheet = Image.new("RGB", (2 * margin + label + columns * (cell + gap), 2 * margin + sum(heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    top = margin
    for (name, pictures), height in zip(rows.items(), heights):
        pen.multiline_text((margin, top + cell / 2), name, INK, font, anchor="lm", spacing=5)
        for column, picture in enumerate(pictures):
            left = margin + label + column * (cell + gap)
            sheet.paste(picture.resize((cell, cell), Image.BICUBIC), (left, top))
            if name in captions:
                text = _wrapped(captions[name][column], small, cell)
                pen.multiline_text((left, top + cell + 3), text, INK, small, spacing=2)
        top += height
    return sheet


@dataclass(frozen=True)
class Line:
    """One curve: values over x, each with a 95 % interval."""

    name: str
    values: Sequence[float]
    intervals: Sequence[tuple[float, float]]


def curve(xs: Sequence[float], lines: Sequence[Line], title: str, x_label: str,
          size: tuple[int, int] = (760, 460)) -> Image.Image:
    """Curves in [0, 1] over ``xs`` (rising), with whiskers, a legend and a grid. RGB."""
    scale = 3  # drawn larger and reduced, for smooth lines
    width, height = size
    left, right, top, bottom = 56, 16, 40, 78
    low, high = (xs[0], xs[-1]) if xs[-1] > xs[0] else (xs[0] - 0.1, xs[0] + 0.1)
    image = Image.new("RGB", (width * scale, height * scale), PAPER)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(13 * scale)

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + 10 + (x - low) / (high - low) * (width - left - right - 20)
        return across * scale, (top + (1 - y) * (height - top - bottom)) * scale

    pen.text((left * scale, 10 * scale), title, INK, ImageFont.load_default(15 * scale))
    for tick in range(0, 11, 2):
        _, y = at(low, tick / 10)
        pen.line((left * scale, y, (width - right) * scale, y), FAINT, scale)
        pen.text(((left - 6) * scale, y), f"{tick / 10:.1f}", INK, font, anchor="rm")
    for x in xs:
        across, floor = at(x, 0)
        pen.line((across, at(x, 1)[1], across, floor), FAINT if x else INK, scale)
        pen.text((across, floor + 5 * scale), f"{x:g}", INK, font, anchor="mt")
    pen.text((width * scale / 2, at(low, 0)[1] + 24 * scale), x_label, INK, font, anchor="mt")
    for number, line in enumerate(lines):
        def beside(x: float, y: float, shift: float = 3 * (number - (len(lines) - 1) / 2)) -> tuple[float, float]:
            across, down = at(x, y)
            return across + shift * scale, down  # curves that meet do not hide each other's intervals

        points = [beside(x, value) for x, value in zip(xs, line.values)]
        _draw_line(pen, line, points, beside, xs, COLOURS[number % len(COLOURS)], scale)
    _legend(pen, lines, font, left * scale, (height - 22) * scale, scale)
    return image.resize(size, Image.LANCZOS)


def stacked(pictures: Sequence[Image.Image], across: bool = False) -> Image.Image:
    """One below the other, or side by side."""
    widths, heights = [each.width for each in pictures], [each.height for each in pictures]
    size = (sum(widths), max(heights)) if across else (max(widths), sum(heights))
    sheet = Image.new("RGB", size, PAPER)
    place = 0
    for each in pictures:
        sheet.paste(each, (place, 0) if across else (0, place))
        place += each.width if across else each.height
    return sheet


def _draw_line(pen, line: Line, points, at, xs: Sequence[float], colour, scale: int) -> None:
    for x, (low, high) in zip(xs, line.intervals):
        (across, foot), (_, head) = at(x, low), at(x, high)
        pen.line((across, foot, across, head), colour, scale)
        for end in (foot, head):
            pen.line((across - 3 * scale, end, across + 3 * scale, end), colour, scale)
    pen.line(points, colour, 2 * scale, joint="curve")
    for x, y in points:
        pen.ellipse((x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale), colour)


def _legend(pen, lines: Sequence[Line], font, x: float, y: float, scale: int) -> None:
    for number, line in enumerate(lines):
        pen.line((x, y, x + 18 * scale, y), COLOURS[number % len(COLOURS)], 3 * scale)
        pen.text((x + 24 * scale, y), line.name, INK, font, anchor="lm")
        x += 48 * scale + pen.textlength(line.name, font)


def _wrapped(text: str, font, width: int) -> str:
    """The text in lines no wider than ``width``."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
