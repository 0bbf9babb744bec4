"""One step of a sampler in Forge and its kin: which parts of the prompts each of its model calls holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..model.rows import COND, UNCOND, Kind

Conditions = Sequence[Mapping[str, Any]]


class Step:
    """What the host has yet to send through the model before the step is done.

    These hosts line up the parts of the prompt, then the negative one. They take the first that is left and those that
    can be joined to it, *from the last to the first*, as many as memory allows, and go on with the rest. A call says
    only of each part whether it is the prompt or the negative one. What comes when nothing is left is no call of the
    step: other extensions (SAG, PAG) call the model once more for purposes of their own.
    """

    def __init__(self, x: Tensor, cond: Conditions, uncond: Conditions | None) -> None:
        """``x`` ``[images, C, h, w]`` is what the step starts from."""
        self.images, self.size = len(x), tuple(x.shape[-2:])
        self._waiting = [(Kind(COND, part), each) for part, each in enumerate(cond)]
        self._waiting += [(Kind(UNCOND, part), each) for part, each in enumerate(uncond or ())]

    def take(self, branches: Sequence[str]) -> list[Kind] | None:
        """What the chunks of the next call are; None where it is not one of this step's."""
        if not self._waiting:
            return None
        fit = [each for each in self._waiting if _joins(self._waiting[0][1], each[1])]
        for order in (fit[::-1][:len(branches)], self._last_first(branches)):
            if [kind.branch for kind, _ in order] == list(branches):
                taken = [kind for kind, _ in order]
                self._waiting = [each for each in self._waiting if each[0] not in taken]
                return taken
        return None

    def _last_first(self, branches: Sequence[str]) -> list[tuple[Kind, Mapping[str, Any]]]:
        """For a host that joins by other rules: of each branch the last that is left."""
        left = {branch: [each for each in self._waiting if each[0].branch == branch] for branch in branches}
        return [left[branch].pop() for branch in branches if left[branch]]


def _joins(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the host puts both into one batch, as its conditions say themselves."""
    ours, theirs = one["model_conds"], other["model_conds"]
    return ours is theirs or (ours.keys() == theirs.keys()
                              and all(ours[name].can_concat(theirs[name]) for name in ours))
