"""What a generation is guided by: one reference or several, each with a strength, layers and a part of the schedule.

A list ``[{"name": "hero", "rfg": 0.3}, {"name": "villain", "rfg": -0.2, "from": 0.1, "until": 0.8, "layers":
"Free layout"}]``, the same as JSON, or as people type it: ``hero: 0.3; villain: -0.2``. What an entry leaves out is as
the generation's own settings say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from .model.sites import SECTIONS
from .references import names
from .references.picture import is_digest
from .techniques.reference.course import EVERYTHING, Window, parse
from .techniques.reference.masks import Mask
from .techniques.reference.strength import Strength
from .techniques.reference.word_masks import words_of
from .words import MINUS, SettingsError, shown

MOST = 8  # references at once
COEFFICIENT, CONCATENATE = BLENDS = ("Coefficient", "Concatenate")
HEAVIEST = 4.0  # weight of a reference's keys
MOST_DROPPED = 0.9  # of a reference's tokens
MASKS = ("mask", "reference_mask")
TOO_MUCH, TOO_LITTLE = 1.0, -0.5  # sums of strengths: beyond them pictures fall apart


@dataclass(frozen=True)
class Guide:
    """One reference: its name in a store ("Disk", "RAM"; empty name: the newest there), its coefficient c, the part of
    the schedule in which it acts, the expression of its layers, and two masks (images or base64 text of one; empty:
    everywhere): where in the new picture it acts, and which part of the reference is looked at. With ``blend``
    "Concatenate" the weight counts, not c. With ``mask_word`` it acts where that word of the prompt is drawn; with
    ``marked_only`` what a reference was saved with a word for is all that is looked at."""

    name: str = ""
    rfg: float = 0.3
    start: float = 0.0
    until: float = 1.0
    layers: str = EVERYTHING
    store: str = "Disk"
    mask: Any = ""
    reference_mask: Any = ""
    blend: str = COEFFICIENT
    weight: float = 1.0
    style_fidelity: float = 0.0
    dropout: float = 0.0
    adain: float = 0.0
    adain_attention: float = 0.0
    mask_word: str = ""
    marked_only: bool = True

    def strength(self, sections: tuple[str, ...] = SECTIONS) -> Strength:
        """Raises :class:`SettingsError` for an expression with a mistake, or a mask that is none."""
        mask, looks_at = (Mask.given(given, what) if given != "" else None for given, what in (
            (self.mask, "The mask"), (self.reference_mask, "The reference's mask")))
        return Strength(self.rfg, sections, parse(self.layers), Window(self.start, self.until), mask, looks_at,
                        self.weight if self.blend == CONCATENATE else None, self.style_fidelity, self.dropout,
                        self.adain, self.adain_attention, marked_only=self.marked_only)

    def __str__(self) -> str:
        """As people are told of it: 'hero' at 0.3."""
        return f"{self.name!r} {self.how}"

    @property
    def how(self) -> str:
        """The same without the name."""
        where = [self.layers] if self.layers.strip().lower() not in ("", EVERYTHING.lower()) else []
        if (self.start, self.until) != (0, 1):
            where.append(f"from {self.start:.0%} to {self.until:.0%} of the schedule")
        where += [f"where {self.mask_word!r} is"] if words_of(self.mask_word) else []
        where += ["within a mask"] if self.mask != "" else []
        where += ["a part of it"] if self.reference_mask != "" else []
        where += [f"style fidelity {self.style_fidelity:g}"] if self.style_fidelity else []
        where += [f"dropout {self.dropout:g}"] if self.dropout else []
        where += [f"AdaIN {self.adain:g}"] if self.adain else []
        where += [f"AdaIN of queries and keys {self.adain_attention:g}"] if self.adain_attention else []
        how = f"at {self.rfg:g}" if self.blend == COEFFICIENT else f"joined, weight {self.weight:g}"
        return how + (f" ({'; '.join(where)})" if where else "")


_LIST = ("[", "{")  # how JSON begins
# Called in lists as everywhere.
_ALIKE = ("blend", "weight", "style_fidelity", "dropout", "adain", "adain_attention", "mask_word", "marked_only")
_KEYS = {"name": "name", "reference": "name", "rfg": "rfg", "strength": "rfg", "from": "start", "until": "until",
         "layers": "layers", "store": "store", "mask": "mask", "reference_mask": "reference_mask",
         **{name: name for name in _ALIKE}}
_WRITTEN = {"name": "name", "rfg": "rfg", "start": "from", "until": "until", "layers": "layers", "store": "store",
            **{name: name for name in (*_ALIKE, *MASKS)}}


def read(given: Any, usual: Guide) -> list[Guide]:
    """The guides of a list or its JSON; what one leaves out is as in ``usual``. Raises :class:`SettingsError`."""
    entries = _entries(given)
    if len(entries) > MOST:
        raise SettingsError(f"A generation can be guided by {MOST} references; {len(entries)} are too many.")
    return [_guide(entry, place, usual) for place, entry in enumerate(entries, 1)]


def written(guides: Sequence[Guide], usual: Guide) -> str:
    """The text that :func:`read` makes the guides of, as people type it where that says all; empty where there are
    none. Masks stand there by their numbers (see :func:`~.references.picture.digest`): others are no text for a
    picture's parameters."""
    entries = [{key: getattr(guide, name) for name, key in _WRITTEN.items()
                if name in ("name", "rfg") or getattr(guide, name) != getattr(usual, name)} for guide in guides]
    typed = "; ".join(f"{entry['name']}: {entry['rfg']!r}" for entry in entries)
    plain = all(set(entry) == {"name", "rfg"} and ";" not in entry["name"] for entry in entries)
    return typed if plain and not typed.startswith(_LIST) else json.dumps(entries, ensure_ascii=False)


