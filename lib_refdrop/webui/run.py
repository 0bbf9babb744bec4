"""RefDrop's part in one generation. It lives on the processing object, never on the script: scripts are shared."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from modules import shared

from ..words import RefDropError
from ..hosts import Attachment, find_adapter
from ..techniques.reference.guidance import Guidance
from ..techniques.reference.recording import Recording
from ..techniques.reference.strength import Strength
from ..references.reference import Reference
from ..techniques.sampling_pass import SamplingPass
from ..techniques.technique import Outcome, Technique
from ..settings import Settings
from ..model.sites import Lineage
from ..words import said
from .infotext import NOTE, written_keys
from .messages import complain, interrupted, show, stop
from .options import INNER_PASSES, option
from .plans import plan_for
from .provenance import default_name, provenance
from .recent import Recent
from .replays import HostReplays
from .shelf import Shelf, shelf
from .xyz import with_axes

logger = logging.getLogger("RefDrop")

_NO_PASS = "This generation had no pass that RefDrop is switched on for"


def start(p: Any, args: Sequence[Any]) -> None:
    """A generation begins. Off, it touches nothing; on, ``p`` has a :class:`Run` from here on."""
    _forget(p)
    try:
        settings = Settings.from_args(with_axes(p, args))
    except RefDropError as problem:
        stop(p, problem)
        complain(p, problem, shelf())
        return
    recent = Recent.of(p, shelf())
    if not settings.enabled and recent is None:
        return
    if _inside_another(p):
        if settings.enabled and not (settings.mode == "Use" and option(INNER_PASSES)):
            logger.info("A generation inside another one (a detailer's) runs plain; there is a setting to change that.")
            return
        recent = None  # a detail is no picture of its own
    if settings.enabled or recent:
        p.refdrop = Run(p, settings, shelf(), recent)
        p.refdrop.open()


def run_of(p: Any) -> Run | None:
    """The run that :func:`start` gave ``p``, if RefDrop is on."""
    return getattr(p, "refdrop", None)


class Run:
    """Opens a session round each sampling pass of ``p``, saves what was recorded, and says what happened.

    Whatever happens, the model is left as it was found: at the end of each pass, and when ``p`` is closed.
    """

    def __init__(self, p: Any, settings: Settings, shelf: Shelf, recent: Recent | None = None) -> None:
        self._p, self._settings, self._shelf, self._recent = p, settings, shelf, recent
        self.running = True
        self._active = settings.enabled
        self._batch, self._passes = 0, 0
        self._uses = ExitStack()
        self._reference: Reference | None = None
        self._recording: Recording | None = None
        self._pass: SamplingPass | None = None
        self._attachment: Attachment | None = None
        self._done = Outcome()
        self._written: list[str] = []

    def open(self) -> None:
        """Finds the reference to use, so that a missing one is known before anything is computed."""
        self._p.close = _Close(self)  # the only thing hosts do after every generation, failed ones too
        if self._active and self._settings.mode == "Use":
            try:
                name = self._settings.reference.strip() or self._shelf.newest(self._settings.store)
                store = self._shelf.store(self._settings.store)
                self._reference = self._uses.enter_context(store.using(name))
            except RefDropError as problem:
                self._give_up(problem)

    def check(self) -> None:
        """The model is there, no picture is begun: the last moment to stop without leaving a noisy one."""
        if not self._active:
            return
        try:
            adapter = find_adapter(self._p)
            lineage = adapter.lineage(self._p)
            if self._settings.mode == "Use":
                hires = self._settings.enabled_hr and getattr(self._p, "enable_hr", False)
                for pass_name in ("base", "hires") if hires else ("base",):
                    Guidance(self._guides(), lineage, pass_name)
            else:
                plan, size = plan_for(self._p, self._settings, lineage, adapter.element_size(self._p))
                shared.state.textinfo = f"RefDrop saves about {said(size)}. {plan.explanation}"
                logger.info(shared.state.textinfo)
        except RefDropError as problem:
            self._give_up(problem)

    def begin_batch(self, number: int) -> None:
        """Batch ``number`` starts; parameters written for an earlier one say nothing about it."""
        self._batch, self._done, self._passes = number, Outcome(), 0
        for key in self._written:
            self._p.extra_generation_params.pop(key, None)
        self._written = []

    def begin_pass(self) -> None:
        """A sampling pass starts (or starts again: Forge announces a second pass twice)."""
        self.end_pass()
        hires = bool(getattr(self._p, "is_hr_pass", False))
        saved = self._settings.mode == "Save" and self._batch > 0
        wanted = self._active and not (hires and not self._settings.enabled_hr) and not saved
        if not wanted and (self._recent is None or hires):
            return
        try:
            self._attach("hires" if hires else "base", wanted)
        except RefDropError as problem:
            if wanted:
                self._give_up(problem)
            else:
                logger.info("This picture is not remembered: %s", problem)

    def end_pass(self) -> None:
        """The pass is over: lets go of the model and asks what happened."""
        self.detach()
        sampling_pass, self._pass = self._pass, None
        if sampling_pass is None or not self._active or interrupted():
            return
        outcomes = sampling_pass.finish()
        if self._active and outcomes:
            self._done.add(outcomes[0])

    def end_batch(self) -> None:
        """A batch is sampled: keeps the reference, or says how far it was guided."""
        self.end_pass()
        if self._recent and not interrupted():
            self._recent.keep()
        if not self._active:
            return
        if self._settings.mode == "Use":
            self._report_use()
        elif self._batch == 0:
            self._save()

    def finish(self) -> None:
        """All pictures are finished: what starts now is no longer inside this generation."""
        self.running = False

    def close(self) -> None:
        """The generation is over, however it ended."""
        self.finish()
        self.detach()
        self._forget_recording()
        self._uses.close()

    def detach(self) -> None:
        """Takes everything off the model. More than once does no harm."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.detach()

    def _attach(self, pass_name: str, wanted: bool) -> None:
        """Lets a session into the pass: to guide or save where that is ``wanted``, and to remember the pictures."""
        adapter = find_adapter(self._p)
        lineage, element_size = adapter.lineage(self._p), adapter.element_size(self._p)
        techniques: list[Technique] = []
        if wanted and self._settings.mode == "Use":
            replays = HostReplays(self._p, self._shelf.replays, element_size)
            techniques.append(Guidance(self._guides(), lineage, pass_name, replays))
        elif wanted:
            techniques.append(self._recording_for(pass_name, lineage, element_size))
        if self._recent and pass_name == "base":
            techniques += self._recent.recordings(lineage, self._batch)
        self._pass = SamplingPass(techniques, self._give_up)
        self._attachment = adapter.attach(self._p, self._pass)
        self._passes += wanted

    def _guides(self) -> list[tuple[Reference, Strength]]:
        return [(self._reference, Strength(self._settings.rfg, self._settings.sections))]

    def _recording_for(self, pass_name: str, lineage: Lineage, element_size: int) -> Recording:
        """The recorder of this generation, which writes into the store as the run goes. Raises :class:`StoreProblem`."""
        if self._recording is None or pass_name == "base":
            self._forget_recording()
            made = provenance(self._p)
            name = self._settings.reference.strip() or default_name(made["prompt"], made["seed"])
            plan, size = plan_for(self._p, self._settings, lineage, element_size)
            writer = self._shelf.store(self._settings.store).writer(name, self._settings.replace, size)
            self._recording = Recording(lineage, made, plan, writer)
        self._recording.begin_pass(pass_name)
        return self._recording

    def _forget_recording(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.abort()

    def _save(self) -> None:
        if interrupted():
            self._forget_recording()
            self._tell("The generation was interrupted, so no reference was saved.")
            return
        recording, self._recording = self._recording, None
        if recording is None:
            self._tell(_NO_PASS + ", so no reference was saved.")
            return
        try:
            saved = recording.commit()
        except RefDropError as problem:
            self._give_up(problem)
            return
        finally:
            recording.abort()
        self._write(saved.name)
        self._tell(" ".join([self._shelf.describe(saved), recording.plan.explanation, *self._done.notes]))

    def _report_use(self) -> None:
        name = self._reference.name
        if not self._passes:
            self._tell(_NO_PASS + ", so nothing was guided.")
        elif self._settings.rfg == 0:
            self._tell("The coefficient is 0, so nothing was guided.")
        elif self._done.acted:
            self._write(name)
            done = self._done
            how_much = "throughout" if done.acted_on_all == done.calls else f"in {done.acted} of {done.calls} model calls"
            if done.acted_on_all < done.acted:
                how_much += f", on all rows in {done.acted_on_all}"
            self._tell(" ".join([f"Guided by {name!r} at {self._settings.rfg:g}, {how_much}.", *self._done.notes]))
        elif not interrupted():
            self._give_up(RefDropError(" ".join(self._done.notes) or "The model's self-attention never ran, so nothing "
                                       "was guided; another extension may replace the model or its attention."))

    def _write(self, used: str) -> None:
        texts = self._settings.infotext(used)
        if self._done.notes:
            texts[NOTE] = " ".join(self._done.notes)
        self._p.extra_generation_params.update(texts)
        self._written = list(texts)

    def _give_up(self, problem: RefDropError) -> None:
        """No guidance and no save from here on; the generation stops, or goes on plain, as the user chose."""
        self._active = False
        self.detach()
        self._pass = None
        self._forget_recording()
        if self._settings.on_problem == "Stop":
            stop(self._p, problem)
        complain(self._p, problem, self._shelf)

    def _tell(self, sentence: str) -> None:
        logger.info(sentence)
        show(self._p, sentence, self._shelf)


class _Close:
    """``p.close`` while a run is on it: closes the run, then ``p`` as it would have been."""

    def __init__(self, run: Run) -> None:
        self._run, self._close = run, run._p.close

    def __call__(self) -> None:
        try:
            self._run.close()
        finally:
            self._close()


def _forget(p: Any) -> None:
    """Web UIs copy a processing object to run it again (prompts from a file, X/Y/Z plots): the copy starts anew."""
    for name in ("refdrop", "refdrop_stopped"):
        vars(p).pop(name, None)
    if isinstance(vars(p).get("close"), _Close):
        del p.close
    stale = written_keys() & set(p.extra_generation_params)
    if stale:  # copies share this dict, and say with it what was done to another picture
        p.extra_generation_params = {key: value for key, value in p.extra_generation_params.items() if key not in stale}


def _inside_another(p: Any) -> bool:
    """Whether another generation is being made: detailers start theirs from its hooks, so it is up the call stack.

    Nothing else tells: hosts do not say so, and a note kept elsewhere would outlive a generation that failed.
    """
    frame = sys._getframe(1)
    while frame is not None:
        outer = frame.f_locals.get("p")
        run = vars(outer).get("refdrop") if outer is not p and hasattr(outer, "__dict__") else None
        if isinstance(run, Run) and run.running:
            return True
        frame = frame.f_back
    return False
