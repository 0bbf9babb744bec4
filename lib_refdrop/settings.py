"""Every setting in one place: panel, API order, infotext, XYZ axes and validation read this dataclass."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from PIL import Image

from . import controlnet_words, guides
from .model.sites import SECTIONS
from .references import names
from .references.inversion import NOISING, WAYS
from .references.picture import is_digest
from .techniques.reference.course import EVERYTHING, PRESETS
from .words import SettingsError, shown

SCRIPT_NAME = "RefDrop"
_OLDER = 9  # arguments of the older extension
NO_SEQUENCE, FIRST, PREVIOUS, BOTH = SEQUENCES = ("Off", "First", "Previous", "First and previous")

# What a picture's parameters always say, by mode, whatever the defaults are or will be.
_DECIDES = {"Use": ("rfg", "mode", "store", "reference"),
            "Save": ("mode", "store", "reference", "keep", "save_percent")}


@dataclass(frozen=True)
class Control:
    """How a setting is shown, checked and written into an image's parameters."""

    label: str
    help: str
    choices: tuple[str, ...] | None = None
    minimum: float = -math.inf  # a number's range
    maximum: float = math.inf
    step: float | None = None
    suggestions: tuple[str, ...] = ()  # of a text that may be another
    infotext: str | None = None
    tier: str = "important"
    picture: bool = False  # an image or base64 text of one: uploaded, never pasted, and no axis of a plot


def _setting(default, label: str, help: str, **control):
    return field(default=default, metadata={"ui": Control(label, help, **control)})


