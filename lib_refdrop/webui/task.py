"""What a generation is to do with RefDrop: save a reference, use one, remember pictures. One class each, one
interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..hosts import Adapter, find_adapter
from ..model.sites import Lineage
from ..settings import Settings
from ..techniques.technique import Outcome, Technique
from .host import Host
from .shelf import Shelf
from .steps import keeps_to_schedule

NO_PASS = "This generation had no pass that RefDrop is switched on for"


class Pass(NamedTuple):
    """A sampling pass that begins: "base" or "hires", of which batch, on what model."""

    name: str
    batch: int
    adapter: Adapter
    lineage: Lineage
    element_size: int  # bytes of one of the model's own numbers
    sigmas: Sequence[float] | None  # its noise levels, where the host knows them in advance


@dataclass
class Job:
    """One generation as every task sees it."""

    p: Any
    host: Host
    shelf: Shelf
    settings: Settings

    def model(self) -> tuple[Adapter, Lineage, int]:
        """The adapter of the host, and what it says of the model. Raises :class:`~lib_refdrop.words.RefDropError`."""
        adapter = find_adapter(self.p)
        return adapter, adapter.lineage(self.p), adapter.element_size(self.p)

    def covers(self, pass_name: str) -> bool:
        """Whether RefDrop is switched on for a pass of this name."""
        return pass_name == "base" or self.settings.enabled_hr

    @property
    def has_hires(self) -> bool:
        return self.settings.enabled_hr and bool(getattr(self.p, "enable_hr", False))


class Task:
    """Does nothing; one that does something overrides what it needs. Everything may raise
    :class:`~lib_refdrop.words.RefDropError`: the task is then over."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def go_on_from(self, before: Task | None) -> None:
        """The host runs a processing object again: ``before`` is what it did the last time, and is closed next."""

    def open(self) -> None:
        """Before anything is computed."""

    def check(self) -> None:
        """The model is there, no picture is begun: the last moment to stop without leaving a noisy one."""

    def begin_batch(self, number: int) -> None:
        """A batch starts."""

    def techniques(self, sampling: Pass) -> list[Technique]:
        """What takes part in a sampling pass that begins."""
        return []

    def passed(self, outcomes: Sequence[Outcome]) -> None:
        """The pass is over: what its techniques did."""

    def end_batch(self, number: int, interrupted: bool) -> None:
        """A batch is sampled."""

    def close(self) -> None:
        """The generation is over, however it ended. More than once does no harm."""


def known_levels(p: Any, sampling: Pass) -> Sequence[float] | None:
    """The noise levels of a pass, where its sampler keeps to those that the host knows in advance."""
    return sampling.sigmas if keeps_to_schedule(sampler_of(p, sampling.name)) else None


def sampler_of(p: Any, pass_name: str) -> str:
    """The name of a pass's sampler."""
    given = getattr(p, "hr_sampler_name", None) if pass_name == "hires" else None
    return str(given or p.sampler_name)
