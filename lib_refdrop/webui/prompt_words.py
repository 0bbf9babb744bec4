"""Where words stand in the prompts of a pass, as the model is told them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..model.rows import Row
from ..techniques.reference.word_masks import Places, Word, words_of
from ..words import SettingsError, shown

_WRITTEN_LATER = ("__", "{", "<wildcard")  # into prompts, by other extensions
_CHUNK = 77  # tokens that a text encoder reads at once, start and end among them
Versions = Sequence[tuple[int, str]]  # what a prompt says, each up to a step


@dataclass(frozen=True)
class Prompts:
    """A pass's prompts, as a host tells of them: ``versions`` of each image, of each of its parts joined by AND;
    ``step()`` is the number of the model call that runs, as prompts are scheduled by it; ``tokens(text)`` gives a text
    as the model is told it: chunks of 77, each with its start and end."""

    versions: Sequence[Sequence[Versions]]
    step: Callable[[], int]
    tokens: Callable[[str], Sequence[int]]


def word_in(text: str, of_pass: Callable[[], Prompts]) -> Word | None:
    """The words as a mask needs them, None where there are none; ``of_pass()`` gives the prompts of the pass that
    begins. Raises :class:`SettingsError` for a word that none of them has."""
    if not words_of(text):
        return None
    prompts = of_pass()
    wanted = {word: _inside(prompts.tokens(word)) for word in words_of(text)}
    known: dict[str, Places] = {}

    def places(said: str) -> Places:
        if said not in known:
            tokens = prompts.tokens(said)
            known[said] = [found for word in wanted.values() if (found := positions(tokens, word))]
        return known[said]

    texts = {said: None for image in prompts.versions for part in image for _, said in part}
    for word, tokens in wanted.items():
        if not any(positions(prompts.tokens(said), tokens) for said in texts):
            raise _missing(word, next(iter(texts), ""))

    def at(row: Row) -> Places:
        if row.image >= len(prompts.versions) or row.part >= len(prompts.versions[row.image]):
            return ()
        versions, step = prompts.versions[row.image][row.part], prompts.step()
        return places(next((said for last, said in versions if step <= last), versions[-1][1]))

    return Word(text, at)


def check_words(text: str, p: Any) -> None:
    """Raises :class:`SettingsError` where it is plain before anything is drawn that a word is in no prompt of a
    processing object; of prompts that other extensions write (wildcards) nothing is known then."""
    prompts = [str(each) for each in (*(getattr(p, "all_prompts", None) or (p.prompt,)),
                                      *((p.hr_prompt,) if getattr(p, "enable_hr", False) else ()))]
    if any(mark in prompt for prompt in prompts for mark in _WRITTEN_LATER):
        return
    for word in words_of(text):
        if not any(word.lower() in prompt.lower() for prompt in prompts):
            raise _missing(word, prompts[0])


def positions(prompt: Sequence[int], word: Sequence[int]) -> list[int]:
    """The positions of a word's tokens among a prompt's, at every place where it stands."""
    if not word:
        return []
    return [place for start in range(len(prompt) - len(word) + 1) if list(prompt[start:start + len(word)]) == list(word)
            for place in range(start, start + len(word))]


def _inside(tokens: Sequence[int]) -> list[int]:
    """The text's own tokens, of a text that fits into a chunk: without start and end."""
    inside, end = list(tokens[1:_CHUNK]), tokens[-1]
    return inside[:inside.index(end)] if end in inside else inside


def _missing(word: str, prompt: str) -> SettingsError:
    return SettingsError(f"The word {shown(word)}, which is to mark a part of the picture, is not in the prompt "
                         f"({shown(prompt)}); write it as it stands there, or take it out of the masks.")
