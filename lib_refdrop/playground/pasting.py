"""A request's ``infotext`` field: settings of a picture, scripts' among them, that the request does not name itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import infotext
from .errors import ApiError
from .fields import Field, check_text
from .scripts import ScriptRunner

_FIELDS = {
    "Prompt": "prompt", "Negative prompt": "negative_prompt", "Steps": "steps", "Sampler": "sampler_name",
    "Schedule type": "scheduler", "CFG scale": "cfg_scale", "Seed": "seed", "Size-1": "width", "Size-2": "height",
    "Batch size": "batch_size", "Variation seed": "subseed", "Variation seed strength": "subseed_strength",
    "Denoising strength": "denoising_strength", "Mask blur": "mask_blur", "Hires upscale": "hr_scale",
    "Hires upscaler": "hr_upscaler", "Hires steps": "hr_second_pass_steps", "Hires resize-1": "hr_resize_x",
    "Hires resize-2": "hr_resize_y", "Hires sampler": "hr_sampler_name", "Hires schedule type": "hr_scheduler",
    "Hires prompt": "hr_prompt", "Hires negative prompt": "hr_negative_prompt", "Hires CFG Scale": "hr_cfg",
}
_OPTIONS = {"Clip skip": "CLIP_stop_at_last_layers", "NGMS": "s_min_uncond", "NGMS all steps": "s_min_uncond_all",
            "Skip Early CFG": "skip_early_cond"}
_HIRES = ("Hires upscale", "Hires upscaler", "Hires resize-1")


def paste(text: Any, given: Mapping[str, Any], table: Mapping[str, Field]) -> tuple[dict[str, str], dict[str, Any]]:
    """The parameters in ``text`` by name, and the request's fields that follow from them; what is ``given`` wins.

    Raises :class:`ApiError` 422 where it is no text.
    """
    if text in (None, ""):
        return {}, {}
    if not isinstance(text, str):
        raise ApiError(422, "infotext must be the text of a picture's parameters.")
    parameters = infotext.parse(check_text("infotext", text))
    found: dict[str, Any] = {field: parameters[name] for name, field in _FIELDS.items()
                             if name in parameters and field in table}
    if "enable_hr" in table and "Denoising strength" in parameters and any(name in parameters for name in _HIRES):
        found["enable_hr"] = True
    options = {option: _number(parameters[name]) for name, option in _OPTIONS.items() if name in parameters}
    if options:
        own = given.get("override_settings")
        found["override_settings"] = {**options, **(own if isinstance(own, dict) else {})}
    return parameters, found


def paste_script_args(parameters: Mapping[str, str], runner: ScriptRunner) -> list:
    """Every script's arguments: the defaults, with what the scripts themselves read from the parameters."""
    args = list(runner.default_args)
    for script in runner.alwayson_scripts if parameters else []:
        for component, key in script.infotext_fields or []:
            value = key(parameters) if callable(key) else parameters.get(key)
            places = [place for place, control in enumerate(runner.inputs, 1) if control is component]
            if component.value is None:
                continue  # web UIs read a text in the type of the component's value, and this one has none
            if places and value is not None and not isinstance(value, dict):  # a dict is an update of the page
                args[places[0]] = _like(args[places[0]], value)
    return args


def _like(default: Any, value: Any) -> Any:
    """A pasted value in the type of the control's default; the default where it is none."""
    if isinstance(default, bool):
        return value in (True, "True", "true")
    if not isinstance(default, (int, float)):
        return value
    try:
        return type(default)(value)
    except (TypeError, ValueError):
        return default


def _number(text: str) -> Any:
    """A number where it is one, for options check their own type."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)
