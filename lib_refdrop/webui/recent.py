"""The last pictures, remembered as trajectories in memory, so that any picture just made can become a reference."""

from __future__ import annotations

from typing import Any

from ..words import RefDropError
from ..references.plan import preset
from ..techniques.reference.recording import Recording
from ..model.sites import Lineage
from .options import REMEMBER, REMEMBER_COUNT, number, option
from .provenance import default_name, provenance
from .shelf import Shelf

_MARK = "remembered"  # in a manifest: nobody asked to keep it, so it goes when newer ones come


class Recent:
    """Remembers the pictures of one generation among the references in RAM."""

    def __init__(self, p: Any, shelf: Shelf, count: int) -> None:
        self._p, self._shelf, self._count = p, shelf, count
        self._recordings: list[Recording] = []

    @classmethod
    def of(cls, p: Any, shelf: Shelf) -> Recent | None:
        """For a generation, if the user wants its pictures remembered."""
        count = number(REMEMBER_COUNT) if option(REMEMBER) else 0
        return cls(p, shelf, count) if count > 0 else None

    def recordings(self, lineage: Lineage, batch: int) -> list[Recording]:
        """One for each picture of the batch that begins."""
        images = self._p.batch_size
        self._recordings = [
            Recording(lineage, {**provenance(self._p, batch * images + image), _MARK: True}, preset("Tiny", lineage),
                      image=image) for image in range(min(images, self._count))]
        for recording in self._recordings:
            recording.begin_pass("base")
        return self._recordings

    def keep(self) -> None:
        """The pictures are finished: keeps them, and forgets the oldest beyond the number asked for."""
        memory = self._shelf.memory
        for recording in self._recordings:
            made = recording.provenance
            try:
                name = default_name(made["prompt"], made["seed"])
                memory.save(recording.reference(name), name)
            except RefDropError:
                continue  # no room, or no call was seen: it is a convenience, and a picture is not to fail for it
        self._recordings = []
        known = [name for name in memory.names() if memory.load(name).manifest.get(_MARK)]
        for name in known[:-self._count]:
            memory.delete(name)
