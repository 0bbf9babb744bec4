"""What ControlNet's reference preprocessors call their settings, in the words of ours::

    {"module": "reference_adain+attn", "control_mode": "Balanced", "threshold_a": 0.5, "weight": 1.0,
     "guidance_start": 0.0, "guidance_end": 0.8}

``module`` says how the reference acts; without it only the other words are read. Style fidelity is ControlNet's own
usual 0.5 where nothing is said of it; *My prompt is more important* makes it 0, *ControlNet is more important* 1.
``weight`` is how much the reference counts beside the picture itself, and of AdaIN, up to 1, how far it goes: in
ControlNet it chooses how many layers take part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import guides
from .words import SettingsError, shown

MODULES = ("reference_only", "reference_adain", "reference_adain+attn")
MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
WORDS = ("module", "control_mode", "threshold_a", "guidance_start", "guidance_end")
_FIDELITY = {MODES[1]: 0.0, MODES[2]: 1.0}
_USUAL = 0.5  # style fidelity


def translated(named: Mapping[str, Any], start: str, until: str, where: str = "") -> dict[str, Any]:
    """``named`` with ControlNet's words said in ours; as it is where there are none. ``start`` and ``until`` are what
    the part of the schedule is called there, ``where`` is what sentences begin with.

    Raises :class:`SettingsError` for a value that is not understood, and where the same is said in both ways.
    """
    ours = {name: value for name, value in named.items() if name not in WORDS}
    said: dict[str, Any] = {}
    if "module" in named:
        said |= _module(named["module"], ours.pop("weight", 1.0), where)
    if {"module", "control_mode", "threshold_a"} & set(named):
        if "threshold_a" not in named and "style_fidelity" in ours:
            said["style_fidelity"] = _fidelity(named, ours.pop("style_fidelity"), where)
        else:
            said["style_fidelity"] = _fidelity(named, named.get("threshold_a"), where)
    said |= {name: named[word] for word, name in (("guidance_start", start), ("guidance_end", until)) if word in named}
    if twice := sorted(said.keys() & ours.keys()):
        raise SettingsError(f"{where}ControlNet's words say {twice[0]} as well; take one of both out.")
    return ours | said


def _module(given: Any, weight: Any, where: str) -> dict[str, Any]:
    name = str(given).strip().lower().replace(" ", "_")
    if name not in MODULES:
        raise SettingsError(f"{where}module must be one of {', '.join(MODULES)}, not {shown(given)}.")
    weight = guides.number(weight, f"{where}weight", 0.0, guides.HEAVIEST)
    attention, adain = {"blend": guides.CONCATENATE, "weight": weight}, {"adain": min(weight, 1.0)}
    if name == "reference_adain":
        return {"blend": guides.COEFFICIENT, "rfg": 0.0, **adain}
    return attention if name == "reference_only" else {**attention, **adain}


def _fidelity(named: Mapping[str, Any], given: Any, where: str) -> float:
    """What control mode and style fidelity come to together."""
    mode = _mode(named.get("control_mode", MODES[0]), where)
    fidelity = _USUAL if given is None else guides.number(given, f"{where}style fidelity", -1.0, 1.0)
    # Less than 0 is ControlNet's way to leave it as usual.
    return _FIDELITY.get(mode, fidelity if fidelity >= 0 else _USUAL)


def _mode(given: Any, where: str) -> str:
    if not isinstance(given, bool) and str(given).strip() in ("0", "1", "2"):
        return MODES[int(given)]
    mode = next((mode for mode in MODES if mode.lower() == str(given).strip().lower()), None)
    if mode is None:
        raise SettingsError(f"{where}control_mode must be one of {', '.join(MODES)} (or 0, 1, 2), not {shown(given)}.")
    return mode