@dataclass(frozen=True)
class Settings:
    """Field order is the order of the API's arguments; the first nine are the older extension's and stay."""

    enabled: bool = _setting(False, "Enabled", "Off leaves every image exactly as it would be without RefDrop.")
    rfg: float = _setting(
        0.3, "RFG coefficient", "How much the reference guides: 0.2 to 0.4 for consistency, −0.3 for diversity, 0 for "
        "none.", minimum=-1.0, maximum=1.0, step=0.05, infotext="RefDrop RFG")
    mode: str = _setting("Use", "Mode", "Save keeps this generation as a reference; Use is guided by one.",
                         choices=("Save", "Use"), infotext="RefDrop mode")
    enabled_hr: bool = _setting(False, "Enabled for hires. fix", "Save and use the second pass as well.",
                                infotext="RefDrop hires", tier="advanced")
    store: str = _setting("Disk", "Keep in", "RAM forgets when the program ends; Disk is one file a reference.",
                          choices=("RAM", "Disk"), infotext="RefDrop store")
    save_percent: float = _setting(100.0, "Save percentage", "How much of the schedule to keep, from its noisy start.",
                                   minimum=0.0, maximum=100.0, step=1.0, infotext="RefDrop save percentage",
                                   tier="advanced")
    layer_input: bool = _setting(True, "Input layers", "Save or use the down-sampling half.",
                                 infotext="RefDrop input layers", tier="advanced")
    layer_middle: bool = _setting(True, "Middle layer", "Save or use the middle block.",
                                  infotext="RefDrop middle layer", tier="advanced")
    layer_output: bool = _setting(True, "Output layers", "Save or use the up-sampling half.",
                                  infotext="RefDrop output layers", tier="advanced")
    reference: str = _setting("", "Reference", "Save: the name to give, made from the prompt and seed if empty. Use: "
                              "which one, the newest if empty.", infotext="RefDrop reference")
    replace: bool = _setting(False, "Replace", "Save over a reference of the same name; otherwise a new name is found.",
                             infotext="RefDrop replace", tier="advanced")
    on_problem: str = _setting("Stop", "If it cannot guide", "Stop the run, or continue it without guidance; the "
                               "reason is shown either way.", choices=("Stop", "Continue"),
                               infotext="RefDrop on problem", tier="advanced")
    keep: str = _setting("Balanced", "What to keep",
                         "Exact is everything, gigabytes for SDXL; Balanced and Small are a fraction of that; Tiny is "
                         "only what it takes to compute everything again, before the first Use.",
                         choices=("Exact", "Balanced", "Small", "Tiny"), infotext="RefDrop kept", tier="advanced")
    budget: float = _setting(0.0, "At most (MB)",
                             "Keeps the best that fits into so many megabytes; 0 does as What to keep says.",
                             minimum=0.0, maximum=100000.0, step=1.0, infotext="RefDrop budget",
                             tier="advanced")
    references: str = _setting("", "Further references", "Guide as well, each with its own strength: hero: 0.3; "
                               "villain: −0.2. Less than 0 makes unlike it.", infotext="RefDrop references",
                               tier="advanced")
    layers: str = _setting(EVERYTHING, "Layers that guide", "Free layout leaves pose and place free, Style only takes "
                           "colours and textures; or write your own, like output.0=0, middle=0.5; 0.1-0.8.",
                           suggestions=tuple(PRESETS), infotext="RefDrop layers", tier="advanced")
    use_from: float = _setting(0.0, "Guide from", "The part of the schedule at which guidance begins; 0 is its noisy "
                               "start.", minimum=0.0, maximum=1.0, step=0.05, infotext="RefDrop from", tier="advanced")
    use_until: float = _setting(1.0, "Guide until", "The part of the schedule at which guidance ends; 1 is its end.",
                                minimum=0.0, maximum=1.0, step=0.05, infotext="RefDrop until", tier="advanced")
    picture: Any = _setting("", "Picture", "Save: this picture becomes the reference, not the one that is drawn; the "
                            "prompt is its caption.", infotext="RefDrop picture", tier="picture", picture=True)
    picture_seed: int = _setting(0, "Picture seed", "Of the noise that is added to the picture.", minimum=0,
                                 maximum=2**32 - 1, infotext="RefDrop picture seed", tier="picture")
    mask: Any = _setting("", "Mask", "Use: white is where references act in the new picture; black leaves it alone. A "
                         "transparent picture's alpha serves as well.", infotext="RefDrop mask", tier="masks",
                         picture=True)
    reference_mask: Any = _setting("", "Mask of the reference", "White is what may be looked at of the reference's "
                                   "picture; a Save keeps no more than that.", infotext="RefDrop reference mask",
                                   tier="masks", picture=True)
    blend: str = _setting(guides.COEFFICIENT, "Blend", "Coefficient is RFG, by the coefficient above; Concatenate is "
                          "reference-only, by the weight below: the picture looks at itself and the reference alike.",
                          choices=guides.BLENDS, infotext="RefDrop blend", tier="advanced")
    weight: float = _setting(1.0, "Weight", "Concatenate: how much the reference counts; 1 is as much as the picture "
                             "itself.", minimum=0.0, maximum=guides.HEAVIEST, step=0.05, infotext="RefDrop weight",
                             tier="advanced")
    style_fidelity: float = _setting(0.0, "Style fidelity", "How much the negative prompt is spared; CFG then makes "
                                     "the reference's effect stronger.", minimum=0.0, maximum=1.0, step=0.05,
                                     infotext="RefDrop style fidelity", tier="advanced")
    dropout: float = _setting(0.0, "Token dropout", "The share of the reference that a layer does without at a step, "
                              "another part each time, by the picture's seed.", minimum=0.0,
                              maximum=guides.MOST_DROPPED, step=0.05, infotext="RefDrop dropout", tier="advanced")
    sequence: str = _setting(NO_SEQUENCE, "Sequence", "Use: each picture of a batch count, or of a folder in img2img's "
                             "Batch, is guided by the first, the one before it, or both; the coefficient is theirs "
                             "together. The reference guides the first picture alone; without one that is drawn plain.",
                             choices=SEQUENCES, infotext="RefDrop sequence", tier="sequence")
    sequence_name: str = _setting("", "Name of the sequence", "Later generations with this name go on with it, from "
                                  "memory; a new name begins one. Empty: it ends with its generation.",
                                  infotext="RefDrop sequence name", tier="sequence")
    adain: float = _setting(0.0, "AdaIN", "How far colours and contrasts of the model's blocks are brought to the "
                            "reference's; with the coefficient at 0 by this alone.", minimum=0.0, maximum=1.0,
                            step=0.05, infotext="RefDrop AdaIN", tier="advanced")
    adain_attention: float = _setting(0.0, "AdaIN of queries and keys", "StyleAligned: how far a layer's own queries "
                                      "and keys are made like the reference's before they look at it.", minimum=0.0,
                                      maximum=1.0, step=0.05, infotext="RefDrop AdaIN of queries and keys",
                                      tier="advanced")
    kept_masks: str = _setting("", "Masks by number", "Filled in from a picture's parameters; masks above it count "
                               "before it.", tier="masks")
    picture_by: str = _setting(NOISING, "Picture by", "Noising adds noise to the picture; Inversion asks the model "
                               "which noise it would have come from, at one more model call a step.", choices=WAYS,
                               infotext="RefDrop picture by", tier="picture")
    mask_word: str = _setting("", "Mask by a word", "Use: references act where this word of the prompt is drawn, as "
                              "earlier steps show it; several words act where any of them is.",
                              infotext="RefDrop mask word", tier="words")
    reference_mask_word: str = _setting("", "Mark by a word", "Save, and in a sequence: the reference remembers where "
                                        "this word of its prompt is drawn.", infotext="RefDrop reference mask word",
                                        tier="words")
    marked_only: bool = _setting(True, "Only what was marked", "Use: of a reference that was saved with a word nothing "
                                 "else is looked at.", infotext="RefDrop marked only", tier="words")

    @classmethod
    def controls(cls) -> list[tuple[str, Any, Control]]:
        """Name, default and :class:`Control` of every setting, in API order."""
        return [(setting.name, setting.default, setting.metadata["ui"]) for setting in fields(cls)]

    @classmethod
    def from_args(cls, args: Sequence[Any]) -> Settings:
        """Checked settings from a script's argument list.

        A short list leaves the rest at their defaults; further arguments are ignored, as web UIs do; one dict in the
        first place names settings instead of counting them. Raises :class:`SettingsError` with one sentence.
        """
        if args and isinstance(args[0], Mapping):
            named = controlnet_words.translated(args[0], "use_from", "use_until")
            unknown = sorted(map(str, set(named) - {setting.name for setting in fields(cls)}))
            if unknown:
                known = ", ".join(setting.name for setting in fields(cls))
                raise SettingsError(f"RefDrop has no setting named {shown(unknown[0], 40)}; it has: {known}; of "
                                    f"ControlNet's it understands {', '.join(controlnet_words.WORDS)}.")
        else:
            named = {setting.name: value for setting, value in zip(fields(cls), args)}
            if len(args) == _OLDER:  # the older extension's own list, which had only one way to keep a reference
                named["keep"] = "Exact"
        if not isinstance(named.get("references"), (str, type(None))):
            named["references"] = _as_text(named["references"])
        controls = cls.controls()
        if not check_value(named.get("enabled", False), *controls[0][1:]):
            return cls()  # off: whatever the other values are, they are not used
        settings = cls(**{name: check_value(named.get(name, default), default, control)
                          for name, default, control in controls})
        settings = settings._with_kept_masks()
        settings._check_together()
        return replace(settings, reference=settings._checked_name(), sequence_name=settings._checked_sequence())

    def _with_kept_masks(self) -> Settings:
        """Masks that are given by number in their own places."""
        numbers = guides.kept_masks(self.kept_masks)
        named: dict[str, Any] = {name: number for name, number in numbers.items() if getattr(self, name) == ""}
        return replace(self, kept_masks="", **named)

    def _check_together(self) -> None:
        if not self.sections:
            raise SettingsError("All RefDrop layers are off; switch on input, middle or output layers.")
        if self.mode == "Save" and self.save_percent == 0:
            raise SettingsError("Save percentage is 0, so nothing would be kept; choose more than 0.")
        if self.mode == "Use":
            self.guided_by()
        if self.mode == "Use" and self.picture != "":
            raise SettingsError("A picture can be saved, not used at once; save it as a reference first, or take the "
                                "picture out.")
        if self.mode == "Save" and self.in_sequence:
            raise SettingsError("A sequence guides its later pictures, which is mode Use; choose Use, or switch the "
                                "sequence off.")

    @property
    def in_sequence(self) -> bool:
        return self.sequence != NO_SEQUENCE

    @property
    def main_guide(self) -> guides.Guide:
        """The guide of the scalar settings. Raises :class:`SettingsError`."""
        return guides.checked(guides.Guide(self.reference, self.rfg, self.use_from, self.use_until, self.layers,
                                           self.store, self.mask, self.reference_mask, self.blend, self.weight,
                                           self.style_fidelity, self.dropout, self.adain, self.adain_attention,
                                           self.mask_word, self.marked_only),
                              "Guidance")

    def guided_by(self) -> list[guides.Guide]:
        """What a Use is guided by: the reference of the scalar settings, and those of ``references``. Without a name,
        the former is the newest there, or where there is a list, or a sequence, none.

        Raises :class:`SettingsError`.
        """
        main = self.main_guide
        listed = guides.read(self.references, main)
        found = [main, *listed] if names.normalised(self.reference) or not (listed or self.in_sequence) else listed
        most = max(len(found), len(listed) + (2 if self.sequence == BOTH else self.in_sequence))
        if most > guides.MOST:
            raise SettingsError(f"A generation can be guided by {guides.MOST} references; {most} are too many.")
        return found

    def of_guides(self, used: Sequence[guides.Guide]) -> Settings:
        """The same settings in their one form: the first guide in the scalars, the others in the list."""
        main = used[0]
        return replace(self, reference=main.name, rfg=main.rfg, use_from=main.start, use_until=main.until,
                       layers=main.layers, store=main.store, blend=main.blend, weight=main.weight,
                       style_fidelity=main.style_fidelity, dropout=main.dropout, adain=main.adain,
                       adain_attention=main.adain_attention, mask=main.mask, reference_mask=main.reference_mask,
                       mask_word=main.mask_word, marked_only=main.marked_only,
                       references=guides.written(used[1:], main))

    def _checked_name(self) -> str:
        """The reference's name in its one form; empty where there is none."""
        if not names.normalised(self.reference):
            return ""
        found = names.new(self.reference) if self.mode == "Save" and not self.replace else names.checked(self.reference)
        if found == "RefDrop reference":  # hosts write a name that is its own heading without a value
            raise SettingsError(f"{found!r} cannot be a reference's name: pictures could not tell it; choose another.")
        return found

    def _checked_sequence(self) -> str:
        """The sequence's name in its one form; empty where there is none."""
        if not self.in_sequence or not names.normalised(self.sequence_name):
            return ""
        try:
            found = names.new(self.sequence_name)
        except SettingsError as problem:
            raise SettingsError(str(problem).replace("a reference's name", "a sequence's name")) from None
        if found == "RefDrop sequence name":  # as of a reference's
            raise SettingsError(f"{found!r} cannot be a sequence's name: pictures could not tell it; choose another.")
        return found

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections switched on, of input, middle and output."""
        on = (self.layer_input, self.layer_middle, self.layer_output)
        return tuple(section for section, chosen in zip(SECTIONS, on) if chosen)

    def infotext(self, used: str, pictures: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Parameters to write into an image that was guided by, or saved as, reference ``used``; ``pictures`` are the
        words that stand for pictures and masks, by setting.

        What decides always stands there: how strongly and by what it was guided, or how it was kept; the rest where it
        differs from its default.
        """
        texts: dict[str, Any] = {}
        masks = {name: value if is_digest(value := getattr(self, name)) else "" for name in guides.MASKS}
        told = {"reference": used, **masks, "picture": "", **(pictures or {})}
        for name, default, control in self.controls():
            value = told.get(name, getattr(self, name))
            decides = name in _DECIDES[self.mode] or (told["picture"] and name == "picture_seed")
            if control.infotext and (decides or value != default):
                texts[control.infotext] = value
        if self.mode == "Save":
            for key in ("RefDrop RFG", "RefDrop references"):
                texts.pop(key, None)  # nothing was guided
        elif self.blend == guides.CONCATENATE:
            del texts["RefDrop RFG"]  # which was not used
            texts["RefDrop weight"] = self.weight
        if self.in_sequence and not used:
            del texts["RefDrop reference"]  # hosts cannot read an empty value
        return texts


def _as_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise SettingsError(f"References must be a list of names and strengths, not {shown(value)}.") from None


def check_value(value: Any, default: Any, control: Control) -> Any:
    """A setting's value in its own type. Raises :class:`SettingsError` for one that cannot be used."""
    if isinstance(default, bool):
        return guides.truth(value, control.label)
    if isinstance(default, float):
        return guides.number(value, control.label, control.minimum, control.maximum)
    if isinstance(default, int):
        return guides.whole_number(value, control.label, int(control.minimum), int(control.maximum))
    if control.picture:
        return _check_picture(value, control.label)
    text = "" if value is None else value
    if not isinstance(text, str):
        raise SettingsError(f"{control.label} must be text, not {shown(value)}.")
    if control.choices is None:
        return text
    for choice in control.choices:
        if choice.lower() == text.strip().lower():
            return choice
    raise SettingsError(f"{control.label} must be {' or '.join(control.choices)}, not {shown(value)}.")


def _check_picture(value: Any, label: str) -> Any:
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if not isinstance(value, Image.Image):
        raise SettingsError(f"{label} must be an image as base64 text, not {shown(value)}.")
    return value
