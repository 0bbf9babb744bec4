"""What a judge of pictures answers, and the one that needs no weights: the demo model's reader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from demo.characters import NAMED, POSE_WORDS
from demo.measure import PLACES, SKY, SUBJECT
from demo.reader import Reader
from demo.setup import Problem
from PIL import Image


class Judge(Protocol):
    """Looks at every picture once, then answers about what it saw. ``uses`` says with what, for the report.

    ``uncut`` counts the pictures in which it could not tell a subject from its background.
    """

    uses: Mapping[str, str]
    uncut: int

    def look(self, picture: Image.Image) -> Any:
        """What is seen in an RGB picture."""

    def subject_distance(self, one: Any, other: Any) -> float:
        """0 where the subjects are the same, whatever is behind them."""

    def background_distance(self, one: Any, other: Any) -> float:
        """0 where what is behind the subjects is the same."""

    def prompt_score(self, seen: Any, prompt: str) -> float:
        """How well a picture shows what its prompt says; more is better."""

    def copied(self, seen: Any, prompt: str, reference: Any, reference_prompt: str) -> bool:
        """Whether a picture shows the reference's setting in place of its own."""


class DemoJudge:
    """The bundled reader in place of the weights: the same questions, asked of attributes."""

    uses = {"subject_distance": "share of the figure's unnamed attributes (shirt, trousers, hair, length, skin) that "
                                "differ, by the demo model's reader, in place of DreamSim of the subject",
            "background_distance": "whether ground and sky differ, in place of DreamSim of the background",
            "prompt_score": "share of named attributes that have the prompt's word, in place of CLIP-T",
            "copy_rate": "pose or ground are the reference's although the prompt names another"}

    def __init__(self, model: Path) -> None:
        """Raises :class:`demo.reader.ReaderUnusable`."""
        self._reader, self.uncut = Reader.load(model), 0

    def look(self, picture: Image.Image) -> dict[str, str]:
        return self._reader.read([picture])[0]

    def subject_distance(self, one: Mapping[str, str], other: Mapping[str, str]) -> float:
        return float(np.mean([one[name] != other[name] for name in SUBJECT]))

    def background_distance(self, one: Mapping[str, str], other: Mapping[str, str]) -> float:
        return float(np.mean([one[name] != other[name] for name in ("ground", SKY)]))

    def prompt_score(self, seen: Mapping[str, str], prompt: str) -> float:
        return float(np.mean([seen[name] == word for name, word in named(prompt).items()]))

    def copied(self, seen: Mapping[str, str], prompt: str, reference: Mapping[str, str], reference_prompt: str) -> bool:
        wanted = named(prompt)
        return any(seen[name] == reference[name] != wanted[name] for name in PLACES if name in wanted)


def named(prompt: str) -> dict[str, str]:
    """The attributes that a prompt of the demo model names. Raises :class:`Problem` where it names none."""
    words = prompt.replace(",", " ").split()
    text = f" {' '.join(words)} "
    found = {name: word for name in ("kind", "ground") for word in NAMED[name] if word in words}
    for pose, said in POSE_WORDS.items():
        if f" {said} " in text:
            found["pose"] = pose
    if not found:
        raise Problem(f"The demo model knows nothing of {prompt!r}, so its reader cannot judge a picture of it; use "
                      "--reader weights.")
    return found
