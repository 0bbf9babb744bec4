"""Where a reference acts: self-attention layers, and the lineage of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

SECTIONS = ("input", "middle", "output")


class Site(NamedTuple):
    """One self-attention layer, named alike in every host: ``("output", 4, 1)`` is the second transformer block of
    ``output_blocks.4`` in the original layout. The middle block has number 0."""

    section: str
    block: int
    index: int  # type: ignore[assignment]  # tuple's method of that name is of no use here

    def __str__(self) -> str:
        return f"{self.section}.{self.block}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """The inverse of ``str``. Raises ValueError for anything else, other spellings of a number included."""
        section, block, index = text.split(".")
        found = cls(section, int(block), int(index))
        if section not in SECTIONS or str(found) != text:
            raise ValueError(f"no site is called {text!r}")
        return found


class Block(NamedTuple):
    """The output of a block that has self-attention in it, ``[B, C, H, W]``, behind an up-sampling at its end:
    ``("output", 4)`` is that of ``output_blocks.4`` in the original layout."""

    section: str
    block: int

    def __str__(self) -> str:
        return f"{self.section}.{self.block}"

    @classmethod
    def parse(cls, text: str) -> Block:
        """The inverse of ``str``. Raises ValueError for anything else."""
        section, block = text.split(".")
        found = cls(section, int(block))
        if section not in SECTIONS or str(found) != text:
            raise ValueError(f"no block is called {text!r}")
        return found


class SiteShape(NamedTuple):
    heads: int
    width: int  # heads × head size: the last dimension of K and V
    level: int = 0  # how often the picture was halved on the way there


@dataclass(frozen=True)
class Lineage:
    """What decides whether features fit a model: its sites with their heads and widths, and how it counts noise.

    ``flow`` models (rectified flow) count sigma from 0 to 1; their features are found at other levels.
    """

    sites: Mapping[Site, SiteShape]
    flow: bool = False

    @property
    def blocks(self) -> dict[Block, int]:
        """The blocks that have sites, and how wide they are."""
        found: dict[Block, int] = {}
        for site, shape in sorted(self.sites.items()):
            block = Block(site.section, site.block)
            found[block] = max(shape.width, found.get(block, 0))
        return found

    @property
    def signature(self) -> str:
        """16 hexadecimal digits; equal exactly when sites, heads, widths and the way of counting noise are."""
        text = ";".join(f"{site}:{shape.heads}x{shape.width}" for site, shape in sorted(self.sites.items()))
        text += ";flow" if self.flow else ""
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def family(self) -> str:
        """The name people know: SD1.5, SD2, SDXL, or what tells it from others where it is none of them."""
        widths = sorted({shape.width for shape in self.sites.values()})
        flow = ", rectified flow" if self.flow else ""
        if len(self.sites) == 70 and widths == [640, 1280]:
            return "SDXL" + flow
        if len(self.sites) == 16 and widths == [320, 640, 1280]:
            return ("SD1.5" if {shape.heads for shape in self.sites.values()} == {8} else "SD2") + flow
        heads = sorted({shape.heads for shape in self.sites.values()})
        return (f"a model with {len(self.sites)} self-attention layers ({', '.join(map(str, heads))} heads, "
                f"{', '.join(map(str, widths))} wide{flow})")

    def chosen(self, sections: tuple[str, ...]) -> list[Site]:
        """The sites in the given sections, in a fixed order."""
        return sorted(site for site in self.sites if site.section in sections)
