"""What a Save would keep and how large that is, said in the panel before anything is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ..hosts import find_adapter
from ..settings import Settings
from ..words import RefDropError, said
from .host import Host
from .plans import plan_for

# What the size depends on besides RefDrop's own settings, by the end of the element id that web UIs give it.
INPUTS = {"steps": "steps", "width": "width", "height": "height", "cfg_scale": "cfg_scale", "sampling": "sampler_name"}


def forecast(host: Host, args: Sequence[Any], generation: Mapping[str, Any]) -> str:
    """A sentence for a Save with these settings (in API order) of a generation as the page has it now; empty in Use, and
    while a field of the page is."""
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
        adapter = find_adapter(p)
        plan, size = plan_for(p, settings, adapter.lineage(p), adapter.element_size(p))
    except RefDropError as problem:
        return str(problem)
    return f"A Save of {p.width}×{p.height} in {p.steps} steps keeps about {said(size)}. {plan.explanation}"
