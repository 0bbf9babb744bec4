"""Which words of a prompt weigh more: ``(more)``, ``((more))``, ``(as much:1.3)``, ``[less]``, ``\\(a bracket\\)``."""

from __future__ import annotations

import re
from typing import NamedTuple

BREAK = "BREAK"  # begins another chunk

_MORE, _LESS = 1.1, 1 / 1.1
_TOKEN = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|\)|\]|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Weighted(NamedTuple):
    """A stretch of text and how much it weighs; of :data:`BREAK`, None."""

    text: str
    weight: float | None


def weighted(prompt: str) -> list[Weighted]:
    """The prompt in stretches of one weight each. Brackets that never close reach to the end."""
    found: list[list] = []
    opened: list[tuple[str, int]] = []

    def close(start: int, factor: float) -> None:
        for stretch in found[start:]:
            if stretch[1] is not None:
                stretch[1] *= factor

    for token in _TOKEN.finditer(prompt):
        text, number = token.group(), token.group(1)
        innermost = next((place for place, (bracket, _) in reversed(list(enumerate(opened)))
                          if bracket == ("[" if text == "]" else "(")), None)
        if text in ("(", "["):
            opened.append((text, len(found)))
        elif number is not None and innermost is not None:
            close(opened.pop(innermost)[1], float(number))
        elif text in (")", "]") and innermost is not None:
            close(opened.pop(innermost)[1], _MORE if text == ")" else _LESS)
        elif text[0] == "\\":  # alone, it says nothing
            found.append([text[1:], 1.0])
        else:
            for index, stretch in enumerate(_BREAK.split(text)):
                found += [[BREAK, None]] if index else []
                found.append([stretch, 1.0])
    for bracket, start in opened:
        close(start, _MORE if bracket == "(" else _LESS)
    return _merged(found)


def _merged(stretches: list[list]) -> list[Weighted]:
    """Neighbours of one weight become one."""
    found: list[list] = []
    for text, weight in stretches:
        if found and weight is not None and found[-1][1] == weight:
            found[-1][0] += text
        else:
            found.append([text, weight])
    return [Weighted(*stretch) for stretch in found] or [Weighted("", 1.0)]
