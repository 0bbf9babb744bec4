"""The methods that ``evaluate.py --methods`` compares: a line each, a name and what RefDrop's settings are for it.

A method is a dictionary from the name of each strength to the settings of a Use at that strength, as the API takes
them; :func:`over` writes the usual ones. Nothing else has to be told: a new line is in the figure and in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .setup import Problem

Method = Mapping[str, Mapping[str, Any]]


def over(**settings: Any) -> dict[str, dict[str, Any]]:
    """A method of these settings; the one that has a tuple of values is its strength.

    Raises ValueError where more than one has.
    """
    varied = [name for name, value in settings.items() if isinstance(value, tuple)]
    if not varied:
        return {"": settings}
    (strength,) = varied
    return {f"{strength} {value}": {**settings, strength: value} for value in settings[strength]}


# In order of strength, or of what else the line is drawn along. Names without commas, for the command line.
METHODS: dict[str, Method] = {
    "RFG": over(rfg=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
    "RFG free layout": over(rfg=(0.3, 0.6), layers="Free layout"),
    "RFG style only": over(rfg=(0.3, 0.6), layers="Style only"),
    "RFG late": over(rfg=(0.3, 0.6), layers="0.2-1"),
    "RFG dropout": over(rfg=(0.3, 0.6), dropout=0.5),
    "RFG fine": over(rfg=(0.3, 0.6), style_fidelity=1.0),
    "Concatenate": over(weight=(0.5, 1, 2), blend="Concatenate"),
    "Concatenate balanced": over(weight=(0.5, 1, 2), blend="Concatenate", style_fidelity=0.5),
    "Concatenate fine": over(weight=(0.5, 1, 2), blend="Concatenate", style_fidelity=1.0),
    "AdaIN": over(adain=(0.5, 1), rfg=0.0),
    "AdaIN and concatenate": over(adain=(0.5, 1), blend="Concatenate"),
    "Q/K AdaIN": over(rfg=(0.3, 0.6), adain_attention=1.0),
    "Q/K AdaIN and concatenate": over(weight=(0.5, 1, 2), blend="Concatenate", adain_attention=1.0),
}


def chosen(names: str, methods: Mapping[str, Method] = METHODS) -> dict[str, Method]:
    """The methods of a list like ``"RFG,other"``, all where it is empty. Raises :class:`Problem`."""
    known = {name.casefold(): name for name in methods}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name.casefold() not in known]:
        raise Problem(f"There is no method named {unknown[0]!r}; there is: {', '.join(methods)}.")
    return {known[name.casefold()]: methods[known[name.casefold()]] for name in wanted} or dict(methods)


def check(methods: Mapping[str, Method]) -> None:
    """Raises :class:`Problem` for settings that this RefDrop does not have or take, before anything is drawn."""
    from lib_refdrop.settings import Settings
    from lib_refdrop.words import SettingsError
    for name, strengths in methods.items():
        for strength, settings in strengths.items():
            try:
                Settings.from_args([{"enabled": True, "mode": "Use", **settings}])
            except SettingsError as error:
                at = f" at {strength}" if strength else ""
                raise Problem(f"The method {name!r} cannot be drawn{at}: {error}") from error
