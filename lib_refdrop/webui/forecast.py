"""What a Save would keep and how large that is, said in the panel before anything is made."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from modules import shared

from ..words import RefDropError
from ..hosts import find_adapter
from ..settings import Settings
from ..words import said
from .plans import plan_for

# What the size depends on besides RefDrop's own settings, by the end of the element id that web UIs give it.
INPUTS = {"steps": "steps", "width": "width", "height": "height", "cfg_scale": "cfg_scale", "sampling": "sampler_name"}


def forecast(args: Sequence[Any], generation: Mapping[str, Any]) -> str:
    """A sentence for a Save with these settings (in API order) of a generation as the page has it now; empty in Use, and
    while a field of the page is."""
    if None in generation.values():
        return ""
    try:
        settings = Settings.from_args([True, *args[1:]])  # switched off, it is worth knowing, too
        if settings.mode == "Use":
            return ""
        # The part of a processing object that says what is made with it; the playground's has branch_rows.
        p = SimpleNamespace(sd_model=_loaded_model(), branch_rows=list, **generation)
        adapter = find_adapter(p)
        plan, size = plan_for(p, settings, adapter.lineage(p), adapter.element_size(p))
    except RefDropError as problem:
        return str(problem) if _loaded_model() is not None else "How large a reference gets is known with a model loaded."
    return f"A Save of {p.width}×{p.height} in {p.steps} steps keeps about {said(size)}. {plan.explanation}"


def _loaded_model() -> Any:
    """The model, if there is one: asking web UIs' ``shared`` for it would load it."""
    data = getattr(sys.modules.get("modules.sd_models"), "model_data", None)
    return shared.sd_model if data is None else data.sd_model
