"""What a model says of its own prompts: ``prompts.json`` in its folder, where it knows few words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_WORD = re.compile(r"[^\W\d_]+")
_SYNTAX = re.compile(r"<[^<>]*>|\b(?:AND|BREAK)\b")
_MOST = 5  # unknown words that a sentence names


@dataclass(frozen=True)
class Vocabulary:
    """Prompts to begin with, words to choose from by what they name, and all ``words`` the model knows; empty where a
    model does not say."""

    examples: Sequence[str] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    words: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: Path) -> Vocabulary:
        """The one in a model's folder; an empty one where there is none, or none that can be read."""
        try:
            said = json.loads((model / "prompts.json").read_text("utf-8"))
            return cls(
                list(map(str, said["examples"])),
                {str(name): list(map(str, words)) for name, words in said["groups"].items()},
                frozenset(map(str, said["words"])),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    @property
    def sentence(self) -> str:
        """Which words the model knows."""
        if not self.words:
            return ""
        return ("This model knows these words and no others. "
                + "; ".join(f"{name.capitalize()}: {', '.join(words)}" for name, words in self.groups.items()) + ".")

    def unknown(self, *prompts: str) -> str:
        """A sentence about words that mean nothing to the model; empty where there are none."""
        if not self.words:
            return ""
        said = dict.fromkeys(word.lower() for prompt in prompts for word in _WORD.findall(_SYNTAX.sub(" ", prompt)))
        strange = [word for word in said if word not in self.words]
        if not strange:
            return ""
        return f"This model does not know {', '.join(strange[:_MOST])}{' and more' if len(strange) > _MOST else ''}."
