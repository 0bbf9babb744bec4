"""How strongly a reference guides: the RFG coefficient c as a function of progress, site and kind of row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from ...model.rows import UNCOND, Kind
from ...model.sites import SECTIONS, Block, Lineage, Site
from ...words import SettingsError
from .course import Course, Window
from .masks import Mask
from .word_masks import Word

Place = TypeVar("Place", Site, Block)


@dataclass(frozen=True)
class Strength:
    """``c`` in [−1, 1] in the chosen ``sections`` and within ``window`` of the schedule, times the factor of its
    ``course``; 0 elsewhere. A plain number is its short form: :meth:`of`.

    ``mask`` says where in the new picture it acts (Eq. 6), ``word`` that it acts where some words of the prompt are
    drawn, ``looks_at`` which part of the reference may be looked at; with ``marked_only`` not more than what it was
    saved with a word for, if it was.

    With a ``weight`` there is no c: the layer attends over its own and the reference's keys together, those of the
    reference counting ``weight`` times ("reference-only"). ``fidelity`` from 0 to 1 takes so much of it from the
    unconditional branch, whose difference CFG multiplies ("style fidelity"). ``dropout`` is the share of the
    reference's tokens that a layer does without in a model call, others each time.

    Beside attention, or without it at c = 0, ``adain`` from 0 to 1 is how far the mean and spread of block outputs are
    brought to the reference's, in the same sections, part of the schedule and branches; ``adain_attention`` how far
    those of queries and keys are before they look at the reference (:mod:`~.adain`).
    """

    c: float
    sections: tuple[str, ...] = SECTIONS
    course: Course = field(default_factory=Course)
    window: Window = Window()
    mask: Mask | None = None
    looks_at: Mask | None = None
    weight: float | None = None
    fidelity: float = 0.0
    dropout: float = 0.0
    adain: float = 0.0
    adain_attention: float = 0.0
    word: Word | None = None
    marked_only: bool = True

    @classmethod
    def of(cls, strength: Strength | float) -> Strength:
        return strength if isinstance(strength, Strength) else cls(float(strength))

    @property
    def acts(self) -> bool:
        """Whether it is anything but 0 anywhere: if not, nothing is computed and the picture is the plain one, bit for
        bit."""
        return (self.attends or self.adain != 0) and bool(self.sections)

    @property
    def attends(self) -> bool:
        """Whether attention looks at the reference anywhere."""
        return (self.c if self.weight is None else self.weight) != 0 and bool(self.sections)

    def sites(self, lineage: Lineage) -> dict[Site, float]:
        """The sites of a model at which it may act, each with its factor. Raises :class:`SettingsError` where it acts
        nowhere in this model, or names a place that is not there."""
        factors = self.course.by_site(lineage)
        if not self.attends:
            return {}
        return _some({site: factor for site, factor in factors.items() if factor and site.section in self.sections})

    def blocks(self, lineage: Lineage) -> dict[Block, float]:
        """The blocks of whose outputs the statistics are changed, as :meth:`sites`."""
        if not self.adain:
            return {}
        factors = self.course.by_block(lineage)
        return _some({block: factor for block, factor in factors.items() if factor and block.section in self.sections})

    def over_progress(self, progress: float) -> float:
        """The factor at a progress through the pass, from 0 at its noisiest level to 1."""
        return self.window.factor(progress) * self.course.over_progress(progress)

    def at(self, progress: float, kind: Kind) -> float:
        """The coefficient of rows of a kind in a model call, where a site's own factor is 1."""
        return (self.c if self.weight is None else 1.0) * self._share(progress, kind)

    def adain_at(self, progress: float, kind: Kind) -> float:
        """The same of ``adain``."""
        return self.adain * self._share(progress, kind)

    def _share(self, progress: float, kind: Kind) -> float:
        freed = self.fidelity if kind.branch == UNCOND else 0.0
        return (1 - freed) * self.over_progress(progress) * self.course.in_branch(kind)


def _some(found: dict[Place, float]) -> dict[Place, float]:
    if not found:
        raise SettingsError("The layers chosen leave none of this model's in which the reference could act; choose "
                            "others.")
    return found
