"""What ``POST /sdapi/v1/txt2img`` and ``img2img`` take: every field with its default and range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import pictures
from .errors import ApiError, shown
from .fields import Field, check
from .sampling import catalogue

_LARGEST_SEED = 2**63 - 1
_UPSCALED = 2048  # pixels, the longest side that a second pass may have

COMMON: dict[str, Field] = {
    "prompt": Field(""),
    "negative_prompt": Field(""),
    "seed": Field(-1, -1, _LARGEST_SEED),
    "subseed": Field(-1, -1, _LARGEST_SEED),
    "subseed_strength": Field(0.0, 0, 1),
    "steps": Field(20, 1, 150),
    "cfg_scale": Field(7.0, 1, 30),
    "width": Field(512, 64, 2048, 8),
    "height": Field(512, 64, 2048, 8),
    "sampler_name": Field("Euler"),
    "scheduler": Field("Automatic"),
    "batch_size": Field(1, 1, 8),
    "n_iter": Field(1, 1, 100),
    "eta": Field(0.0, 0, 1, optional=True),
    "s_min_uncond": Field(0.0, 0, 15, optional=True),
    "override_settings": Field({}),
    "override_settings_restore_afterwards": Field(True),
    "send_images": Field(True),
}
TXT2IMG: dict[str, Field] = {
    **COMMON,
    "enable_hr": Field(False),
    "denoising_strength": Field(0.75, 0, 1),
    "hr_scale": Field(2.0, 1, 4),
    "hr_resize_x": Field(0, 0, _UPSCALED, 8),
    "hr_resize_y": Field(0, 0, _UPSCALED, 8),
    "hr_upscaler": Field("Latent"),
    "hr_second_pass_steps": Field(0, 0, 150),
    "hr_sampler_name": Field(""),
    "hr_scheduler": Field(""),
    "hr_prompt": Field(""),
    "hr_negative_prompt": Field(""),
    "hr_cfg": Field(0.0, 1, 30, optional=True),
}
IMG2IMG: dict[str, Field] = {
    **COMMON,
    "denoising_strength": Field(0.75, 0, 1),
    "init_images": Field([]),
    "mask": Field(""),
    "resize_mode": Field(0, 0, 1),
    "mask_blur": Field(4, 0, 64),
    "inpainting_fill": Field(0, 0, 3),
    "inpainting_mask_invert": Field(0, 0, 1),
    "initial_noise_multiplier": Field(0.0, 0, 2, optional=True),
}
KNOWN = (*TXT2IMG, *IMG2IMG, "alwayson_scripts", "infotext", "sampler_index")  # what an answer repeats of a request

# Fields of web UIs that would change the picture and that the playground does not have: refused, never ignored.
NOT_HERE: dict[str, tuple[Any, ...]] = {
    "styles": ([], None),
    "restore_faces": (False, None),
    "tiling": (False, None),
    "refiner_checkpoint": (None, "", "None"),
    "hr_checkpoint_name": (None, "", "Use same checkpoint"),
    "firstphase_width": (0, None),
    "firstphase_height": (0, None),
    "script_name": (None, "", "None"),
    "s_churn": (0, None),
    "s_noise": (1, None),
    "s_tmin": (0, None),
    "inpaint_full_res": (False, 0, None),
    "latent_mask": (None,),
    "image_cfg_scale": (None, 1.5),
    "seed_resize_from_w": (-1, 0, None),
    "seed_resize_from_h": (-1, 0, None),
}


def known(payload: Any, fields: Mapping[str, Field]) -> dict[str, Any]:
    """A request's fields that are not None. Fields nobody knows are left out, as web UIs do; those that would change
    the picture and are not here raise :class:`ApiError` 422."""
    if not isinstance(payload, Mapping):
        raise ApiError(422, "The request must be a JSON object with fields such as prompt and steps.")
    for name, harmless in NOT_HERE.items():
        if name in payload and payload[name] not in harmless:
            raise ApiError(422, f"The playground has no {name}; leave the field out.")
    given = {name: value for name, value in payload.items() if name in fields and value is not None}
    if payload.get("sampler_index") is not None:
        given.setdefault("sampler_name", payload["sampler_index"])  # the older name of the field
    return given


def checked(
    given: Mapping[str, Any], fields: Mapping[str, Field], size: tuple[int, int] = (512, 512)
) -> dict[str, Any]:
    """Every field, with defaults filled in and values in their types; ``size`` is the default width and height.

    Raises :class:`ApiError` 422 with one sentence.
    """
    values = {name: check(name, given.get(name), field) for name, field in fields.items()}
    for name, side in zip(("width", "height"), size):
        values[name] = check(name, given.get(name, side), fields[name])
    values["sampler_name"], values["scheduler"] = _sampler(values["sampler_name"], values["scheduler"])
    count = values["batch_size"] * values["n_iter"]
    for name in ("seed", "subseed"):
        if values[name] + count > _LARGEST_SEED:
            raise ApiError(422, f"{name} must be smaller for {count} images.")
    if values.get("enable_hr"):
        _check_second_pass(values)
    return values


def _check_second_pass(values: dict[str, Any]) -> None:
    if values["hr_upscaler"] not in pictures.UPSCALERS:
        raise ApiError(
            422, f"There is no upscaler {shown(values['hr_upscaler'])}; choose {', '.join(pictures.UPSCALERS)}."
        )
    for side in ("width", "height"):
        if not values["hr_resize_x"] and not values["hr_resize_y"] and values[side] * values["hr_scale"] > _UPSCALED:
            raise ApiError(422, f"{side} × hr_scale must be at most {_UPSCALED} pixels.")
    _sampler(values["hr_sampler_name"] or values["sampler_name"], values["hr_scheduler"] or values["scheduler"])


def _sampler(name: str, schedule: str) -> tuple[str, str]:
    try:
        sampler, found = catalogue.find(name, schedule)
    except catalogue.UnknownSampler as error:
        raise ApiError(422, str(error)) from None
    return sampler.name, found
