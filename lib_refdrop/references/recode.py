"""A smaller reference out of one that was kept: by another plan, without the model that made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import torch
from torch import Tensor

from .codec import KINDS, POOLS, Representation, decode, encode
from ..words import ReferenceProblem
from .plan import Plan
from .reference import Key, Reference, is_trajectory, passes_from
from ..techniques.reference.rfg import token_grid
from ..model.schedule import threshold
from ..model.sites import Site

_PIXELS = 8  # of a side of a latent's cell

Project = Callable[[Site, Tensor], tuple[Tensor, Tensor]]

# How exact, best first; what a reference has lost already, no plan brings back.
_RANKS = {"own": 0, "fp16": 1, "bf16": 1, "int8": 2, "fp8": 2, "int4": 3}


def recode(reference: Reference, plan: Plan, project: Project | None = None) -> Reference:
    """A copy of ``reference`` with no more than ``plan`` keeps, in memory.

    What is kept more coarsely than planned stays as it is: precision, merged tokens, and noise levels, of which the plan's
    number is taken. A trajectory is taken along where there is one and the plan wants it.
    ``project(site, hidden)`` gives K and V ``[S, W]`` of a hidden state ``[S, C]`` where the plan wants those; it needs
    the model.

    Raises :class:`ReferenceProblem` where nothing would be left, the picture's size is not known, or only the model
    could make what is wanted.
    """
    kept = _representations(reference)
    features: dict[str, Tensor] = {}
    made = {}
    for pass_name, record in reference.passes.items():
        levels = plan.chosen_of(record.levels)
        for kind, calls in record.kept.items():
            for call in sorted(calls) if kind.branch in plan.branches else ():
                for site in plan.sites if record.calls[call].sigma in levels else ():
                    key = Key(pass_name, call, site, kind)
                    if (parts := reference.feature(key)) is not None:
                        parts, made[site] = _recoded(reference, key, parts, kept.get(site), plan, project)
                        features |= {key.tensor_name(part): value for part, value in parts.items()}
    if plan.trajectory:
        quiet = _quiet(reference, plan)
        features |= {name: reference.features[name] for name in reference.features
                     if is_trajectory(name) and not name.startswith(quiet)}
    if not features:
        raise ReferenceProblem(f"Nothing that reference {reference.name!r} has would be left; choose another plan.")
    calls = {name: record.calls for name, record in reference.passes.items()}
    nbytes = sum(value.nbytes for value in features.values())
    done = replace(plan, sites=made, trajectory=any(map(is_trajectory, features)))
    manifest = {**reference.manifest, "id": uuid4().hex, "kept": {**done.manifest(), "bytes": nbytes}}
    return Reference(reference.name, manifest, passes_from(calls, features, done.percent), features, nbytes)


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
    old, new = old or _seen(what, parts), plan.kept_as(key.site, len(whole))
    aim = Representation(new.what, old.precision if _RANKS[old.precision] >= _RANKS[new.precision] else new.precision,
                         max(old.pool, new.pool))
    if aim == old:
        return parts, aim
    if aim.what != what and (what == "kv" or project is None):
        has, lacks = ("K and V", "hidden states") if what == "kv" else ("hidden states", "K and V")
        raise ReferenceProblem(f"Reference {reference.name!r} keeps {has}; only the model can make {lacks} of them.")
    found = decode(parts, whole.dtype if whole.dtype.itemsize > 1 else torch.float32, whole.device)
    if aim.what != what:
        found["k"], found["v"] = project(key.site, found["h"])
    if old.pool > 1 or aim.pool == 1:
        counts = {"w": parts["w"]} if "w" in parts else {}
        return encode(replace(aim, pool=1), found.get("h"), found.get("k"), found.get("v")) | counts, aim
    grid = _grid(reference, key.pass_name, len(whole))
    return encode(aim, found.get("h"), found.get("k"), found.get("v"), grid), aim


def _representations(reference: Reference) -> dict[Site, Representation]:
    """How each site is kept, by the manifest; without those it does not tell of."""
    found = {}
    try:
        for words, sites in reference.manifest["kept"]["sites"].items():
            found |= dict.fromkeys(map(Site.parse, sites), Representation.parse(words))
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return found


def _seen(what: str, parts: dict[str, Tensor]) -> Representation:
    """What the parts themselves tell of how they are kept."""
    dtype = parts[KINDS[what][0]].dtype
    precision = {torch.int8: "int8", torch.uint8: "int4"}.get(dtype, "own" if dtype.itemsize > 1 else "fp8")
    return Representation(what, precision, POOLS[-1] if "w" in parts else 1)


def _grid(reference: Reference, pass_name: str, tokens: int) -> tuple[int, int]:
    """Rows and columns of a layer, from the trajectory's latents or from the size of the picture in the manifest."""
    try:
        if reference.seen(pass_name):
            return token_grid(tokens, *reference.latent_size(pass_name))
        if pass_name == "base":
            return token_grid(tokens, *(int(reference.manifest[side]) // _PIXELS for side in ("height", "width")))
    except (KeyError, TypeError, ValueError):
        pass
    raise ReferenceProblem(f"Reference {reference.name!r} does not tell the size of its {pass_name} picture, so its "
                           "tokens cannot be merged; choose a plan that keeps all tokens.")
