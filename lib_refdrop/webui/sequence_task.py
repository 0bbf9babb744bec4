"""Sequence: of the pictures of a generation, or of several, each is guided by the first, the one before, or both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from ..guides import Guide, read, written
from ..references.reference import Reference
from ..techniques.reference.recording import Recording
from ..techniques.reference.strength import Strength
from ..techniques.technique import Outcome, Technique
from ..words import said
from .messages import tell
from .parameters import write
from .plans import plan_for
from .prompt_words import word_in
from .provenance import provenance
from .sequence import Pictures, by_which
from .steps import is_from_picture
from .task import Job, Pass, Task, known_levels
from .use_task import UseTask

_ALONE = ("A sequence is of several pictures, so this one stands alone; choose a batch count of 2 or more, img2img's "
          "Batch, or a name for the sequence, to go on with.")


class SequenceTask(UseTask):
    """Records each batch's first picture while it is drawn, and guides the next batch by it, in place of the reference
    of the scalar settings, which guides the first picture. Further references guide throughout."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._pictures = Pictures(job.shelf, job.settings.sequence_name)
        self._now = ExitStack()  # what of the sequence is in use in this batch
        self._named: list[tuple[Guide, tuple[Reference, Strength]]] = []
        self._recording: Recording | None = None
        self._kept_as: str | None = None
        self._goes_on = False
        self._note = ""  # what this batch's place in the sequence is

    def go_on_from(self, before: Task | None) -> None:
        if isinstance(before, SequenceTask) and before._pictures.name == self._pictures.name:
            self._pictures, before._pictures = before._pictures, self._pictures

    def open(self) -> None:
        super().open()
        self._named = list(zip(self._guides, self._references))
        p, count = self.job.p, getattr(self.job.host.state, "job_count", -1)
        # Who runs one processing object again and again says beforehand how many pictures there will be.
        self._goes_on = bool(self._pictures.name or self._pictures.count) or (
            is_from_picture(p) and count > getattr(p, "n_iter", 1))

    def check(self) -> None:
        super().check()
        adapter, lineage, _ = self.job.model()
        self.job.settings.main_guide.strength(self.job.settings.sections).sites(lineage)
        found = plan_for(self.job.p, self.job.settings, adapter, self.job.host.opts)
        self.job.host.state.textinfo = f"Keeps {said(found.bytes)}"

    def begin_batch(self, number: int) -> None:
        super().begin_batch(number)
        self._let_go()
        settings = self.job.settings
        main, found = settings.main_guide, []
        for which, share in self._pictures.guiding(settings.sequence):
            reference = self._now.enter_context(self._pictures.using(which))
            guide = replace(main, name=f"{which} picture (seed {reference.manifest.get('seed', '?')})",
                            rfg=main.rfg * share, weight=main.weight * share, adain=main.adain * share)
            found.append((guide, (reference, guide.strength(settings.sections))))
        named = self._named[1:] if found and settings.reference else self._named
        self._guides = [guide for guide, _ in [*found, *named]]
        self._references = [reference for _, reference in [*found, *named]]
        self._kept_as = self._pictures.next(settings.sequence) if self._needed_later(number) else None
        self._note = self._place(number, main, [guide for guide, _ in found])

    def techniques(self, sampling: Pass) -> list[Technique]:
        if not self.job.covers(sampling.name):
            return []
        found: list[Technique] = []
        if self._references:
            found += super().techniques(sampling)
        else:
            self._passes += 1
        return [*found, *self._recorded(sampling)]

    def passed(self, outcomes: Sequence[Outcome]) -> None:
        """Guidance comes first; of the recording only what it has to say."""
        super().passed(outcomes[:1] if self._references else [])
        for outcome in outcomes:
            for sentence in outcome.notes:
                self._done.note(sentence)

    def end_batch(self, number: int, interrupted: bool) -> None:
        p, guided = self.job.p, any(strength.acts for _, strength in self._references)
        if self._note and self._passes:
            self._done.note(self._note)
        if guided or not self._passes or not self.job.settings.main_guide.strength().acts:
            super().end_batch(number, interrupted)
        else:
            texts = self._parameters()
            for strength in ("RefDrop RFG", "RefDrop weight"):  # of pictures that nothing guided
                texts.pop(strength, None)
            write(p, texts, self._done.notes)
            tell(p, " ".join(self._done.notes), self.job.shelf)
        self._let_go()
        self._keep(interrupted)

    def close(self) -> None:
        super().close()
        self._let_go()
        self._drop()
        self._pictures.close()

    def _parameters(self) -> dict[str, Any]:
        """Those that the same sequence begins with again."""
        settings = self.job.settings
        name = next((guide.name for guide, _ in self._named), "") if settings.reference else ""
        main, *others = self._numbered([settings.main_guide, *read(settings.references, settings.main_guide)])
        return replace(settings, mask=main.mask, reference_mask=main.reference_mask,
                       references=written(others, main)).infotext(name)

    def _needed_later(self, number: int) -> bool:
        acts = self.job.settings.main_guide.strength(self.job.settings.sections).acts
        return acts and (self._goes_on or number + 1 < int(getattr(self.job.p, "n_iter", 1)))

    def _recorded(self, sampling: Pass) -> list[Recording]:
        """What records the batch's first picture, where a later one goes by it."""
        if self._kept_as is None:
            return []
        p, job = self.job.p, self.job
        if self._recording is None or sampling.name == "base":
            self._drop()
            found = plan_for(p, job.settings, sampling.adapter, job.host.opts)
            made = provenance(p, job.host, sampling.batch * p.batch_size)
            self._recording = Recording(sampling.lineage, made, found.plan,
                                        self._pictures.writer(self._kept_as, found.expected, found.limit))
        word = word_in(job.settings.reference_mask_word, lambda: job.host.prompts(p))
        self._recording.begin_pass(sampling.name, known_levels(p, sampling), word)
        return [self._recording]

    def _keep(self, interrupted: bool) -> None:
        """The batch is drawn: its first picture is what the next one goes by. One that was cut short is not."""
        if interrupted or not self._passes:
            self._drop()
            return
        self._pictures.count += 1
        recording, self._recording = self._recording, None
        if recording is not None and self._kept_as is not None:
            try:
                self._pictures.keep(self._kept_as, recording)
            finally:
                recording.abort()

    def _drop(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.abort()

    def _let_go(self) -> None:
        self._now.close()

    def _place(self, number: int, main: Guide, guides: list[Guide]) -> str:
        """What its parameters say of a picture's place, and that they alone do not make it again."""
        which = f"sequence {self._pictures.name!r}" if self._pictures.name else "a sequence"
        if guides:
            by = " and ".join(f"the {guide.name} {guide.how}" for guide in guides)
            place = f"Picture {self._pictures.count + 1} of {which}" if self._pictures.count else f"Of {which}"
            return f"{place}: guided by {by}; only the whole sequence draws it again."
        if not self._goes_on and number + 1 >= int(getattr(self.job.p, "n_iter", 1)):
            return _ALONE if not number else ""
        begins = "" if self._references else ", drawn plain"
        by = by_which(self.job.settings.sequence)
        return f"The first picture of {which}{begins}; later ones are guided by {by}, {main.how}."
