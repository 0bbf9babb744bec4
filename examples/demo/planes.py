"""One measure against another: a line of points for each method, with intervals both ways. Drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from .figures import COLOURS, FAINT, INK, PAPER

Interval = Sequence[float]


@dataclass(frozen=True)
class Track:
    """One method: points ``(x, y)``, the two intervals of each, and what each is called."""

    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[tuple[Interval, Interval]]
    labels: Sequence[str]


def plane(tracks: Sequence[Track], title: str, x_label: str, y_label: str,
          size: tuple[int, int] = (620, 560)) -> Image.Image:
    """Tracks in the part of [0, 1] × [0, 1] that they take; the first in ink, the others in colours. RGB."""
    scale = 3  # drawn larger and reduced, for smooth lines
    rows = math.ceil(len(tracks) / 3)
    left, right, top, bottom = 60, 34, 40, 54 + 20 * rows
    width, height = size
    spans = [_span([pair[axis] for track in tracks for pair in track.intervals]) for axis in (0, 1)]
    image = Image.new("RGB", (width * scale, height * scale), PAPER)
    pen = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(13 * scale), ImageFont.load_default(10 * scale)

    def at(x: float, y: float) -> tuple[float, float]:
        (x_low, x_high), (y_low, y_high) = spans
        across = left + (x - x_low) / (x_high - x_low) * (width - left - right)
        return across * scale, (top + (1 - (y - y_low) / (y_high - y_low)) * (height - top - bottom)) * scale

    (x_low, x_high), (y_low, y_high) = spans
    for x in _ticks(x_low, x_high):
        pen.line((*at(x, y_low), *at(x, y_high)), FAINT, scale)
        across, down = at(x, y_low)
        pen.text((across, down + 5 * scale), f"{x:g}", INK, font, anchor="mt")
    for y in _ticks(y_low, y_high):
        pen.line((*at(x_low, y), *at(x_high, y)), FAINT, scale)
        across, down = at(x_low, y)
        pen.text((across - 6 * scale, down), f"{y:g}", INK, font, anchor="rm")
    pen.text((left * scale, 10 * scale), title, INK, ImageFont.load_default(15 * scale))
    pen.text((6 * scale, (top - 14) * scale), y_label, INK, small, anchor="lm")
    pen.text(((left + width - right) / 2 * scale, at(x_low, y_low)[1] + 22 * scale), x_label, INK, font, anchor="mt")
    for number, track in enumerate(tracks):
        colour = colour_of(number)
        _draw(pen, track, at, colour, small, scale)
        column, row = number % 3, number // 3
        x, y = (left + column * (width - left - right) / 3) * scale, (height - 20 * (rows - row) + 4) * scale
        pen.line((x, y, x + 16 * scale, y), colour, 3 * scale)
        pen.text((x + 21 * scale, y), track.name, INK, font, anchor="lm")
    return image.resize(size, Image.LANCZOS)


def colour_of(number: int) -> tuple[int, int, int]:
    """A track's colour: ink for the first, which the others are compared with."""
    return COLOURS[(number - 1) % len(COLOURS)] if number else INK


def _draw(pen, track: Track, at, colour, font, scale: int) -> None:
    pale = tuple(round(255 - (255 - part) * 0.45) for part in colour)  # intervals are many, and not the matter
    for (x, y), ((x_low, x_high), (y_low, y_high)) in zip(track.points, track.intervals):
        pen.line((*at(x_low, y), *at(x_high, y)), pale, scale)
        pen.line((*at(x, y_low), *at(x, y_high)), pale, scale)
    points = [at(*point) for point in track.points]
    pen.line(points, colour, 2 * scale, joint="curve")
    for (x, y), label in zip(points, track.labels):
        pen.ellipse((x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale), colour)
        pen.text((x + 6 * scale, y - 8 * scale), label.rsplit(" ", 1)[-1], colour, font, anchor="lm")


def _span(intervals: Sequence[Interval]) -> tuple[float, float]:
    """From and until, in tenths, with every interval inside."""
    low = math.floor(10 * min(min(each) for each in intervals) + 1e-9) / 10
    high = math.ceil(10 * max(max(each) for each in intervals) - 1e-9) / 10
    return max(low, 0.0), min(max(high, low + 0.1), 1.0) if low < 1 else 1.1


def _ticks(low: float, high: float) -> list[float]:
    step = 0.1 if high - low > 0.25 else 0.05
    return [round(low + step * number, 2) for number in range(round((high - low) / step) + 1)]
