"""RefDrop's part in one generation. It lives on the processing object, never on the script: scripts are shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..hosts import Attachment
from ..settings import Settings
from ..techniques.sampling_pass import SamplingPass, told
from ..techniques.technique import Technique
from ..words import Interrupted, RefDropError
from .host import Host
from .messages import complain, interrupted, logger, show, stop
from .options import INNER_PASSES, option
from .parameters import clear
from .remember_task import RememberTask
from .save_task import SaveTask
from .sequence_task import SequenceTask
from .shelf import Shelf
from .task import Job, Pass, Task
from .use_task import UseTask
from .xyz import with_axes

_TASKS = {"Save": SaveTask, "Use": UseTask}
_INNER = ("_ad_inner",)  # how detailers mark the processing objects of their inner generations (ADetailer)


def start(p: Any, args: Sequence[Any], host: Host, shelf: Shelf) -> None:
    """A generation begins. Off, it touches nothing; on, ``p`` has a :class:`Run` from here on.

    Hosts run one processing object again and again for the files of img2img's Batch and for loops, and close it once:
    what it did before is over, but for a sequence, which goes on.
    """
    before = getattr(p, "refdrop", None)
    _start(p, args, host, shelf, before)
    if before is not None and before.is_of(p):
        before.close()


def _start(p: Any, args: Sequence[Any], host: Host, shelf: Shelf, copied_from: Run | None) -> None:
    _forget(p)
    try:
        settings = Settings.from_args(with_axes(p, args))
    except RefDropError as problem:
        stop(p, problem, host)
        complain(p, problem, shelf)
        return
    job = Job(p, host, shelf, settings)
    remember = RememberTask.of(job)
    if not settings.enabled and remember is None:
        return
    if _is_inner(p, copied_from, shelf, host):
        if settings.enabled and not (settings.mode == "Use" and option(host, INNER_PASSES)):
            logger.info("A generation inside another one (a detailer's) runs plain; there is a setting to change that.")
            outer = shelf.running()
            if outer is not None and outer is not copied_from:  # detailers tell scripts of such copies and draw nothing
                outer.note_inner()
            return
        remember = None  # a detail is no picture of its own
    task = SequenceTask if settings.in_sequence else _TASKS[settings.mode]
    main = task(job) if settings.enabled else None
    if main and copied_from is not None and copied_from.is_of(p):
        main.go_on_from(copied_from.main)
    if main or remember:
        p.refdrop = Run(job, main, remember, outer=shelf.running())
        p.refdrop.open()


def run_of(p: Any) -> Run | None:
    """The run that :func:`start` gave ``p``, if RefDrop is on; copies of ``p`` have no part in it."""
    run = getattr(p, "refdrop", None)
    return run if run is not None and run.is_of(p) else None


class Run:
    """Opens a :class:`SamplingPass` round each sampling pass of ``p`` and knows no task.

    Whatever happens, the model is left as it was found: at the end of each pass, and when ``p`` is closed.
    """

    def __init__(self, job: Job, main: Task | None, remember: Task | None, outer: Run | None = None) -> None:
        self._job, self._p = job, job.p
        self.main = main
        self._tasks = [task for task in (main, remember) if task]
        self._outer = outer
        self._batch = 0
        self._pass: SamplingPass | None = None
        self._attachment: Attachment | None = None
        self._techniques: list[tuple[Task, list[Technique]]] = []
        self.began = job.host.state.time_start if hasattr(job.host.state, "time_start") else None
        self.afterwards = False  # the batch is sampled: what scripts start now is inside this generation

    def is_of(self, p: Any) -> bool:
        return p is self._p

    def open(self) -> None:
        self._p.close = _Close(self)  # the only thing hosts do after every generation, failed ones too
        self._job.shelf.begin(self)
        self._each(lambda task: task.open())

    def check(self) -> None:
        self._each(lambda task: task.check())

    def begin_batch(self, number: int) -> None:
        """Batch ``number`` starts; parameters written for an earlier one say nothing about it."""
        self._batch, self.afterwards = number, False
        if self.main and number:
            clear(self._p)
        self._each(lambda task: task.begin_batch(number))

    def begin_pass(self) -> None:
        """A sampling pass starts (or starts again: Forge announces a second pass twice)."""
        self.end_pass()
        if not self._tasks:
            return
        name = "hires" if bool(getattr(self._p, "is_hr_pass", False)) else "base"
        try:
            adapter, lineage, element_size = self._job.model()
            sampling = Pass(name, self._batch, adapter, lineage, element_size, _sigmas(adapter, self._p))
        except Exception as error:
            for task in list(self._tasks):
                if task is not self.main or self._job.covers(name):
                    self._over(task, told(error))
            return
        self._each(lambda task: self._techniques.append((task, task.techniques(sampling))))
        techniques = [technique for _, found in self._techniques for technique in found]
        if not techniques:
            return
        self._pass = SamplingPass(techniques, self._told)
        try:
            self._attachment = sampling.adapter.attach(self._p, self._pass)
        except Exception as error:
            self._pass = None
            for task, found in list(self._techniques):
                if found:
                    self._over(task, told(error))

    def end_pass(self) -> None:
        """The pass is over: lets go of the model and asks what happened."""
        self.detach()
        sampling_pass, self._pass = self._pass, None
        if sampling_pass is not None and not interrupted(self._job.host):
            sampling_pass.finish()  # what techniques say at the end is told to their tasks, which have to be there
            for task, techniques in self._techniques:
                if task in self._tasks:
                    task.passed([sampling_pass.outcomes[technique] for technique in techniques
                                 if technique in sampling_pass.outcomes])
        self._techniques = []

    def end_batch(self) -> None:
        """A batch is sampled: keeps the reference, or says how far it was guided."""
        self.end_pass()
        self.afterwards = True
        self._each(lambda task: task.end_batch(self._batch, interrupted(self._job.host)))

    def finish(self) -> None:
        """All pictures are finished: what starts now is no longer inside this generation, and what started in it and
        was never closed is over."""
        shelf, inner = self._job.shelf, []
        run = shelf.running()
        while run is not None and run is not self:
            inner.append(run)
            run = run._outer
        if run is self:
            shelf.begin(self._outer)
            for each in inner:
                each.close()

    def close(self) -> None:
        """The generation is over, however it ended. More than once does no harm."""
        self.finish()
        self.detach()
        self._pass, self._techniques = None, []
        for task in {id(task): task for task in (self.main, *self._tasks) if task}.values():
            task.close()
        self._tasks = []

    def detach(self) -> None:
        """Takes everything off the model. More than once does no harm."""
        attachment, self._attachment = self._attachment, None
        if attachment is not None:
            attachment.detach()

    def is_sibling(self, p: Any) -> bool:
        """Whether ``p`` and this run's are shallow copies of one processing object: they share its dictionaries, of
        which objects made anew have their own."""
        ours = getattr(self._p, "override_settings", None)
        return ours is not None and getattr(p, "override_settings", None) is ours

    def note_inner(self) -> None:
        """A generation inside this one ran plain."""
        show(self._p,
             "Generations inside this one (a detailer's) ran without RefDrop; there is a setting to change that.",
             self._job.shelf)

    def _each(self, event: Any) -> None:
        for task in list(self._tasks):
            try:
                event(task)
            except Exception as error:
                self._over(task, told(error))

    def _told(self, technique: Technique, problem: RefDropError) -> None:
        """A technique has given up in the middle of a pass."""
        for task, techniques in self._techniques:
            if technique in techniques and task in self._tasks:
                self._over(task, problem)

    def _over(self, task: Task, problem: RefDropError) -> None:
        """A task takes no further part; the generation stops, or goes on without it, as the user chose."""
        self._tasks.remove(task)
        task.close()
        if not any(found for each, found in self._techniques if each in self._tasks):
            self.detach()
        if task is not self.main:
            logger.info("This picture is not remembered: %s", problem)
        elif isinstance(problem, Interrupted):
            show(self._p, str(problem), self._job.shelf)
        else:
            if self._job.settings.on_problem == "Stop":
                stop(self._p, problem, self._job.host)
            complain(self._p, problem, self._job.shelf)


class _Close:
    """``p.close`` while a run is on it: closes the run, then ``p`` as it would have been."""

    def __init__(self, run: Run) -> None:
        self._run, self._close = run, run._p.close

    def __call__(self) -> None:
        try:
            self._run.close()
        except Exception:
            logger.exception("A fault inside RefDrop")
        finally:
            self._close()


def _forget(p: Any) -> None:
    """Web UIs copy a processing object to run it again (prompts from a file, X/Y/Z plots): the copy starts anew.

    The parameters that it shares with what it is a copy of are those of the whole job, in an API's answer, too.
    """
    for name in ("refdrop", "refdrop_stopped", "refdrop_job"):
        vars(p).pop(name, None)
    if isinstance(vars(p).get("close"), _Close):
        del p.close
    shared = p.extra_generation_params
    clear(p)
    if p.extra_generation_params is not shared:
        p.refdrop_job = shared


def _is_inner(p: Any, copied_from: Run | None, shelf: Shelf, host: Host) -> bool:
    """Whether ``p`` is made inside another generation: marked so by its detailer, or begun, in the job of a run of
    ours, between the sampling of its pictures and their end, which is when scripts begin generations of their own.

    A run that failed, and that nobody closed (plots copy processing objects and close none), is closed now: it is no
    outer generation. One that failed while it sampled had not come so far; one that failed later is told by ``p`` being
    another copy of the same object, and not of its own (``copied_from`` is the run that it came with).
    """
    outer = shelf.running()
    if outer is not None and not (outer.afterwards and outer.began == getattr(host.state, "time_start", None)
                                  and (copied_from is outer or not outer.is_sibling(p))):
        outer.close()
        shelf.begin(None)
        outer = None
    return outer is not None or any(getattr(p, mark, False) for mark in _INNER)


def _sigmas(adapter: Any, p: Any) -> Sequence[float] | None:
    find = getattr(adapter, "sigmas", None)
    return find(p) if find else None
