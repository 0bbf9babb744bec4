"""Remember: the last pictures are kept as trajectories in memory, so that any picture just made can become a
reference."""

from __future__ import annotations

from ..references.plan import preset
from ..techniques.reference.recording import Recording
from ..techniques.technique import Technique
from ..words import RefDropError
from .options import REMEMBER, REMEMBER_COUNT, number, option
from .provenance import default_name, provenance
from .task import Job, Pass, Task

_MARK = "remembered"  # in a manifest: nobody asked to keep it, so it goes when newer ones come


class RememberTask(Task):
    """Remembers the pictures of one generation among the references in RAM."""

    def __init__(self, job: Job, count: int) -> None:
        super().__init__(job)
        self._count = count
        self._recordings: list[Recording] = []

    @classmethod
    def of(cls, job: Job) -> RememberTask | None:
        """For a generation, if the user wants its pictures remembered."""
        count = number(job.host, REMEMBER_COUNT) if option(job.host, REMEMBER) else 0
        return cls(job, count) if count > 0 else None

    def techniques(self, sampling: Pass) -> list[Technique]:
        if sampling.name != "base":
            return []
        p, images = self.job.p, self.job.p.batch_size
        self._recordings = [
            Recording(sampling.lineage, {**provenance(p, self.job.host, sampling.batch * images + image), _MARK: True},
                      preset("Tiny", sampling.lineage), image=image) for image in range(min(images, self._count))]
        for recording in self._recordings:
            recording.begin_pass("base", sampling.sigmas)
        return list(self._recordings)

    def end_batch(self, number: int, interrupted: bool) -> None:
        """The pictures are finished: keeps them, and forgets the oldest beyond the number asked for."""
        recordings, self._recordings = self._recordings, []
        if interrupted:
            return
        memory = self.job.shelf.memory
        for recording in recordings:
            made = recording.provenance
            try:
                name = default_name(made["prompt"], made["seed"])
                memory.save(recording.reference(name), name)
            except RefDropError:
                continue  # no room, or no call was seen: it is a convenience, and a picture is not to fail for it
        known = [name for name in memory.names() if memory.load(name).manifest.get(_MARK)]
        for name in known[:-self._count]:
            memory.delete(name)
