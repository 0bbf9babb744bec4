"""Prompt sets: one subject in one style, in several settings. The first setting's picture is the reference."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from demo.setup import Problem

FOLDER = Path(__file__).resolve().parent
PROMPTS, DEMO = FOLDER / "prompts.json", FOLDER / "prompts-demo.json"
_FORM = 'a list of {"style": "...", "subject": "...", "settings": ["...", "...", ...]}'


@dataclass(frozen=True)
class SetOrder:
    """One picture to make."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class PromptSet:
    """A subject's settings; ``style`` comes first in every prompt and may be empty."""

    style: str
    subject: str
    settings: tuple[str, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(" ".join(part for part in (self.style, self.subject, setting) if part)
                     for setting in self.settings)

    def orders(self, seed: int) -> list[SetOrder]:
        """One for each setting; the seeds follow from ``seed`` and the prompts alone."""
        return [SetOrder(prompt, random.Random(f"{seed} {prompt} {number}").randrange(2**31))
                for number, prompt in enumerate(self.prompts)]


def load(path: Path, count: int | None = None) -> list[PromptSet]:
    """The first ``count`` sets of a file, all by default. Raises :class:`Problem`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Problem(f"The prompt sets {path} cannot be read ({error.strerror}); give another file to --prompts.") \
            from error
    except ValueError as error:
        raise Problem(f"{path} is not JSON ({error}); prompt sets are {_FORM}.") from error
    if not isinstance(found, list) or not found:
        raise Problem(f"{path} holds no prompt sets; they are {_FORM}.")
    return [_checked(each, number, path) for number, each in enumerate(found[:count], 1)]


def file_name(title: str) -> str:
    """A picture's file for a title with a method's name in it, which may have any characters."""
    return re.sub(r"[^\w .+=-]", "-", title) + ".png"


def _checked(found: object, number: int, path: Path) -> PromptSet:
    def text(value: object) -> bool:
        return isinstance(value, str) and bool(value.strip())

    if not isinstance(found, dict) or not text(found.get("subject")) or not isinstance(found.get("style", ""), str) \
            or not isinstance(found.get("settings"), list) or not all(map(text, found["settings"])):
        raise Problem(f"Set {number} of {path} is not of the form of prompt sets, which are {_FORM}.")
    settings = tuple(setting.strip() for setting in found["settings"])
    if len(set(settings)) < max(2, len(settings)):
        raise Problem(f"Set {number} of {path} needs two settings at least, each another: the first is the "
                      "reference's, and what is copied of it shows in the others.")
    return PromptSet(found.get("style", "").strip(), found["subject"].strip(), settings)