def kept_masks(text: str) -> dict[str, str]:
    """Masks by their numbers, as :func:`kept_masks_text` writes them. Raises :class:`SettingsError`."""
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, _, number = map(str.strip, part.partition(":"))
        name = name.lower().replace(" ", "_")
        if name not in MASKS or name in found or not is_digest(number):
            raise SettingsError(f"Masks by number must be like mask: 0123456789; reference mask: abcdef0123, not "
                                f"{shown(text)}.")
        found[name] = number
    return found


def kept_masks_text(numbers: Mapping[str, str]) -> str:
    """As people read it, the inverse of :func:`kept_masks`."""
    return "; ".join(f"{name.replace('_', ' ')}: {number}" for name, number in numbers.items())


def warning(guides: Sequence[Guide]) -> str:
    """A sentence where the strengths add up to more, or less, than pictures bear; empty otherwise."""
    guides = [guide for guide in guides if guide.blend == COEFFICIENT]
    total = sum(guide.rfg for guide in guides)
    if len(guides) < 2 or TOO_LITTLE <= total <= TOO_MUCH + 1e-9:
        return ""
    if total > TOO_MUCH:
        return (f"The strengths add up to {total:g}; above {TOO_MUCH:g} nothing of the picture's own attention is "
                "left, so choose less.")
    return f"The strengths add up to {total:g}; below {TOO_LITTLE:g} pictures fall apart, so choose less."


def _entries(given: Any) -> list[Any]:
    if given is None or (isinstance(given, str) and not given.strip()):
        return []
    if isinstance(given, str) and not given.lstrip().startswith(_LIST):
        return [_typed(part.strip()) for part in given.split(";") if part.strip()]
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise SettingsError(f"References must be a list like [{{\"name\": \"hero\", \"rfg\": 0.3}}], not "
                                f"{shown(given)}.") from None
    if not isinstance(given, (list, tuple)):
        raise SettingsError(f"References must be a list of names and strengths, not {shown(given)}.")
    return list(given)


def _typed(part: str) -> dict[str, Any]:
    """``hero: 0.3``, or a name alone: no name has a colon."""
    name, _, rfg = part.partition(":")
    return {"name": name, **({"rfg": rfg.strip().translate(MINUS)} if rfg.strip() else {})}


