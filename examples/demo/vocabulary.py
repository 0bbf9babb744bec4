"""Writes what a page says of the demo model's prompts: its words, and prompts to begin with."""

from __future__ import annotations

import json
from pathlib import Path

from .characters import NAMED, POSE_WORDS, WORDS, prompt

NAME = "prompts.json"
_EXAMPLES = (
    ("pirate", "up", "grass"),
    ("wizard", "waving", "snow"),
    ("chef", "wide", "bricks"),
    ("nurse", "down", "sand"),
)
_SAID = set("a on in arms waving up down wide of picture drawing portrait comic".split())


def write_vocabulary(model: Path) -> None:
    """``prompts.json`` in the model's folder: ``examples``, ``groups`` of words to choose from, and all ``words`` that
    captions had."""
    groups = {"kind": list(NAMED["kind"]), "pose": list(POSE_WORDS.values()), "ground": list(NAMED["ground"])}
    known = {word for words in groups.values() for text in words for word in text.split()} | (_SAID & set(WORDS))
    said = {"examples": [prompt(*each) for each in _EXAMPLES], "groups": groups, "words": sorted(known)}
    (model / NAME).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
