"""Masks by a word: where in the picture a word of its prompt is, as the model itself sees it while it draws.

A place belongs to a word where its queries are drawn to the word's tokens more than to the start token, which is looked
at where nothing of the prompt is. That map is sharpened by self-attention, which knows what belongs together:
(Σ Aᵏ)·C for k ≤ 4 (DreamStory, He et al. 2024), and parted in two where that parts it best (Otsu 1979, as in
ConsiStory, Tewel et al. 2024). Then every place goes to the part that it looks at more. No weights but the model's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...model.layer import ModelCall, PromptInput, SiteInput
from ...model.rows import COND, Row
from ...model.sites import Lineage, Site
from ...words import ReferenceProblem
from .masks import Mask

START = 0  # the start token's position in a prompt
_MOST_TOKENS = 1024  # of a layer that is looked at: beyond, maps cost more than they tell
_POWERS = 4
_ROUNDS = 2  # of going to the part that is looked at more
_SECTIONS = ("input", "output")

Places = Sequence[Sequence[int]]  # of each word of a mask, the positions of its tokens in the prompt


@dataclass(frozen=True)
class Word:
    """Words of a prompt: ``text`` as people write them; ``places(row)`` where they are in the prompt that a row of the
    model call that begins is told, empty where they are not in it."""

    text: str
    places: Callable[[Row], Places]


def words_of(text: str) -> list[str]:
    """The words of a setting: ``pirate ship, parrot`` are three."""
    return [word for word in re.split(r"[\s,]+", text) if word]


class Watch:
    """Sees where words are in each picture of a batch, while a pass runs.

    A technique hands on its events: :meth:`begin_call`, :meth:`self_attention` and, of :attr:`sites`,
    :meth:`cross_attention`. What was seen in a call is there from the next one on, or after :meth:`end`.
    """

    def __init__(self, lineage: Lineage, word: Word) -> None:
        self.word = word
        # Of each block its last layer: they are much alike.
        blocks = {(site.section, site.block): site for site in sorted(lineage.sites) if site.section in _SECTIONS}
        self._levels = {site: lineage.sites[site].level for site in blocks.values()}
        self._level, self._grid = 0, (0, 0)
        self._rows: dict[int, list[tuple[int, Places]]] = {}  # by image: the rows told of the words in this call
        self._seen: dict[int, list[Tensor]] = {}  # by image, maps of this call
        self._looks: dict[int, list[Tensor]] = {}
        self._words: dict[int, tuple[Tensor, int]] = {}  # by image, a sum over calls and how many they are
        self._links: dict[int, tuple[Tensor, int]] = {}
        self._masks: dict[int, Mask] = {}
        self._asked = False  # in the call that runs, of any row

    @property
    def sites(self) -> frozenset[Site]:
        """Whose cross-attention it has to be told of."""
        return frozenset(self._levels)

    def begin_call(self, call: ModelCall) -> None:
        """Raises :class:`ReferenceProblem` where the layers of the last call did not say where the words are."""
        self.end()
        self._rows = {}
        if call.tiled or not call.host:
            return
        self._choose(call.size)
        for at, row in enumerate(call.rows):
            if row.branch == COND and (places := self.word.places(row)):
                self._rows.setdefault(row.image, []).append((at, places))
        self._asked = bool(self._rows)

    def replayed(self, size: tuple[int, int], row: Row) -> None:
        """A picture is shown to the model, in a call of one row that is told what ``row`` is."""
        self._choose(size)
        places = self.word.places(row)
        self._rows = {row.image: [(0, places)]} if places else {}
        self._asked = bool(self._rows)

    def self_attention(self, site: Site, layer: SiteInput) -> None:
        """How places belong together."""
        if self._rows and site in self._chosen:
            for image, rows in self._rows.items():
                for at, _ in rows:
                    found = layer.attention_map(at)
                    if len(found) == self._grid[0] * self._grid[1]:
                        self._looks.setdefault(image, []).append(found)

    def cross_attention(self, site: Site, layer: PromptInput) -> None:
        """How places are drawn to the words."""
        if self._rows and site in self._chosen:
            for image, rows in self._rows.items():
                for at, places in rows:
                    found = drawn_to(layer, at, places)
                    if len(found) == self._grid[0] * self._grid[1]:
                        self._seen.setdefault(image, []).append(found)

    def end(self) -> None:
        """The call is over. Raises as :meth:`begin_call`."""
        if self._asked and not (self._seen and self._looks):
            raise ReferenceProblem(f"Where {self.word.text!r} is in the picture cannot be told here: another extension "
                                   "replaces the layers that look at the prompt, or merges tokens; take the word out.")
        for image in self._seen.keys() & self._looks.keys():
            _add(self._words, image, torch.stack(self._seen[image]).mean(0))
            _add(self._links, image, torch.stack(self._looks[image]).mean(0))
            self._masks.pop(image, None)
        self._seen, self._looks, self._asked = {}, {}, False

    def mask(self, image: int) -> Mask | None:
        """Where the words are in a picture of the batch; None as long as nothing was seen."""
        if image not in self._words:
            return None
        if image not in self._masks:
            (words, _), (links, calls) = self._words[image], self._links[image]
            self._masks[image] = Mask(parted(words, links / calls).reshape(self._grid))
        return self._masks[image]

    @property
    def _chosen(self) -> list[Site]:
        return [site for site, level in self._levels.items() if level == self._level]

    def _choose(self, size: tuple[int, int]) -> None:
        """The layers of the finest grid that is not too large."""
        (rows, columns), level = size, 0
        levels = sorted(set(self._levels.values()))
        while level < levels[-1] and (rows * columns > _MOST_TOKENS or level not in levels):
            rows, columns, level = -(-rows // 2), -(-columns // 2), level + 1
        self._level, self._grid = level, (rows, columns)


def drawn_to(layer: PromptInput, row: int, places: Places) -> Tensor:
    """``[tokens]``: how much more a layer's queries are drawn to the words than to the start token.

    The logarithm of the ratio of both, mean over heads; of mean 0 and deviation 1, so that layers count alike. Of
    several words the one that draws most."""
    flat = [place for word in places for place in word]
    logits = layer.logits(row, [START, *flat])
    over = (logits[..., 1:] - logits[..., :1]).mean(0)
    words, at = [], 0
    for word in places:
        words.append(_standard(over[:, at:at + len(word)].mean(1)))
        at += len(word)
    return torch.stack(words).amax(0)


def sharpened(words: Tensor, links: Tensor) -> Tensor:
    """``(Σ linksᵏ)·words`` for k ≤ 4: words ``[tokens]``, links ``[tokens, tokens]`` with lines of sum 1."""
    found = step = words
    for _ in range(_POWERS):
        step = links @ step
        found = found + step
    return found


def parted(words: Tensor, links: Tensor) -> Tensor:
    """``[tokens]``, 1 where the words are and 0 elsewhere, of the map of the words ``[tokens]`` and of how places look
    at each other ``[tokens, tokens]``, with lines of sum 1."""
    found = sharpened(words, links)
    inside = (found > threshold(found)).float()
    for _ in range(_ROUNDS):
        if not 0 < float(inside.sum()) < len(inside):
            break
        found = ((links @ inside) / inside.sum()).log() - ((links @ (1 - inside)) / (1 - inside).sum()).log()
        inside = (found > threshold(found)).float()
    return inside if bool(inside.any()) else torch.ones_like(inside)


def threshold(values: Tensor) -> float:
    """Where a set of numbers falls apart best: with the largest variance between both parts (Otsu 1979)."""
    ordered = values.flatten().cpu().double().sort().values
    below = ordered.cumsum(0)[:-1]
    count = torch.arange(1, len(ordered), dtype=torch.float64)
    rest = len(ordered) - count
    between = count * rest * (below / count - (ordered.sum() - below) / rest) ** 2
    best = int(between.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2)


def _standard(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std().clamp(min=1e-6)


def _add(sums: dict[int, tuple[Tensor, int]], image: int, value: Tensor) -> None:
    before, calls = sums.get(image, (None, 0))
    sums[image] = (value if before is None or before.shape != value.shape else before + value), calls + 1
