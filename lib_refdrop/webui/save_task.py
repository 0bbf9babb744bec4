"""Save: the first picture of a generation becomes a reference."""

from __future__ import annotations

from collections.abc import Sequence

from ..techniques.reference.recording import Recording
from ..techniques.technique import Outcome, Technique
from ..words import said
from .messages import logger, tell
from .parameters import write
from .plans import plan_for
from .provenance import default_name, provenance
from .shelf import Last
from .steps import keeps_to_schedule
from .task import NO_PASS, Job, Pass, Task


class SaveTask(Task):
    """Writes into the store as the run goes; what is not finished leaves nothing behind."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._recording: Recording | None = None
        self._notes = Outcome()

    def check(self) -> None:
        adapter, _, _ = self.job.model()
        found = plan_for(self.job.p, self.job.settings, adapter, self.job.host.opts)
        # short: the host writes percent and time behind it
        self.job.host.state.textinfo = f"Saving {said(found.bytes)}"
        logger.info("RefDrop saves %s. %s", found, found.plan.explanation)

    def techniques(self, sampling: Pass) -> list[Technique]:
        if sampling.batch > 0 or not self.job.covers(sampling.name):
            return []
        p, settings = self.job.p, self.job.settings
        if self._recording is None or sampling.name == "base":
            self.close()
            made = provenance(p, self.job.host)
            name = settings.reference or default_name(made["prompt"], made["seed"])
            found = plan_for(p, settings, sampling.adapter, self.job.host.opts)
            writer = self.job.shelf.store(settings.store).writer(name, settings.replace, found.expected, found.limit)
            self._recording = Recording(sampling.lineage, made, found.plan, writer)
        sampler = getattr(p, "hr_sampler_name", None) if sampling.name == "hires" else None
        known = keeps_to_schedule(str(sampler or p.sampler_name))
        self._recording.begin_pass(sampling.name, sampling.sigmas if known else None)
        return [self._recording]

    def passed(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._notes.add(outcome)

    def end_batch(self, number: int, interrupted: bool) -> None:
        if number > 0:
            write(self.job.p, {}, [])  # the first picture's parameters say nothing about the others
            return
        p, shelf = self.job.p, self.job.shelf
        if interrupted:
            self.close()
            tell(p, "The generation was interrupted, so no reference was saved.", shelf)
            return
        recording, self._recording = self._recording, None
        if recording is None:
            tell(p, NO_PASS + ", so no reference was saved.", shelf)
            return
        try:
            saved = recording.commit()
        finally:
            recording.abort()
        if few := recording.plan.note(int(p.steps)):
            self._notes.note(few)
        shelf.saved = Last(self.job.settings.store, self.job.settings.reference, saved.name)
        write(p, self.job.settings.infotext(saved.name), self._notes.notes, only_first=True)
        tell(p, " ".join([shelf.describe(saved), recording.plan.explanation, *self._notes.notes]), shelf)

    def close(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.abort()
