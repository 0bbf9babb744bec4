"""What may stand in a reference: names, types and shapes of tensors, and the manifest beside them, checked as one.

What passes here is read later without another look: a layer in the middle of a generation is no place to find out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from ..model.rows import Kind
from ..model.sites import Block
from .manifest import size_of
from .reference import (
    FORMAT_VERSION,
    GIVEN,
    STATISTICS,
    Key,
    PassRecord,
    RecordedCall,
    is_feature,
    is_part,
    is_trajectory,
    part_name,
    trajectory_name,
)

MOST_CALLS = 2000  # of all passes; 150 steps of the slowest sampler are 450
_MOST_PASSES, _LONGEST_LINEAGE = 16, 100
_TEXTS = ("id", "name", "created", "family", "prompt", "negative_prompt", "sampler", "scheduler", "model", "model_hash")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_STEPS = (torch.int8, torch.uint8, getattr(torch, "float8_e4m3fn", None))
_LONGEST_SIDE = 2**14  # of a mask, in cells of a latent
_MOST_SIDES = 5  # of a latent: channels, frames, height and width, and one to spare


class _Tensor(Protocol):
    """A tensor, or what is known of one that is not there yet."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


def version_of(manifest: Any) -> float:
    """The format's number. Raises ValueError, TypeError or KeyError where there is none; "1.1" is newer than all we
    know."""
    text = manifest["format"]
    version = float(text) if type(text) in (int, float, str) else math.nan
    if not 1 <= version < math.inf:
        raise ValueError("its format has no number")
    return version if version == int(version) else max(version, FORMAT_VERSION + version % 1)


def passes_of(manifest: Mapping[str, Any], tensors: Mapping[str, _Tensor]) -> dict[str, PassRecord]:
    """What a manifest and the tensors beside it say about the recorded passes.

    Raises ValueError, KeyError, TypeError or AttributeError where something is named wrongly, is incomplete, belongs to
    no recorded call or has a type or shape that nothing could be made of.
    """
    calls = _calls(manifest["passes"])
    for text in _TEXTS:
        if not isinstance(manifest.get(text, ""), str):
            raise ValueError(f"its {text} is no text")
    lineage = manifest["lineage"]
    if not isinstance(lineage, str) or len(lineage) > _LONGEST_LINEAGE or not lineage.isprintable():
        raise ValueError("it has no lineage")
    percent = float(manifest.get("kept", {}).get("save_percent", 100))
    if not 0 < percent <= 100:
        raise ValueError(f"it keeps {percent} % of its schedule")
    _check_trajectory(tensors, calls, _given(manifest, calls) if version_of(manifest) > 1 else None)
    _check_parts(manifest, tensors, calls)
    kept: dict[str, dict[Kind, set[int]]] = {name: {} for name in calls}
    for key, parts in _features(tensors, calls).items():
        _check_feature(key, parts)
        kept[key.pass_name].setdefault(key.kind, set()).add(key.call)
    return {name: PassRecord(tuple(calls[name]), {kind: frozenset(found) for kind, found in kinds.items()}, percent)
            for name, kinds in kept.items()}


def _calls(passes: Any) -> dict[str, list[RecordedCall]]:
    """The recorded calls by pass; a count that no generation has is refused before anything is made of it."""
    if not isinstance(passes, dict) or len(passes) > _MOST_PASSES or sum(map(len, passes.values())) > MOST_CALLS:
        raise ValueError("it has more passes or model calls than any generation")
    found = {}
    for name, listed in passes.items():
        found[name] = [RecordedCall(_number(sigma), visit) for sigma, visit in listed]
        if any(type(call.visit) is not int or not 0 <= call.visit <= MOST_CALLS for call in found[name]):
            raise ValueError("its model calls have wrong numbers")
    return found


def _number(sigma: Any) -> float:
    if type(sigma) not in (int, float) or not 0 <= sigma < 1e6:
        raise ValueError("it has an impossible noise level")
    return float(sigma)


def _given(manifest: Mapping[str, Any], calls: Mapping[str, list]) -> dict[str, dict[Kind, list[int]]]:
    """The manifest's table of conditioning: by pass and kind, the number of each call's, −1 for none."""
    found: dict[str, dict[Kind, list[int]]] = {}
    for pass_name, kinds in manifest[GIVEN].items():
        found[pass_name] = {Kind.parse(kind): listed for kind, listed in kinds.items()}
        for listed in found[pass_name].values():
            if not isinstance(listed, list) or len(listed) != len(calls.get(pass_name, ())) or any(
                    type(number) is not int or number < -1 for number in listed):
                raise ValueError("its table of conditioning does not fit its model calls")
    return found


