"""Axes of the X/Y/Z plot, one for each setting that is worth comparing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modules import scripts

from ..settings import SCRIPT_NAME, Control, Settings
from .shelf import shelf

_NO_AXIS = ("store", "replace", "on_problem")
_ATTRIBUTE = "refdrop_axes"  # on a processing object: the settings that a plot's cell changes


def add_axes() -> None:
    """Adds RefDrop's axes to the plot script, where the host has one. More than once does no harm."""
    for data in getattr(scripts, "scripts_data", []):
        if str(data.path).endswith("xyz_grid.py"):
            options = data.module.axis_options
            known = {option.label for option in options}
            options += [axis for axis in _axes(data.module) if axis.label not in known]


def with_axes(p: Any, args: Sequence[Any]) -> list[Any]:
    """The script's arguments for this cell of a plot."""
    chosen = getattr(p, _ATTRIBUTE, None)
    if not chosen:
        return list(args)
    if args and isinstance(args[0], dict):
        return [{**args[0], **chosen}]
    names = [name for name, _, _ in Settings.controls()]
    return [{**dict(zip(names, args)), **chosen}]


def _axes(module: Any) -> list[Any]:
    return [module.AxisOption(f"[{SCRIPT_NAME}] {control.label}", float if isinstance(default, float) else str,
                              _apply(name), choices=_choices(name, default, control))
            for name, default, control in Settings.controls() if name not in _NO_AXIS]


def _apply(name: str) -> Callable[[Any, Any, Any], None]:
    def apply(p: Any, value: Any, values: Any) -> None:
        setattr(p, _ATTRIBUTE, {**getattr(p, _ATTRIBUTE, {}), name: value})  # a new dict: cells are copies

    return apply


def _choices(name: str, default: Any, control: Control) -> Callable[[], list[str]] | None:
    if name == "reference":
        return lambda: shelf().store("Disk").names() + shelf().store("RAM").names()
    if isinstance(default, bool):
        return lambda: ["True", "False"]
    return (lambda: list(control.choices)) if control.choices else None
