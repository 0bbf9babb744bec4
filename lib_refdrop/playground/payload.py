"""What ``POST /sdapi/v1/txt2img`` takes: every field with its default, checked with one sentence each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from modules import sd_samplers

from .errors import ApiError

_LARGEST_SEED = 2**63 - 1


class Field(NamedTuple):
    """One field: its default (which also says its type) and its range."""

    default: Any
    least: float | None = None
    most: float | None = None
    multiple: int = 1


FIELDS: dict[str, Field] = {
    "prompt": Field(""),
    "negative_prompt": Field(""),
    "seed": Field(-1, -1, _LARGEST_SEED),
    "steps": Field(20, 1, 150),
    "cfg_scale": Field(7.0, 1, 30),
    "width": Field(512, 64, 2048, 8),
    "height": Field(512, 64, 2048, 8),
    "sampler_name": Field("Euler"),
    "scheduler": Field("Automatic"),
    "batch_size": Field(1, 1, 8),
    "n_iter": Field(1, 1, 100),
    "send_images": Field(True),
}

# Fields of web UIs that would change the picture and that the playground does not have: refused, never ignored.
NOT_HERE: dict[str, tuple[Any, ...]] = {
    "enable_hr": (False, None), "styles": ([], None), "subseed_strength": (0, None), "restore_faces": (False, None),
    "tiling": (False, None), "refiner_checkpoint": (None, ""), "script_name": (None, "", "None"),
    "override_settings": ({}, None), "infotext": (None, ""), "s_churn": (0, None), "eta": (0, None),
}


def check(payload: Any, size: int = 512) -> dict[str, Any]:
    """The payload with defaults filled in and numbers in their types; ``size`` is the model's own, in pixels.

    Fields nobody knows are ignored, as web UIs do. Raises :class:`ApiError` 422 with one sentence.
    """
    if not isinstance(payload, Mapping):
        raise ApiError(422, "The request must be a JSON object with fields such as prompt and steps.")
    for name, harmless in NOT_HERE.items():
        if name in payload and payload[name] not in harmless:
            raise ApiError(422, f"The playground has no {name}; leave the field out.")
    given = {name: value for name, value in payload.items() if value is not None}
    given = {"width": size, "height": size, **given}
    if "sampler_index" in given:
        given.setdefault("sampler_name", given["sampler_index"])  # the older name of the field
    values = {name: _checked(name, given.get(name), field) for name, field in FIELDS.items()}
    try:
        sampler, schedule = sd_samplers.find(values["sampler_name"], values["scheduler"])
    except sd_samplers.UnknownSampler as error:
        raise ApiError(422, str(error)) from None
    values["sampler_name"], values["scheduler"] = sampler.name, schedule
    if values["seed"] + values["batch_size"] * values["n_iter"] > _LARGEST_SEED:
        raise ApiError(422, f"seed must be smaller for {values['batch_size'] * values['n_iter']} images.")
    return values


def _checked(name: str, value: Any, field: Field) -> Any:
    if value is None:
        return field.default
    kind = type(field.default)
    if kind is str or kind is bool:
        if not isinstance(value, kind):
            raise ApiError(422, f"{name} must be {'text' if kind is str else 'true or false'}, not {value!r}.")
        return value
    number = _number(value)
    wanted = f"a {'whole number' if kind is int else 'number'} from {field.least:g} to {field.most:g}"
    if field.multiple > 1:
        wanted += f" and a multiple of {field.multiple}"
    fits = number is not None and field.least <= number <= field.most and (kind is float or number == int(number))
    if not fits or (field.multiple > 1 and number % field.multiple):
        raise ApiError(422, f"{name} must be {wanted}, not {value!r}.")
    return kind(number)


def _number(value: Any) -> int | float | None:
    """The number meant by a JSON number or by text that is one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, int):
        return value
    try:
        return int(value) if isinstance(value, str) else _finite(value)
    except ValueError:
        return _finite(value)


def _finite(value: float | str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
