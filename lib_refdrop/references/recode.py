"""A smaller reference out of one that was kept: by another plan, without the model that made it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import torch
from torch import Tensor

from ..model.schedule import threshold
from ..model.sites import Site
from ..words import ReferenceProblem
from .codec import KINDS, POOLS, Representation, decode, encode
from .manifest import kept_as
from .plan import Plan
from .reference import Key, RecordedCall, Reference, is_part, is_trajectory, passes_from

_PIXELS = 8  # of a side of a latent's cell

Project = Callable[[Site, Tensor], tuple[Tensor, Tensor]]

# How exact, best first; what a reference has lost already, no plan brings back.
_RANKS = {"own": 0, "fp16": 1, "bf16": 1, "int8": 2, "fp8": 2, "int4": 3}


def recode(reference: Reference, plan: Plan, project: Project | None = None) -> Reference:
    """A copy of ``reference`` with no more than ``plan`` keeps, in memory.

    What is kept more coarsely than planned stays as it is: precision, merged tokens, and noise levels, of which the
    plan's number is taken. So does the part of the schedule that the reference speaks for, where the plan's is larger.
    A trajectory is taken along where there is one and the plan wants it.
    ``project(site, hidden)`` gives K and V ``[S, W]`` of a hidden state ``[S, C]`` where the plan wants those; it needs
    the model.

    Raises :class:`ReferenceProblem` where nothing would be left, the picture's size is not known, or only the model
    could make what is wanted.
    """
    percent = min([plan.percent, *(record.percent for record in reference.passes.values())])
    plan = replace(plan, percent=percent)
    features: dict[str, Tensor] = {}
    made: dict[str, dict[Site, Representation]] = {}
    for pass_name, record in reference.passes.items():
        kept, made[pass_name] = kept_as(reference.manifest, pass_name), {}
        levels = plan.chosen_of([call.sigma for call in record.calls], among=record.levels)
        for kind, had in record.kept.items():
            for call in sorted(had) if kind.branch in plan.branches else ():
                wanted = _is_kept(record.calls[call], levels, plan)
                for site in plan.sites if wanted else ():
                    key = Key(pass_name, call, site, kind)
                    if (parts := reference.feature(key)) is not None:
                        parts, made[pass_name][site] = _recoded(reference, key, parts, kept.get(site), plan, project)
                        features |= {key.tensor_name(part): value for part, value in parts.items()}
                for block, dtype in plan.blocks.items() if wanted else ():
                    key = Key(pass_name, call, block, kind)
                    for part, value in (reference.feature(key) or {}).items():
                        kept_in = min(value.dtype, dtype, key=lambda each: each.itemsize)
                        features[key.tensor_name(part)] = value.to(kept_in)
    if plan.trajectory:
        quiet = _quiet(reference, plan)
        features |= {name: reference.features[name] for name in reference.features
                     if is_trajectory(name) and not name.startswith(quiet)}
    if features:
        features |= {name: reference.features[name] for name in reference.features if is_part(name)}
    if not features:
        raise ReferenceProblem(f"Nothing that reference {reference.name!r} has would be left; choose another plan.")
    calls = {name: record.calls for name, record in reference.passes.items()}
    nbytes = sum(value.nbytes for value in features.values())
    done = replace(plan, trajectory=any(map(is_trajectory, features)))
    shares = {"part": {name: round(part.share, 4) for name, part in reference.parts.items()}} if reference.parts else {}
    manifest = {**reference.manifest, "id": uuid4().hex, "kept": {**done.manifest(made), "bytes": nbytes, **shares}}
    return Reference(reference.name, manifest, passes_from(calls, features, done.percent), features, nbytes)


def _is_kept(call: RecordedCall, levels: set[float], plan: Plan) -> bool:
    """Whether a plan keeps features of a call, of a pass of which it keeps these levels."""
    return call.sigma in levels and (plan.levels is None or call.visit == 0)


def _quiet(reference: Reference, plan: Plan) -> tuple[str, ...]:
    """What the names of tensors begin with that belong to calls beyond the plan's share of the schedule."""
    return tuple(f"{name}/{index:04d}/" for name, record in reference.passes.items()
                 for index, call in enumerate(record.calls)
                 if call.sigma < threshold([each.sigma for each in record.calls], plan.percent))


def _recoded(reference: Reference, key: Key, parts: dict[str, Tensor], old: Representation | None, plan: Plan,
             project: Project | None) -> tuple[dict[str, Tensor], Representation]:
    """One feature's parts as ``plan`` wants them, or as near to it as ``old`` allows; and how they are kept now."""
    what = "hidden" if "h" in parts else "kv"
    whole = parts[KINDS[what][0]]
    site = key.site
    assert isinstance(site, Site)
    old, new = old or _seen(what, parts), plan.sites[site]
    precision = old.precision if _RANKS[old.precision] >= _RANKS[new.precision] else new.precision
    # What is left where a mask took tokens out is no grid to be merged on.
    merges = old.pool == 1 and new.merges(len(whole)) and key.pass_name not in reference.parts
    stays = not merges and ((old.pool, old.tokens) != (1, None) or key.pass_name in reference.parts)
    merged = (old.pool, old.tokens) if stays else (new.pool, new.tokens)
    aim = Representation(new.what, precision, *merged)
    if aim == old:
        return parts, aim
    found = decode(parts, whole.dtype if whole.dtype.itemsize > 1 else torch.float32, whole.device)
    if aim.what != what:
        if what == "kv" or project is None:
            has, lacks = ("K and V", "hidden states") if what == "kv" else ("hidden states", "K and V")
            raise ReferenceProblem(f"Reference {reference.name!r} keeps {has}; only the model can make {lacks} of "
                                   f"them.")
        found["k"], found["v"] = project(site, found["h"])
    if not merges:
        counts = {"w": parts["w"]} if "w" in parts else {}
        return encode(replace(aim, pool=1, tokens=None), found.get("h"), found.get("k"), found.get("v")) | counts, aim
    grid = _grid(reference, key.pass_name, len(whole), old)
    return encode(aim, found.get("h"), found.get("k"), found.get("v"), grid), aim


def _seen(what: str, parts: dict[str, Tensor]) -> Representation:
    """What the parts themselves tell of how they are kept."""
    dtype = parts[KINDS[what][0]].dtype
    precision = {torch.int8: "int8", torch.uint8: "int4"}.get(dtype, "own" if dtype.itemsize > 1 else "fp8")
    return Representation(what, precision, POOLS[-1] if "w" in parts else 1)


def _grid(reference: Reference, pass_name: str, tokens: int, old: Representation) -> tuple[int, int]:
    """Rows and columns of the tokens that a layer has as it was kept, from the trajectory's latents or from the size of
    the picture in the manifest."""
    try:
        if reference.seen(pass_name):
            rows, columns = reference.latent_size(pass_name)
        else:
            rows, columns = (int(reference.manifest[side]) // _PIXELS for side in ("height", "width")
                             if pass_name == "base")
        while math.prod(old.grid(rows, columns)) > tokens and rows * columns > 1:
            rows, columns = -(-rows // 2), -(-columns // 2)
        if math.prod(old.grid(rows, columns)) == tokens:
            return old.grid(rows, columns)
    except (KeyError, TypeError, ValueError):
        pass
    raise ReferenceProblem(f"Reference {reference.name!r} does not tell the size of its {pass_name} picture, so its "
                           "tokens cannot be merged; choose a plan that keeps all tokens.")
