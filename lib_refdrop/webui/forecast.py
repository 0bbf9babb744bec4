"""What a Save would keep and how large that is, said in the panel before anything is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from ..hosts import find_adapter
from ..settings import Settings
from ..words import RefDropError
from .host import Host
from .plans import plan_for

# What the size depends on besides RefDrop's own settings, by the end of the element id that web UIs give it: what every
# generation has, and what some have.
NEEDED = {"steps": "steps", "width": "width", "height": "height", "cfg_scale": "cfg_scale", "sampling": "sampler_name"}
INPUTS = {**NEEDED, "denoising_strength": "denoising_strength", "hr-checkbox": "enable_hr", "hr_scale": "hr_scale",
          "hires_steps": "hr_second_pass_steps", "hr_resize_x": "hr_resize_x", "hr_resize_y": "hr_resize_y",
          "prompt": "prompt", "neg_prompt": "negative_prompt"}
TYPED = {"prompt", "negative_prompt"}  # looked at when something else changes, not with every letter


def forecast(host: Host, args: Sequence[Any], generation: Mapping[str, Any]) -> str:
    """A sentence for a Save with these settings (in API order) of a generation as the page has it now; empty in Use,
    and while a field of the page is."""
    if None in generation.values():
        return ""
    try:
        settings = Settings.from_args([True, *args[1:]])  # switched off, it is worth knowing, too
        if settings.mode == "Use":
            return ""
        model = host.loaded_model()
        if model is None:
            return "How large a reference gets is known with a model loaded."
        # The part of a processing object that says what is made with it; the playground's has rows.
        p = SimpleNamespace(sd_model=model, rows=list, branch_rows=list, **generation)
        if "denoising_strength" in generation and "enable_hr" not in generation:
            p.init_images = []  # a second pass has the same field, and a switch
        found = plan_for(p, settings, find_adapter(p), host.opts)
        if settings.reference_mask != "":  # which is not looked at here
            found = replace(found, sure=False)
    except RefDropError as problem:
        return str(problem)
    return " ".join(filter(None, [f"A Save of {p.width}×{p.height} in {p.steps} steps keeps {found}.",
                                  found.plan.explanation, found.plan.note(p.steps)]))
