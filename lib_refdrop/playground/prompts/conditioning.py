"""What the model is told at each step of a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..sampling.model import Conditioning
from . import grammar
from .encoder import TextEncoder


@dataclass(frozen=True)
class PromptSchedule:
    """Conditionings in order, each with the last step that it holds for; ``said`` is what the prompt says there."""

    entries: Sequence[tuple[int, Conditioning]]
    said: Sequence[tuple[int, str]] = ()

    def at(self, step: int) -> Conditioning:
        """For the model call number ``step``, counted from 0: web UIs compare that with steps counted from 1, so the
        first conditioning serves one call more than its number."""
        return next((found for last, found in self.entries if step <= last), self.entries[-1][1])


@dataclass(frozen=True)
class PromptPart:
    """One part of an AND prompt."""

    schedule: PromptSchedule
    weight: float


class Prompts:
    """Encodes prompts for one pass; the same text is encoded once."""

    def __init__(self, encoder: TextEncoder, steps: int, first_steps: int | None = None) -> None:
        """``steps`` and, in a second pass, ``first_steps`` are those that prompts are scheduled over."""
        self._encoder, self._steps, self._first_steps = encoder, steps, first_steps
        self._known: dict[tuple[str, bool], PromptSchedule] = {}

    def wanted(self, prompt: str) -> list[PromptPart]:
        return [PromptPart(self._schedule(text, False), weight) for text, weight in grammar.parts(prompt)]

    def unwanted(self, prompt: str) -> PromptSchedule:
        """A negative prompt has no parts: AND is a word there."""
        return self._schedule(prompt, True)

    def _schedule(self, text: str, negative: bool) -> PromptSchedule:
        if (text, negative) not in self._known:
            found = grammar.versions(text, self._steps, self._first_steps)
            texts = list(dict.fromkeys(words for _, words in found))
            encoded = dict(zip(texts, self._encoder.encode(texts, negative)))
            self._known[text, negative] = PromptSchedule([(last, encoded[words]) for last, words in found], found)
        return self._known[text, negative]
