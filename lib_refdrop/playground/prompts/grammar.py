"""Prompts that change on the way, and prompts of several parts.

====================  ==========================================================================================
``[from:to:when]``    ``from`` up to step ``when``, then ``to``; below 1, or with a point, a share of all steps
``[to:when]``         nothing, then ``to``; ``[from::when]`` the other way round
``[a|b|c]``           another one at each step, in turn
``a AND b :0.7``      parts that the model is asked for one by one, each with a weight
====================  ==========================================================================================

Brackets that mean none of these stand as they are: :mod:`emphasis` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?)\s*\]")
_PLAIN = re.compile(r"(?:[^\\\[\]():|]|\\.)+", re.DOTALL)
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*$")
_CLOSING = {"(": ")", "[": "]"}
_DEEPEST = 100  # brackets inside brackets; beyond, they are text


@dataclass(frozen=True)
class Changes:
    """``before`` up to ``when``, ``after`` then; ``when`` as written."""

    before: Sequence
    after: Sequence
    when: str


@dataclass(frozen=True)
class Alternates:
    """One of ``options`` at each step, in turn."""

    options: Sequence[Sequence]


def parts(prompt: str) -> list[tuple[str, float]]:
    """The parts of an AND prompt with their weights; a prompt without AND is one part, and may have a weight, too."""
    found = []
    for text in _AND.split(prompt):
        weight = _WEIGHT.search(text)
        found.append((text[:weight.start()], float(weight.group(1))) if weight else (text.rstrip(), 1.0))
    return found


def versions(prompt: str, steps: int, first_steps: int | None = None) -> list[tuple[int, str]]:
    """What the prompt says, and up to which step: ``[(last step, text), …]``, the last one's step being ``steps``.

    Steps are counted from 1. In a second pass ``first_steps`` is how many the first one had: whole numbers count on
    from there, and shares from 1.
    """
    tree = _Reader(prompt).read()
    if tree is None:
        return [(steps, prompt)]
    ends = sorted({steps, *_ends(tree, steps, first_steps)})
    return [(end, _text(tree, end, steps, first_steps)) for end in ends]


def _ends(tree: Sequence, steps: int, first_steps: int | None) -> set[int]:
    """Every step after which the text may be another."""
    found: set[int] = set()
    for node in tree:
        if isinstance(node, Changes):
            when = _step(node.when, steps, first_steps)
            found |= {when} if when >= 1 else set()
            found |= _ends(node.before, steps, first_steps) | _ends(node.after, steps, first_steps)
        elif isinstance(node, Alternates):
            found |= set(range(1, steps + 1))
    return found


def _text(tree: Sequence, step: int, steps: int, first_steps: int | None) -> str:
    said = []
    for node in tree:
        if isinstance(node, Changes):
            here = node.before if step <= _step(node.when, steps, first_steps) else node.after
            said.append(_text(here, step, steps, first_steps))
        elif isinstance(node, Alternates):
            said.append(_text(node.options[(step - 1) % len(node.options)], step, steps, first_steps))
        else:
            said.append(node)
    return "".join(said)


def _step(when: str, steps: int, first_steps: int | None) -> int:
    number, second = float(when), first_steps is not None
    number = (number - second) * steps if "." in when else number - (first_steps or 0)
    return int(max(min(number, steps), 0))


class _Reader:
    """A recursive descent over the text; every place is read once."""

    def __init__(self, text: str) -> None:
        self._text, self._depth = text, 0
        self._known: dict[int, tuple[list, int]] = {}

    def read(self) -> list | None:
        """The whole prompt as a list of texts, :class:`Changes` and :class:`Alternates`; None where it has a ``|``
        outside of brackets that alternate, for then web UIs take all of it as it stands."""
        found, place = [], 0
        while place < len(self._text):
            more, there = self._prompt(place)
            found += more
            if there < len(self._text):
                if self._text[there] == "|":
                    return None
                found.append(self._text[there])  # a bracket or colon that belongs to nothing
                there += 1
            place = there
        return found

    def _prompt(self, place: int) -> tuple[list, int]:
        """What can be read from ``place`` on, and where it ends."""
        if place in self._known:
            return self._known[place]
        start, found = place, []
        while place < len(self._text):
            plain = _PLAIN.match(self._text, place)
            if plain:
                found.append(plain.group())
                place = plain.end()
                continue
            inner = self._bracket(place) if self._text[place] in _CLOSING and self._depth < _DEEPEST else None
            if inner is None:
                if self._text[place] != "\\":
                    break
                found.append("\\")  # the very last letter
                place += 1
                continue
            found += inner[0]
            place = inner[1]
        self._known[start] = found, place
        return found, place

    def _bracket(self, place: int) -> tuple[list, int] | None:
        """A bracket that closes: what it says, and where it ends."""
        opening, self._depth = self._text[place], self._depth + 1
        try:
            first, there = self._prompt(place + 1)
            after = self._text[there:there + 1]
            if after == _CLOSING[opening]:
                return [opening, *first, after], there + 1
            if opening == "[":
                return self._alternates(first, there) if after == "|" else self._changes(first, there)
            if after == ":":
                second, end = self._prompt(there + 1)
                if self._text[end:end + 1] == ")":
                    return ["(", *first, ":", *second, ")"], end + 1
            return None
        finally:
            self._depth -= 1

    def _alternates(self, first: list, place: int) -> tuple[list, int] | None:
        options = [first]
        while self._text[place:place + 1] == "|":
            option, place = self._prompt(place + 1)
            options.append(option)
        return ([Alternates(options)], place + 1) if self._text[place:place + 1] == "]" else None

    def _changes(self, first: list, place: int) -> tuple[list, int] | None:
        if self._text[place:place + 1] != ":":
            return None
        if when := _NUMBER.match(self._text, place + 1):
            return [Changes([], first, when.group(1))], when.end()
        second, there = self._prompt(place + 1)
        if self._text[there:there + 1] == ":" and (when := _NUMBER.match(self._text, there + 1)):
            return [Changes(first, second, when.group(1))], when.end()
        return None
