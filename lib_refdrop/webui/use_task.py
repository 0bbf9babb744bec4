"""Use: a generation that is guided by a reference."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from ..references.reference import Reference
from ..techniques.reference.guidance import Guidance
from ..techniques.reference.strength import Strength
from ..techniques.technique import Outcome, Technique
from ..words import RefDropError, ReferenceProblem
from .messages import tell
from .parameters import write
from .provenance import differences
from .replays import HostReplays
from .task import NO_PASS, Job, Pass, Task


class UseTask(Task):
    """The reference stays in use, in memory or open on the disk, from :meth:`open` to :meth:`close`."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._strength = Strength(job.settings.rfg, job.settings.sections)
        self._uses = ExitStack()
        self._reference: Reference  # once it is open
        self._passes, self._done = 0, Outcome()

    def open(self) -> None:
        """Finds the reference, so that a missing one is known before anything is computed."""
        settings, shelf = self.job.settings, self.job.shelf
        name = settings.reference or shelf.newest(settings.store)
        self._reference = self._uses.enter_context(shelf.store(settings.store).using(name))

    def check(self) -> None:
        _, lineage, _ = self.job.model()
        for name in ("base", "hires") if self.job.has_hires else ("base",):
            Guidance([(self._reference, self._strength)], lineage, name)

    def begin_batch(self, number: int) -> None:
        self._passes, self._done = 0, Outcome()

    def techniques(self, sampling: Pass) -> list[Technique]:
        if not self.job.covers(sampling.name):
            return []
        self._passes += 1
        replays = HostReplays(self.job.p, self.job.host, self.job.shelf.replays, sampling.element_size)
        return [Guidance([(self._reference, self._strength)], sampling.lineage, sampling.name, replays)]

    def passed(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._done.add(outcome)

    def end_batch(self, number: int, interrupted: bool) -> None:
        p, shelf, done = self.job.p, self.job.shelf, self._done
        if self._reference.changed():
            raise ReferenceProblem(f"Reference {self._reference.name!r} was changed by another program while it was in "
                                   "use, so this picture is guided by parts of both; draw it again.")
        if not self._passes:
            tell(p, NO_PASS + ", so nothing was guided.", shelf)
        elif not self._strength.acts:
            tell(p, "The coefficient is 0, so nothing was guided.", shelf)
        elif done.acted:
            for sentence in differences(self._reference.manifest, p, self.job.host):
                done.note(sentence)
            write(p, self.job.settings.infotext(self._reference.name), done.notes)
            said = f"Guided by {self._reference.name!r} at {self._strength.c:g}, {_how_much(done)}."
            tell(p, " ".join([said, *done.notes]), shelf)
        elif not interrupted:
            raise RefDropError(" ".join(done.notes)
                               or "The model's self-attention never ran, so nothing was guided; another "
                               "extension may replace the model or its attention.")

    def close(self) -> None:
        self._uses.close()


def _how_much(done: Outcome) -> str:
    """ "throughout" only of all rows of all calls."""
    if done.acted_on_all == done.calls:
        return "throughout"
    part = f"in {done.acted} of {done.calls} model calls"
    return part if done.acted_on_all == done.acted else f"{part}, in {done.acted_on_all} of them on every row"
