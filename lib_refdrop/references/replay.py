"""From a trajectory back to features: the model is called again on the latents it saw.

K and V of a layer are functions of the model's input, so on the same model the replay gives what a recording would have
kept, to rounding; on another model of the lineage it gives that model's own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from ..model.layer import ModelCall, SiteInput
from ..model.rows import Kind
from ..model.sites import Block, Lineage, Site
from ..words import Interrupted, ReferenceProblem, first_line, no_memory
from .part import NoPlaces
from .plan import Plan, preset
from .reference import Reference

if TYPE_CHECKING:
    from ..techniques.reference.recording import Recording


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


def replay(reference: Reference, pass_name: str, lineage: Lineage, call: ModelCall, replays: Replays) -> Reference:
    """A reference in memory with the features that ``reference``'s trajectory of one pass stands for.

    Runs inside ``call``, once for every call and kind of row recorded. Raises :class:`ReferenceProblem` where that
    cannot be done here.
    """
    from ..techniques.reference.recording import Recording  # a replay is a recording, made later

    key = (reference.content, pass_name)
    found = replays.find(key)
    if found is not None:
        return found
    if call.host is None or call.replay is None:
        raise ReferenceProblem(f"Reference {reference.name!r} keeps only its trajectory, which cannot be replayed "
                               "here; save it again with features.")
    record = reference.passes[pass_name]
    # What was asked of the schedule stays so: the levels seen are that part, and beyond it the reference is silent.
    plan, calls = replace(replays.plan(lineage, reference, pass_name), percent=record.percent), record.calls
    part = reference.parts.get(pass_name)
    recording = Recording(lineage, {}, plan, part=(lambda size: part) if part else None)
    recording.begin_pass(pass_name)
    levels = plan.chosen_of(
        [each.sigma for each in calls],
        among=[calls[index].sigma for indices in reference.seen(pass_name).values() for index in indices])
    wanted = sorted((index, kind) for kind, indices in reference.seen(pass_name).items() if kind.branch in plan.branches
                    for index in indices if calls[index].sigma in levels)
    places = [recording.place(each.sigma, each.visit, (0, 0)) for each in calls]
    for done, (index, kind) in enumerate(wanted):
        replays.progress(done, len(wanted))
        inputs = reference.inputs(pass_name, index, kind)
        _check(reference, inputs, call.host.inputs(0))
        recording.place(calls[index].sigma, calls[index].visit, tuple(inputs["x"].shape[-2:]))
        try:
            call.replay(inputs, partial(_keep, recording, places[index], kind),
                        partial(_keep_block, recording, places[index], kind))
        except (Interrupted, NoPlaces):
            raise
        except ReferenceProblem as problem:  # of what was to be kept
            raise ReferenceProblem(f"The trajectory of reference {reference.name!r} gives numbers here that are "
                                   "not finite; save it again, or run the model in full precision "
                                   "(--no-half).") from problem
        except Exception as error:  # shapes or timesteps that the model, or another extension's patches, cannot take
            if no_memory(error):
                raise
            raise ReferenceProblem(f"The trajectory of reference {reference.name!r} could not be replayed here "
                                   f"({first_line(error)}); save it again with features.") from error
    replays.progress(len(wanted), len(wanted))
    features = recording.reference(reference.name)
    replays.keep(key, features)
    return features


def _keep(recording: Recording, index: int, kind: Kind, site: Site, layer: SiteInput) -> None:
    recording.keep(index, site, kind, layer, 0)


def _keep_block(recording: Recording, index: int, kind: Kind, block: Block, output: Tensor) -> None:
    recording.keep_block(index, block, kind, output[0])


def _check(reference: Reference, inputs: dict[str, Tensor], here: dict[str, Tensor]) -> None:
    """Raises :class:`ReferenceProblem` where this model is called on other things than the recorded one."""
    ours, theirs = ({name: (value.dim(), value.shape[:1] if name == "x" else value.shape[-1:])
                     for name, value in each.items() if name != "t"} for each in (here, inputs))
    if ours != theirs:
        raise ReferenceProblem(f"The trajectory of reference {reference.name!r} was recorded where the model takes its "
                               "prompt in another form, so it cannot be replayed here; save it again here or with "
                               "features.")
