"""Axes of the X/Y/Z plot, one for each setting that is worth comparing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..settings import SCRIPT_NAME, Control, Settings
from ..words import MINUS
from .host import Host
from .shelf import Shelf

_NO_AXIS = ("store", "replace", "on_problem", "sequence_name", "kept_masks")
_ATTRIBUTE = "refdrop_axes"  # on a processing object: the settings that a plot's cell changes


def add_axes(host: Host, shelf: Shelf) -> None:
    """Adds RefDrop's axes to the plot script, where the host has one. More than once does no harm."""
    for module in host.plot_scripts():
        options = module.axis_options
        known = {option.label for option in options}
        options += [axis for axis in _axes(module, shelf) if axis.label not in known]


def with_axes(p: Any, args: Sequence[Any]) -> list[Any]:
    """The script's arguments for this cell of a plot. An axis of RefDrop's switches it on: nobody compares what is
    off."""
    chosen = getattr(p, _ATTRIBUTE, None)
    if not chosen:
        return list(args)
    chosen = {"enabled": True, **chosen}
    if args and isinstance(args[0], dict):
        return [{**args[0], **chosen}]
    names = [name for name, _, _ in Settings.controls()]
    return [{**dict(zip(names, args)), **chosen}]


def _axes(module: Any, shelf: Shelf) -> list[Any]:
    return [module.AxisOption(f"[{SCRIPT_NAME}] {control.label}", _type(default),
                              partial(_apply, name), choices=_choices(name, default, control, shelf))
            for name, default, control in Settings.controls() if name not in _NO_AXIS and not control.picture]


def _type(default: Any) -> Callable[[Any], Any]:
    if isinstance(default, float):
        return _number
    return int if isinstance(default, int) and not isinstance(default, bool) else str


def is_cell(p: Any) -> bool:
    """Whether ``p`` is a cell of a plot that compares settings of ours: one that cannot be drawn is no fault of the
    others."""
    return bool(getattr(p, _ATTRIBUTE, None))


class _Number:
    """The type of an axis of numbers: reads one as people write it, with a typographic minus too. It equals ``float``,
    for plots ask ``type == float`` before they read ranges such as ``0-1 [5]``."""

    def __call__(self, text: Any) -> float:
        return float(str(text).translate(MINUS))

    def __eq__(self, other: object) -> bool:
        return other is float or isinstance(other, _Number)

    def __hash__(self) -> int:
        return hash(float)


_number = _Number()


def _apply(name: str, p: Any, value: Any, values: Any) -> None:
    setattr(p, _ATTRIBUTE, {**getattr(p, _ATTRIBUTE, {}), name: value})  # a new dict: cells are copies


def _choices(name: str, default: Any, control: Control, shelf: Shelf) -> Callable[[], list[str]] | None:
    if name == "reference":
        return lambda: shelf.names("Disk") + shelf.names("RAM")
    if isinstance(default, bool):
        return lambda: ["True", "False"]
    choices = control.choices or control.suggestions
    return (lambda: list(choices)) if choices else None
