"""Use: a generation that is guided by references."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from ..guides import COEFFICIENT, Guide, warning
from ..references.reference import Reference
from ..techniques.reference.guidance import Guidance
from ..techniques.reference.strength import Strength
from ..techniques.technique import Outcome, Technique
from ..words import RefDropError, ReferenceProblem
from .kept_masks import kept, with_masks
from .messages import tell
from .parameters import write
from .prompt_words import check_words, word_in
from .provenance import differences
from .replays import HostReplays
from .task import NO_PASS, Job, Pass, Task

_NEVER_CALLED = "The sampler never called the model, so nothing was guided; draw with more steps, or another sampler."
_NEVER_RAN = ("The model's self-attention never ran, so nothing was guided; another extension may replace the model or "
              "its attention.")


class UseTask(Task):
    """References stay in use, in memory or open on the disk, from :meth:`open` to :meth:`close`."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._guides: list[Guide] = []  # by the names of what is open
        self._uses = ExitStack()
        self._references: list[tuple[Reference, Strength]] = []
        self._passes, self._done = 0, Outcome()

    def open(self) -> None:
        """Finds the references, so that a missing one is known before anything is computed."""
        shelf = self.job.shelf
        settings = self.job.settings = with_masks(shelf, self.job.settings)
        for guide in settings.guided_by():
            guide = with_masks(shelf, guide)
            name = guide.name or shelf.newest(guide.store)
            reference = self._uses.enter_context(shelf.store(guide.store).using(name))
            self._guides.append(replace(guide, name=reference.name))
            self._references.append((reference, guide.strength(settings.sections)))

    def check(self) -> None:
        for guide in self._guides:
            check_words(guide.mask_word, self.job.p)
        _, lineage, _ = self.job.model()
        for name in ("base", "hires") if self.job.has_hires else ("base",):
            Guidance(self._references, lineage, name)

    def begin_batch(self, number: int) -> None:
        self._passes, self._done = 0, Outcome()

    def techniques(self, sampling: Pass) -> list[Technique]:
        if not self.job.covers(sampling.name):
            return []
        self._passes += 1
        replays = HostReplays(self.job.p, self.job.host, self.job.shelf.replays, sampling.element_size)
        seeds = [int(seed) for seed in getattr(self.job.p, "seeds", None) or ()]
        return [Guidance(self._with_words(), sampling.lineage, sampling.name, replays, sampling.sigmas, seeds)]

    def _with_words(self) -> list[tuple[Reference, Strength]]:
        """The references as they act in the pass that begins. Raises :class:`SettingsError` for a word that is not in
        its prompts."""
        texts = {guide.mask_word for guide, (_, strength) in zip(self._guides, self._references) if strength.acts}
        words = {text: word_in(text, lambda: self.job.host.prompts(self.job.p)) for text in texts}
        return [(reference, replace(strength, word=words.get(guide.mask_word)))
                for guide, (reference, strength) in zip(self._guides, self._references)]

    def passed(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._done.add(outcome)

    def end_batch(self, number: int, interrupted: bool) -> None:
        p, shelf, done = self.job.p, self.job.shelf, self._done
        for reference, _ in self._references:
            if reference.changed():
                raise ReferenceProblem(f"Reference {reference.name!r} was changed by another program while it was in "
                                       "use, so this picture is guided by parts of both; draw it again.")
        if not self._passes:
            tell(p, NO_PASS + ", so nothing was guided.", shelf)
        elif not any(strength.acts for _, strength in self._references):
            tell(p, "The strength is 0, so nothing was guided.", shelf)
        elif done.acted:
            for reference, strength in self._references:
                for sentence in differences(reference.manifest, p, self.job.host) if strength.acts else []:
                    done.note(sentence)
            if much := warning(self._guides):
                done.note(much)
            texts = self._parameters()
            write(p, texts, done.notes)
            said = f"Guided by {listed(self._guides)}, {_how_much(done)}."
            tell(p, " ".join([said, *done.notes]), shelf)
        elif not interrupted:
            raise RefDropError(" ".join(done.notes) or (_NEVER_RAN if done.calls else _NEVER_CALLED))

    def _parameters(self) -> dict[str, Any]:
        """What the parameters of guided pictures say."""
        return self.job.settings.of_guides(self._numbered(self._guides)).infotext(self._guides[0].name)

    def _numbered(self, guides: Sequence[Guide]) -> list[Guide]:
        """Guides with the numbers of their masks, which are kept for who pastes them; a note of those that are not."""
        numbered, problems = kept(self.job.shelf, guides)
        for problem in problems:
            self._done.note(problem)
        return numbered

    def close(self) -> None:
        self._uses.close()


def listed(guides: Sequence[Guide]) -> str:
    *first, last = map(str, guides)
    plain = all(guide.blend == COEFFICIENT for guide in guides)
    total = f" ({sum(guide.rfg for guide in guides):g} together)" if first and plain else ""
    return f"{', '.join(first)} and {last}{total}" if first else last


def _how_much(done: Outcome) -> str:
    """ "throughout" only of all rows of all calls."""
    if done.acted_on_all == done.calls:
        return "throughout"
    part = f"in {done.acted} of {done.calls} model calls"
    return part if done.acted_on_all == done.acted else f"{part}, in {done.acted_on_all} of them on every row"
