"""Which noise levels of a pass have features kept, while its model calls come one by one."""

from __future__ import annotations

from collections.abc import Sequence

from ...model.schedule import SAME, crowded, descending, rounded, spread, threshold
from ...references.plan import Plan

_MORE = 2  # levels kept beside those that a plan allows, where there is room, until it is known which are the best


class Levels:
    """With the schedule known, the levels kept are :func:`~lib_refdrop.model.schedule.spread` over the part of it that
    the plan asks for. Otherwise, and from the first call on that is not of that schedule, levels are kept as they come;
    of more than the plan allows and a few the one that is missed least is given up, and at the end the best of them
    stay.
    """

    def __init__(self, plan: Plan, sigmas: Sequence[float] | None, limited: bool = False) -> None:
        """``limited``: there is room for what the plan says, no more."""
        self._count, self._percent = plan.levels, plan.percent
        self._schedule = descending(sigmas or [])
        self._least = threshold(self._schedule, plan.percent)
        self._chosen = spread([sigma for sigma in self._schedule if sigma >= self._least], plan.levels)
        self._given_up: list[float] = []
        self._followed = False  # the model was called at a level of the schedule
        self._between: float | None = None  # the level it was called at since, which is none of those
        self._known, self._more = bool(self._schedule), 0 if limited else _MORE
        self.kept: list[float] = []
        self.seen: list[float] = []

    def wants(self, sigma: float) -> bool:
        """Whether features are to be kept at this level, which the model is called at now."""
        sigma = rounded(sigma)
        if sigma not in self.seen:
            self.seen.append(sigma)
        if self._known and self._count is not None:
            if _among(sigma, self._schedule):
                self._followed, self._between = True, None
            # Samplers of second order call the model once between two levels of their schedule; that was never counted
            # on. Restart goes its own way.
            elif self._followed and self._between in (None, sigma) and _among_span(sigma, self._schedule):
                self._between = sigma
                return False
            else:
                self._known = False
        if not self.in_part(sigma):
            return False
        if self._known and self._count is not None and not _among(sigma, self._chosen):
            return False
        if sigma not in self.kept and sigma not in self._given_up:
            self.kept.append(sigma)
            if self._count is not None and len(self.kept) > self._count + (0 if self._known else self._more):
                self.give_up()
        return sigma in self.kept

    def in_part(self, sigma: float) -> bool:
        """Whether a level lies in the part of the schedule that was asked for, as far as that is known."""
        return sigma >= self._least

    def give_up(self) -> float | None:
        """The level missed least is kept no more; None where there is none left."""
        if not self.kept:
            return None
        gone = crowded(self.kept)
        self.kept.remove(gone)
        self._given_up.append(gone)
        return gone

    def end(self) -> list[float]:
        """The pass is over: the levels that are to go of those kept."""
        least = threshold(self.seen, self._percent)
        part = [sigma for sigma in self.seen if sigma >= least]
        stay = spread(part, self._count, among=[sigma for sigma in self.kept if sigma >= least])
        gone = [sigma for sigma in self.kept if sigma not in stay]
        self.kept = stay
        return gone


def _among(sigma: float, levels: Sequence[float]) -> bool:
    return any(abs(sigma - level) <= SAME * level for level in levels)


def _among_span(sigma: float, levels: Sequence[float]) -> bool:
    return levels[-1] * (1 - SAME) <= sigma <= levels[0] * (1 + SAME)
