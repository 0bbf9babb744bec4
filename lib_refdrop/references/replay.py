"""From a trajectory back to features: the UNet is called again on the latents it saw.

K and V of a layer are functions of the UNet's input, so on the same model the replay gives what a recording would have
kept, to rounding; on another model of the lineage it gives that model's own.
"""

from __future__ import annotations

from collections.abc import Callable


from torch import Tensor

from ..words import ReferenceProblem
from .plan import Plan, preset
from ..techniques.reference.recording import Recorder
from .reference import Reference
from ..model.layer import ModelCall, SiteInput
from ..model.sites import BRANCHES, Lineage, Site

Listener = Callable[[Site, SiteInput], None]


class Replays:
    """Replayed references, kept for as long as this object lives, and what is told while one is computed.

    A host gives its own, which counts their bytes and knows which model is loaded.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple, Reference] = {}

    def find(self, key: tuple) -> Reference | None:
        return self._kept.get(key)

    def keep(self, key: tuple, features: Reference) -> None:
        self._kept[key] = features

    def plan(self, lineage: Lineage, reference: Reference, pass_name: str) -> Plan:
        """How the features of a pass are to be represented."""
        return preset("Exact", lineage)

    def progress(self, done: int, total: int) -> None:
        """``done`` of ``total`` model calls are made. May raise to stop."""


def replay(reference: Reference, pass_name: str, lineage: Lineage, call: ModelCall,
           listen: Callable[[Listener | None], None], replays: Replays) -> Reference:
    """A reference in memory with the features that ``reference``'s trajectory of one pass stands for.

    Runs inside ``call``, once for every call and branch recorded; ``listen`` sets who is told of the layers meanwhile.
    """
    key = (reference.manifest.get("id"), reference.name, pass_name)
    found = replays.find(key)
    if found is not None:
        return found
    recorder = Recorder(lineage, {}, replays.plan(lineage, reference, pass_name))
    recorder.begin_pass(pass_name)
    wanted = [(index, branch) for index in range(len(reference.passes[pass_name].calls)) for branch in BRANCHES
              if index in reference.seen(pass_name, branch)]
    for done, (index, branch) in enumerate(wanted):
        replays.progress(done, len(wanted))
        recorded, inputs = reference.passes[pass_name].calls[index], reference.inputs(pass_name, index, branch)
        _check(reference, inputs, call.inputs(0))
        place = recorder.call(recorded.sigma, recorded.visit, tuple(inputs["x"].shape[-2:]))
        if recorder.wants(recorded.sigma, branch):
            listen(_keeps(recorder, place, branch))
            try:
                call.run([inputs])
            except RuntimeError as error:  # shapes that another extension's patches cannot take, or no memory
                raise ReferenceProblem(f"The trajectory of reference {reference.name!r} could not be replayed here "
                                       f"({error}); save it again with features.") from error
    replays.progress(len(wanted), len(wanted))
    features = recorder.reference(reference.name)
    replays.keep(key, features)
    return features


def _check(reference: Reference, inputs: dict[str, Tensor], here: dict[str, Tensor]) -> None:
    """Raises :class:`ReferenceProblem` where this model is called on other things than the recorded one."""
    ours, theirs = ({name: value.shape[:1] if name == "x" else value.shape[-1:] for name, value in each.items()}
                    for each in (here, inputs))
    if ours != theirs:
        raise ReferenceProblem(f"The trajectory of reference {reference.name!r} was recorded where the model takes its "
                               "prompt in another form, so it cannot be replayed here; save it again here or with features.")


def _keeps(recorder: Recorder, place: int, branch: str) -> Listener:
    return lambda site, layer: recorder.keep(place, site, branch, layer, 0)
