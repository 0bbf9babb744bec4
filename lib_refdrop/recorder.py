"""Save: collects features while a pass runs and makes a reference of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone

import torch
from torch import Tensor

from .errors import ReferenceProblem
from .reference import FORMAT_VERSION, Call, Key, Reference, describe_lineage, passes_from
from .sites import Lineage, Site


class Recorder:
    """Features of one generation, over all its passes.

    ``save_percent`` keeps the noisiest N % of each pass's schedule, at least one step. With the schedule known in
    advance (``sigmas`` of :meth:`begin_pass`) nothing else is ever held; otherwise the rest is dropped at the end.
    """

    def __init__(self, lineage: Lineage, provenance: dict, save_percent: float = 100.0) -> None:
        self.lineage = lineage
        self._provenance, self._percent = provenance, save_percent
        self._calls: dict[str, list[Call]] = {}
        self._features: dict[str, Tensor] = {}
        self._pass, self._least = "", 0.0

    def begin_pass(self, name: str, sigmas: Sequence[float] | None = None) -> None:
        """Starts "base" or "hires" (again): what was recorded of a pass of that name is forgotten."""
        self._pass, self._calls[name] = name, []
        self._features = {key: value for key, value in self._features.items() if not key.startswith(name + "/")}
        self._least = _threshold(sigmas, self._percent) if sigmas else 0.0

    def call(self, sigma: float, visit: int) -> int:
        """The index of the call at this sigma and visit; a second part of one call (the other branch) joins it."""
        calls, call = self._calls[self._pass], Call(sigma, visit)
        if call not in calls:
            calls.append(call)
        return calls.index(call)

    def wants(self, sigma: float) -> bool:
        return sigma >= self._least

    def keep(self, call: int, site: Site, branch: str, k: Tensor, v: Tensor) -> None:
        """Keeps one feature, k and v ``[tokens, width]``, in its own precision on the CPU."""
        key = Key(self._pass, call, site, branch)
        if key.tensor_name("k") not in self._features:
            self._features[key.tensor_name("k")] = _own(k)
            self._features[key.tensor_name("v")] = _own(v)

    def reference(self, name: str) -> Reference:
        """What was recorded, as a reference. Raises :class:`ReferenceProblem` where there is nothing to keep."""
        for pass_name, calls in self._calls.items():
            least = _threshold([call.sigma for call in calls], self._percent)
            late = {f"{pass_name}/{index:04d}/" for index, call in enumerate(calls) if call.sigma < least}
            self._features = {key: value for key, value in self._features.items()
                              if not any(key.startswith(prefix) for prefix in late)}
        if not self._features:
            raise ReferenceProblem("Nothing was recorded, so no reference was saved: the model made no call at the layers "
                                   "chosen.")
        if not all(torch.isfinite(feature).all() for feature in self._features.values()):
            raise ReferenceProblem("This generation has NaN or infinite numbers in its attention, so it was not saved; try "
                                   "full precision (--no-half) or another model.")
        nbytes = sum(feature.nbytes for feature in self._features.values())
        manifest = {
            "format": FORMAT_VERSION, "name": name, "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **describe_lineage(self.lineage), **self._provenance,
            "kept": {"what": "k and v", "precision": str(next(iter(self._features.values())).dtype).split(".")[-1],
                     "save_percent": self._percent, "bytes": nbytes},
            "passes": {name: [list(call) for call in calls] for name, calls in self._calls.items()},
        }
        return Reference(name, manifest, passes_from(self._calls, self._features), dict(self._features), nbytes)


def _threshold(sigmas: Sequence[float], percent: float) -> float:
    """The smallest sigma among the first ``percent`` of a schedule; the end of a schedule, sigma 0, is no step."""
    steps = sorted({sigma for sigma in sigmas if sigma > 0}, reverse=True)
    if percent >= 100 or not steps:
        return 0.0
    # A hair more than the number itself: schedules reach us in single precision by different roads.
    return steps[max(1, math.ceil(len(steps) * percent / 100)) - 1] * (1 - 1e-4)


def _own(feature: Tensor) -> Tensor:
    """A copy on the CPU that does not hold on to a larger tensor."""
    feature = feature.detach().to("cpu")
    if feature.untyped_storage().nbytes() > feature.nbytes or not feature.is_contiguous():
        feature = feature.clone(memory_format=torch.contiguous_format)
    return feature
