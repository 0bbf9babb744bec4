"""Save: the first picture of a generation becomes a reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ..guides import Guide
from ..hosts import Adapter
from ..references.inversion import INVERSION
from ..references.picture import digest, opened, pixels
from ..techniques.reference.inverting import RECORDINGS, InvertedRecording, picture_record
from ..techniques.reference.masks import Mask
from ..techniques.reference.recording import Recording
from ..techniques.technique import Outcome, Technique
from ..words import Interrupted, SettingsError, said
from .kept_masks import kept, with_masks
from .messages import interrupted, logger, tell
from .parameters import write
from .plans import Forecast, picture_size, plan_for
from .prompt_words import check_words, word_in
from .provenance import default_name, provenance
from .shelf import Last
from .steps import hires_size, keeps_to_schedule
from .task import NO_PASS, Job, Pass, Task, known_levels, sampler_of


class SaveTask(Task):
    """Writes into the store as the run goes; what is not finished leaves nothing behind. Of a picture that is given it
    saves that, with the generation's prompt for its caption."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._recording: Recording | None = None
        self._notes = Outcome()
        self._picture: Image.Image | None = None
        self._mask: Mask | None = None
        self._latent = torch.empty(0)  # the picture's, for the pass that runs

    def open(self) -> None:
        """Looks at the picture, so that a bad one is known before anything is computed."""
        if self.job.settings.picture:
            self._picture = opened(self.job.settings.picture)
        settings = self.job.settings = with_masks(self.job.shelf, self.job.settings)
        if settings.reference_mask != "":
            self._mask = Mask.given(settings.reference_mask, "The reference's mask")
        if settings.mask != "":
            self._notes.note("The mask says where references act in a new picture, so it had no part in this Save; "
                             "what is kept of a picture is chosen by the mask of the reference.")

    def check(self) -> None:
        check_words(self.job.settings.reference_mask_word, self.job.p)
        if self._picture and self.job.settings.picture_by == INVERSION:
            for name in ("base", "hires") if self.job.has_hires else ("base",):
                if not keeps_to_schedule(sampler := sampler_of(self.job.p, name)):
                    raise SettingsError(f"To invert a picture the noise levels have to be known in advance, and those "
                                        f"of {sampler} are not; choose another sampler, or Noising.")
        adapter, _, _ = self.job.model()
        found = self._plan(adapter)
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
            name = settings.reference or default_name(made["prompt"] or ("picture" if self._picture else ""),
                                                      made["seed"])
            found = self._plan(sampling.adapter)
            writer = self.job.shelf.store(settings.store).writer(name, settings.replace, found.expected, found.limit)
            part = self._mask.part if self._mask else None
            if self._picture:
                made["picture"] = picture_record(self._picture, settings.picture_by, settings.picture_seed)
                self._recording = RECORDINGS[settings.picture_by](sampling.lineage, made, found.plan, writer, 0,
                                                                  lambda size: self._latent, settings.picture_seed,
                                                                  part=part)
                if isinstance(self._recording, InvertedRecording):
                    self._recording.progress = self._inverts  # type: ignore[method-assign]
            else:
                self._recording = Recording(sampling.lineage, made, found.plan, writer, part=part)
        if self._picture:  # now: while the model is called there may be no room for the VAE
            self._latent = self._encoded(self._picture, sampling)
        word = word_in(settings.reference_mask_word, lambda: self.job.host.prompts(p))
        self._recording.begin_pass(sampling.name, known_levels(p, sampling), word)
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
        picture = digest(self._picture) if self._picture else ""
        told = {"picture": picture, **({"reference_mask": self._number()} if self._mask else {})}
        write(p, self.job.settings.infotext(saved.name, told), self._notes.notes, only_first=True)
        part = [f"Its mask keeps {recording.share:.0%} of the picture."] if self._mask else []
        tell(p, " ".join([shelf.describe(saved, bool(picture)), *part, recording.plan.explanation,
                          *self._notes.notes]), shelf)

    def close(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.abort()

    def _number(self) -> str:
        """That of the mask, which is kept for who saves with these parameters again."""
        numbered, problems = kept(self.job.shelf, [Guide(reference_mask=self.job.settings.reference_mask)])
        for problem in problems:
            self._notes.note(problem)
        return numbered[0].reference_mask

    def _plan(self, adapter: Adapter) -> Forecast:
        return plan_for(self.job.p, self.job.settings, adapter, self.job.host.opts,
                        self._picture.size if self._picture else None, self._mask)

    def _inverts(self, done: int, total: int) -> None:
        """Shows how far an inversion is. Raises :class:`Interrupted` when the user does."""
        state = self.job.host.state
        stopped = interrupted(self.job.host)
        state.textinfo = f"Inversion {done} of {total}" if done < total and not stopped else None
        if stopped:
            raise Interrupted("The generation was interrupted, so no reference was saved.")

    def _encoded(self, picture: Image.Image, sampling: Pass) -> Tensor:
        """The picture's latent at the size that suits this pass."""
        p = self.job.p
        height, width = hires_size(p) if sampling.name == "hires" else (p.height, p.width)
        return self.job.host.encode(p, pixels(picture, picture_size(picture.size, (width, height), sampling.lineage)))
