"""Settings into an image's parameters and back: pasting fills every field, the unwritten ones with their defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..guides import MASKS, kept_masks_text
from ..references.picture import is_digest
from ..settings import Control, Settings, check_value
from ..words import SettingsError

PROBLEM = "RefDrop problem"  # the key under which an image, or an API's answer, says why it was not guided
NOTE = "RefDrop note"  # and under which it says what was not as asked for
_MARK = "RefDrop mode"  # stands in the parameters of every image that RefDrop had a part in


def written_keys() -> set[str]:
    """Every key that RefDrop writes."""
    return {control.infotext for _, _, control in Settings.controls() if control.infotext} | {PROBLEM, NOTE}


def paste_function(name: str, default: Any, control: Control) -> Callable[[Mapping[str, str]], Any]:
    """What a host calls with pasted parameters: the value for this setting, or None to leave the field as it is.

    Parameters of a picture that was made while saving turn on the use of what was saved: to save it again, there is the
    switch.
    """

    def value(parameters: Mapping[str, str]) -> Any:
        if name == "kept_masks":
            return _masks(parameters)
        if name == "enabled":
            return _MARK in parameters
        text = _whole(parameters, control.infotext)
        if _MARK not in parameters or control.infotext is None or control.picture:
            return None
        if text is None and name == "reference" and "RefDrop sequence" in parameters:
            return ""  # written where one guided the sequence's first picture
        if text is None:
            return None if control.tier == "important" else default
        try:
            found = check_value(text, default, control)
            return "Use" if name == "mode" else found
        except SettingsError:  # parameters edited by hand; the panel keeps what it has
            return None

    return value


def is_ours(parameters: Mapping[str, str]) -> bool:
    """Whether they are of a picture that RefDrop had a part in."""
    return _MARK in parameters


def _masks(parameters: Mapping[str, str]) -> str | None:
    """The masks of a picture, by their numbers. Those of a Save are inside the reference."""
    if _MARK not in parameters:
        return None
    if parameters[_MARK] == "Save":
        return ""
    keys = {name: control.infotext for name, _, control in Settings.controls() if name in MASKS}
    return kept_masks_text({name: parameters[key] for name, key in keys.items()
                            if key and is_digest(parameters.get(key))})


def _whole(parameters: Mapping[str, str], key: str | None) -> str | None:
    """A value as it was written: hosts cut one like 512x768 in two."""
    if key is None:
        return None
    if key in parameters:
        return parameters[key]
    sides = [parameters.get(f"{key}-{side}") for side in (1, 2)]
    return "x".join(map(str, sides)) if None not in sides else None
