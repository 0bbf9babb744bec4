"""Replays in a web UI: kept within the memory allowed, for as long as the model stays the same, and seen to happen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tqdm import tqdm

from ..model.sites import Lineage
from ..references.budget import within
from ..references.plan import Plan, preset
from ..references.reference import Reference
from ..references.replay import Replays
from ..references.sizes import Picture, estimate
from ..stores import MemoryBudget
from ..words import Interrupted, ReferenceProblem
from .host import Host
from .provenance import inside_model


class ReplayMemory:
    """Replayed references of this program, within the budget that it shares with all that is kept in memory.

    What a ``user`` has found or kept stays for as long as that object is there.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self.budget = budget
        self._kept: dict[tuple, Reference] = {}

    def find(self, key: tuple, user: object) -> Reference | None:
        self.budget.use(key, user)
        return self._kept.get(key)

    def keep(self, key: tuple, features: Reference, user: object) -> None:
        def evict() -> None:
            self._kept.pop(key, None)

        self.budget.put(key, features.nbytes, f"The replay of {features.name!r}", evict, user)
        self._kept[key] = features

    def forget(self, content: str) -> None:
        """Lets go of what a reference of that content was computed into."""
        for key in [key for key in self._kept if key[0] == content]:
            self._kept.pop(key, None)
            self.budget.remove(key)


class HostReplays(Replays):
    """:class:`Replays` for one processing object."""

    def __init__(self, p: Any, host: Host, memory: ReplayMemory, element_size: int) -> None:
        super().__init__()
        self._host = host
        self._memory, self._model, self._element_size = memory, _model_key(p, host), element_size
        self._bar: tqdm | None = None

    def find(self, key: tuple) -> Reference | None:
        return self._memory.find((*key, *self._model), self)

    def keep(self, key: tuple, features: Reference) -> None:
        self._memory.keep((*key, *self._model), features, self)

    def plan(self, lineage: Lineage, reference: Reference, pass_name: str) -> Plan:
        """Everything that was asked for, where memory allows that; otherwise the best that fits into half of what is
        allowed."""
        record, limit = reference.passes[pass_name], self._memory.budget.limit
        plan = replace(preset("Exact", lineage), percent=record.percent)
        picture = Picture(*reference.latent_size(pass_name), len(record.calls),
                          element_size=self._element_size, part=reference.parts.get(pass_name))
        if limit is None or estimate(plan, lineage, picture) <= limit / 2:
            return plan
        plan = replace(within(limit // 2, lineage, picture, percent=record.percent), trajectory=False)
        if not plan.sites:
            raise ReferenceProblem(f"There is not enough memory to replay reference {reference.name!r}; raise "
                                   "--refdrop-memory, or save it with features.")
        return plan

    def progress(self, done: int, total: int) -> None:
        """Shows it beside what the host shows of its own. Raises :class:`Interrupted` when the user does."""
        if self._bar is None:
            self._bar = tqdm(total=total, desc="RefDrop replays the reference")
        self._bar.update(done - self._bar.n)
        state = self._host.state
        stopped = bool(state.interrupted or state.skipped)
        state.textinfo = f"Replay {done} of {total}" if done < total and not stopped else None
        if stopped or done == total:
            self._bar.close()
            self._bar = None
        if stopped:
            raise Interrupted("The generation was interrupted while its reference was replayed.")


def _model_key(p: Any, host: Host) -> tuple:
    """What the features of a trajectory depend on besides itself: the model that is loaded, and all that acts in it
    (LoRA and other networks, token merging), in the pass and, for hosts may load networks early, in the hires pass."""
    acting = [inside_model(p, host), inside_model(p, host, hires=True)]
    return (id(getattr(p, "sd_model", None)), str(getattr(p, "sd_model_hash", None)), repr(acting),
            bool(getattr(p, "is_hr_pass", False)))
