"""How strongly a reference guides: the RFG coefficient c as a function of progress, site and kind of row."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...model.rows import UNCOND, Kind
from ...model.sites import SECTIONS, Lineage, Site
from ...words import SettingsError
from .course import Course, Window
from .masks import Mask


@dataclass(frozen=True)
class Strength:
    """``c`` in [−1, 1] in the chosen ``sections`` and within ``window`` of the schedule, times the factor of its
    ``course``; 0 elsewhere. A plain number is its short form: :meth:`of`.

    ``mask`` says where in the new picture it acts (Eq. 6), ``looks_at`` which part of the reference may be looked at.
    With a ``weight`` there is no c: the layer attends over its own and the reference's keys together, those of the
    reference counting ``weight`` times ("reference-only"). ``fidelity`` from 0 to 1 takes so much of it from the
    unconditional branch, whose difference CFG multiplies ("style fidelity"). ``dropout`` is the share of the
    reference's tokens that a layer does without in a model call, others each time.
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

    @classmethod
    def of(cls, strength: Strength | float) -> Strength:
        return strength if isinstance(strength, Strength) else cls(float(strength))

    @property
    def acts(self) -> bool:
        """Whether it is anything but 0 anywhere: if not, nothing is computed and the picture is the plain one, bit for
        bit."""
        return (self.c if self.weight is None else self.weight) != 0 and bool(self.sections)

    def sites(self, lineage: Lineage) -> dict[Site, float]:
        """The sites of a model at which it may act, each with its factor. Raises :class:`SettingsError` where it acts
        nowhere in this model, or names a place that is not there."""
        factors = self.course.by_site(lineage)
        if not self.acts:
            return {}
        found = {site: factor for site, factor in factors.items() if factor and site.section in self.sections}
        if not found:
            raise SettingsError("The layers chosen leave none of this model's in which the reference could act; choose "
                                "others.")
        return found

    def over_progress(self, progress: float) -> float:
        """The factor at a progress through the pass, from 0 at its noisiest level to 1."""
        return self.window.factor(progress) * self.course.over_progress(progress)

    def at(self, progress: float, kind: Kind) -> float:
        """The coefficient of rows of a kind in a model call, where a site's own factor is 1."""
        whole = self.c if self.weight is None else 1.0
        freed = self.fidelity if kind.branch == UNCOND else 0.0
        return whole * (1 - freed) * self.over_progress(progress) * self.course.in_branch(kind)
