"""A host that draws instead of sampling: quick, and what a reference does to its pictures is known exactly."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "examples"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from demo.characters import UNNAMED, Character, draw
from demo.client import Answer, RequestRefused

POSES = {"arms up": "up", "arms down": "down", "arms wide": "wide", "waving": "waving"}


class DrawingHost:
    """Answers payloads with drawings.

    Guided with c > 0, so many of the unnamed attributes are the reference's, in order; with c < 0, none is.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Character] = {}
        self.payloads: list[dict] = []

    def txt2img(self, payload: dict) -> Answer:
        self.payloads.append(payload)
        settings = payload.get("alwayson_scripts", {}).get("RefDrop", {"args": [{}]})["args"][0]
        who = self.who(payload["prompt"], payload["seed"])
        text = ""
        if settings.get("enabled") and settings["mode"] == "Save":
            self.kept[settings["reference"]] = who
        elif settings.get("enabled"):
            if settings["reference"] not in self.kept:
                raise RequestRefused(f"There is no reference {settings['reference']!r}; save one first.")
            who = self.guided(who, self.kept[settings["reference"]], settings["rfg"])
            text = f", RefDrop RFG: {settings['rfg']}"
        file = io.BytesIO()
        draw(who, random.Random(payload["seed"])).save(file, "PNG")
        return Answer([file.getvalue()], [json.dumps(who.attributes()) + text], 0.01)

    @staticmethod
    def who(prompt: str, seed: int) -> Character:
        """Whoever a prompt like "a pirate arms up on grass" names; the seed decides the rest."""
        words = prompt.split()
        rng = random.Random(seed)
        return Character(kind=words[1], pose=POSES[" ".join(words[2:-2])], ground=words[-1],
                         **{name: rng.choice(values) for name, values in UNNAMED.items()})

    @staticmethod
    def guided(who: Character, reference: Character, c: float) -> Character:
        values = who.attributes()
        for number, (name, words) in enumerate(UNNAMED.items()):
            theirs = getattr(reference, name)
            if number < round(c * len(UNNAMED)):
                values[name] = theirs
            elif c < 0 and values[name] == theirs:
                values[name] = next(word for word in words if word != theirs)
        return Character(**values)


@pytest.fixture
def host() -> DrawingHost:
    return DrawingHost()