def _guide(entry: Any, place: int, usual: Guide) -> Guide:
    from .controlnet_words import translated  # which checks numbers as this file does

    which = f"Reference {place} of the list"
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, Mapping):
        raise SettingsError(f"{which} must be an object with a name, not {shown(entry)}.")
    entry = translated(entry, "from", "until", f"{which}: ")
    if unknown := sorted(map(str, set(entry) - set(_KEYS))):
        raise SettingsError(f"{which} has no setting named {shown(unknown[0])}; there are: "
                            f"{', '.join(_WRITTEN.values())}.")
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if _KEYS[key] in found:
            raise SettingsError(f"{which} says its {key} twice; take one out.")
        found[_KEYS[key]] = value
    if not isinstance(found.get("name"), str) or not names.normalised(found["name"]):
        raise SettingsError(f"{which} has no name; give it that of a saved reference.")
    found["name"] = names.checked(found["name"])
    for name, least, most in (("rfg", -1.0, 1.0), ("start", 0.0, 1.0), ("until", 0.0, 1.0),
                              ("weight", 0.0, HEAVIEST), ("style_fidelity", 0.0, 1.0), ("dropout", 0.0, MOST_DROPPED),
                              ("adain", 0.0, 1.0), ("adain_attention", 0.0, 1.0)):
        if name in found:
            found[name] = number(found[name], f"{which}: {_WRITTEN[name]}", least, most)
    if "blend" in found:
        blend = next((each for each in BLENDS if each.lower() == str(found["blend"]).strip().lower()), None)
        if blend is None:
            raise SettingsError(f"{which}: blend must be {' or '.join(BLENDS)}, not {shown(found['blend'])}.")
        found["blend"] = blend
    if "store" in found:
        store = {"ram": "RAM", "disk": "Disk"}.get(str(found["store"]).strip().lower())
        if store is None:
            raise SettingsError(f"{which}: store must be RAM or Disk, not {shown(found['store'])}.")
        found["store"] = store
    for name in MASKS:
        if not isinstance(found.get(name, ""), (str, Image.Image)):
            raise SettingsError(f"{which}: {name} must be an image as base64 text, not {shown(found[name])}.")
    for name in ("layers", "mask_word"):
        if not isinstance(found.get(name, ""), str):
            raise SettingsError(f"{which}: {name} must be text, not {shown(found[name])}.")
    if "marked_only" in found:
        found["marked_only"] = truth(found["marked_only"], f"{which}: marked_only")
    return checked(replace(usual, **found), which)


def checked(guide: Guide, which: str) -> Guide:
    """The guide itself. Raises :class:`SettingsError` where its parts do not fit together."""
    if guide.start >= guide.until:
        raise SettingsError(f"{which} acts from {guide.start:g} until {guide.until:g} of the schedule, which is no "
                            "part of it; let from be less than until.")
    parse(guide.layers)
    return guide


def truth(value: Any, what: str) -> bool:
    """Whether it is true or false, of ``what`` people know it by. Raises :class:`SettingsError` for anything else."""
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise SettingsError(f"{what} must be true or false, not {shown(value)}.")


def whole_number(value: Any, what: str, least: int, most: int) -> int:
    """As :func:`number`, of one without a fraction."""
    try:
        found = number(value, what, least, most)
    except SettingsError:
        found = 0.5
    if found != int(found):
        raise SettingsError(f"{what} must be a whole number from {least} to {most}, not {shown(value)}.")
    return int(found)


def number(value: Any, what: str, least: float, most: float) -> float:
    """The number itself, of ``what`` people know it by. Raises :class:`SettingsError` for another or none."""
    sentence = f"{what} must be a number from {least:g} to {most:g}, not {shown(value)}."
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise SettingsError(sentence)
    try:
        found = float(value.translate(MINUS) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        raise SettingsError(sentence) from None
    if not math.isfinite(found) or not least <= found <= most:
        raise SettingsError(sentence)
    return found
