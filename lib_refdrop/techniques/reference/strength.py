"""How strongly a reference guides: the RFG coefficient c as a function of noise level, site and kind of row."""

from __future__ import annotations

from dataclasses import dataclass

from ...model.rows import Kind
from ...model.sites import SECTIONS, Lineage, Site


@dataclass(frozen=True)
class Strength:
    """``c`` in [−1, 1] in the chosen ``sections``, 0 elsewhere. A plain number is its short form: :meth:`of`."""

    c: float
    sections: tuple[str, ...] = SECTIONS

    @classmethod
    def of(cls, strength: Strength | float) -> Strength:
        return strength if isinstance(strength, Strength) else cls(float(strength))

    @property
    def acts(self) -> bool:
        """Whether it is anything but 0 anywhere: if not, nothing is computed and the picture is the plain one, bit for
        bit."""
        return self.c != 0 and bool(self.sections)

    def sites(self, lineage: Lineage) -> set[Site]:
        """The sites of a model at which it may act."""
        return set(lineage.chosen(self.sections)) if self.acts else set()

    def at(self, sigma: float, site: Site, kind: Kind) -> float:
        """The coefficient of rows of a kind in one layer of one model call."""
        return self.c if site.section in self.sections else 0.0