def _check_trajectory(tensors: Mapping[str, _Tensor], calls: Mapping[str, list],
                      given: Mapping[str, Mapping[Kind, list[int]]] | None) -> None:
    """``given`` is the manifest's table of conditioning, None in format 1."""
    for name in filter(is_trajectory, tensors):
        pass_name, second, third, fourth = name.split("/")
        if pass_name not in calls:
            raise ValueError(f"{name} belongs to no pass")
        if second == GIVEN:
            _check_given(name, third, fourth, tensors[name], given is None)
            continue
        kind, call = Kind.parse(fourth), int(second)
        if third not in ("x", "t") or not 0 <= call < len(calls[pass_name]) or trajectory_name(
                pass_name, call, third, kind) != name:
            raise ValueError(f"no latent is named {name}")
        latent, time = (tensors.get(trajectory_name(pass_name, call, part, kind)) for part in ("x", "t"))
        if latent is None or time is None:
            raise ValueError("a latent is without its timestep")
        if not 2 <= len(latent.shape) <= _MOST_SIDES or 0 in latent.shape or latent.dtype not in _FLOATS:
            raise ValueError(f"{name} is no latent")
        if math.prod(time.shape) != 1 or len(time.shape) > 1 or time.dtype in (torch.bool, torch.uint8):
            raise ValueError(f"{name} has no timestep")
        numbers = [0] * (call + 1) if given is None else given.get(pass_name, {}).get(kind)
        if numbers is None or numbers[call] < 0:
            raise ValueError("a latent is without its conditioning")


def _check_parts(manifest: Mapping[str, Any], tensors: Mapping[str, _Tensor], calls: Mapping[str, list]) -> None:
    """The masks that passes were saved with."""
    for name in filter(is_part, tensors):
        pass_name, mask = name.split("/")[0], tensors[name]
        if pass_name not in calls or name != part_name(pass_name):
            raise ValueError(f"{name} belongs to no pass")
        shape = tuple(mask.shape)
        if mask.dtype != torch.uint8 or len(shape) != 2 or 0 in shape or max(shape) > _LONGEST_SIDE:
            raise ValueError(f"{name} is no mask")
        if size_of(manifest, pass_name) != shape:
            raise ValueError(f"{name} is of another size than its picture")


def _check_given(name: str, which: str, part: str, tensor: _Tensor, by_branch: bool) -> None:
    if by_branch:
        Kind.parse(which)
    elif not which.isdecimal() or str(int(which)) != which:
        raise ValueError(f"no conditioning is named {name}")
    if part in ("x", "t") or (part == "context" and (len(tensor.shape) != 2 or 0 in tensor.shape)):
        raise ValueError(f"{name} is no conditioning")


def _features(tensors: Mapping[str, _Tensor], calls: Mapping[str, list]) -> dict[Key, dict[str, _Tensor]]:
    found: dict[Key, dict[str, _Tensor]] = {}
    for name, tensor in tensors.items():
        if is_feature(name):
            key, part = Key.parse(name)
            if not 0 <= key.call < len(calls.get(key.pass_name, ())):
                raise ValueError("features without a call")
            found.setdefault(key, {})[part] = tensor
    return found


def _check_feature(key: Key, parts: Mapping[str, _Tensor]) -> None:
    """Whether :func:`~lib_refdrop.references.codec.decode` can make a hidden state, or K and V, of these parts; or they
    are a block's statistics."""
    if isinstance(key.site, Block):
        found = parts[STATISTICS]
        if found.dtype not in _FLOATS or len(found.shape) != 2 or found.shape[0] != 2 or 0 in found.shape:
            raise ValueError(f"the statistics of {key.site} have an impossible type or shape")
        return
    wanted = ("h",) if "h" in parts else ("k", "v")
    if not set(wanted) <= set(parts) or set(parts) - {*wanted, *(f"{name}.scale" for name in wanted), "w"}:
        raise ValueError("a feature is incomplete")
    shapes = {_decoded(key, name, parts) for name in wanted}
    if len(shapes) != 1:
        raise ValueError(f"K and V of {key.site} do not fit together")
    counts = parts.get("w")
    if counts is not None and (counts.dtype != torch.uint8 or tuple(counts.shape) != next(iter(shapes))[:1]):
        raise ValueError(f"the counts of {key.site} do not fit its tokens")


def _decoded(key: Key, name: str, parts: Mapping[str, _Tensor]) -> tuple[int, ...]:
    """Tokens and width of a part once decoded."""
    kept, scale = parts[name], parts.get(f"{name}.scale")
    shape = tuple(kept.shape)
    if len(shape) != 2 or 0 in shape or kept.dtype not in (_FLOATS if scale is None else _STEPS):
        raise ValueError(f"{name} of {key.site} has an impossible type or shape")
    if scale is None:
        return shape
    if len(scale.shape) != 2 or scale.shape[0] != 2 or scale.dtype not in _FLOATS:
        raise ValueError(f"the scale of {name} of {key.site} has an impossible type or shape")
    if kept.dtype == torch.uint8:  # two numbers a byte
        width = _width(name, parts, scale)
        if shape[1] != -(-width // 2):
            raise ValueError(f"{name} of {key.site} does not fit its scale")
        shape = shape[0], width
    if scale.shape[1] != shape[0 if name == "v" else 1]:
        raise ValueError(f"the scale of {name} of {key.site} does not fit it")
    return shape


def _width(name: str, parts: Mapping[str, _Tensor], scale: _Tensor) -> int:
    """How many channels packed numbers have: V's scale goes by tokens, K's by channels."""
    if name != "v":
        return scale.shape[1]
    other = parts.get("k.scale")
    if other is None or len(other.shape) != 2:
        raise ValueError("packed values have no keys beside them")
    return other.shape[1]
