"""A technique: one way of taking part in a generation. It answers some of the events of a pass and knows no host."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor

from ..model.layer import ModelCall, PromptInput, SiteInput
from ..model.sites import Block, Site


@dataclass
class Outcome:
    """What a technique did in a pass: of so many model calls, in how many it acted at all, and in how many on every row
    that reached one of its sites; and sentences for the user."""

    calls: int = 0
    acted: int = 0
    acted_on_all: int = 0
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Said once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def add(self, other: Outcome) -> None:
        """Another pass of the same generation."""
        self.calls += other.calls
        self.acted += other.acted
        self.acted_on_all += other.acted_on_all
        for sentence in other.notes:
            self.note(sentence)


class Technique:
    """Answers nothing; one that takes part overrides the events it is there for.

    Every event may raise :class:`~lib_refdrop.words.RefDropError`: the technique then takes no further part in the pass
    and the user is told. ``cross_sites`` are the sites whose cross-attention it asks to be told of; it is asked for
    them once, before the pass.
    """

    cross_sites: Collection[Site] = ()

    @property
    def hears_blocks(self) -> bool:
        """Whether :meth:`block` is to be called: otherwise nothing is put on the model's blocks."""
        return False

    def call(self, call: ModelCall) -> None:
        """The model is about to be called."""

    def attention(self, site: Site, own: Tensor, layer: SiteInput) -> Tensor:
        """A self-attention layer has computed ``own`` ``[B, tokens, C]``: what it goes on with, ``own`` itself where
        nothing is to be done."""
        return own

    def block(self, block: Block, output: Tensor) -> Tensor:
        """A block with self-attention in it has computed ``output`` ``[B, C, H, W]``: what the model goes on with,
        ``output`` itself where nothing is to be done."""
        return output

    def cross_attention(self, site: Site, layer: PromptInput) -> None:
        """The layer that looks at the prompt, behind the self-attention of one of :attr:`cross_sites`, is running."""

    def finish(self) -> Outcome:
        """The pass is over: what was done."""
        return Outcome()
