"""Masks by a word, through the API: from a prompt's words to where they are, at Save and at Use."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lib_refdrop.model.rows import Row
from lib_refdrop.playground.prompts.encoder import TextEncoder
from lib_refdrop.techniques.reference.masks import Mask
from lib_refdrop.webui.prompt_words import Prompts, positions, word_in
from lib_refdrop.words import SettingsError

from .conftest import Studio

NURSE = {"prompt": "a nurse waving on snow", "seed": 8}
MARKED = {"mode": "Save", "reference": "hero", "keep": "Exact", "reference_mask_word": "pirate"}


def prompts(encoder: TextEncoder, *versions: list[tuple[int, str]], step: int = 0) -> Prompts:
    """Of one image, each part in its versions."""
    return Prompts([list(versions)], lambda: step, encoder.tokens)


def test_a_word_is_where_the_model_is_told_it(playground) -> None:
    encoder = TextEncoder(playground.model.pipeline)
    ids = encoder.tokens("a (pirate:1.3) on snow, [pirate] BREAK a pirate")
    word = encoder.tokens("pirate")[1:2]
    assert positions(ids, word) == [2, 6, 79] and len(ids) == 154  # behind BREAK another chunk of 77 begins
    assert positions([9, 1, 2, 1, 2, 3], [1, 2]) == [1, 2, 3, 4] and positions([1, 2], []) == []
    several = word_in("snow, pirate", lambda: prompts(encoder, [(4, "a pirate on snow")]))
    assert several is not None and several.places(Row("cond")) == [[4], [2]]
    assert word_in(" , ", lambda: pytest.fail("nothing to be asked")) is None


def test_a_prompt_that_changes_has_the_word_for_as_long_as_it_says_it(playground) -> None:
    encoder = TextEncoder(playground.model.pipeline)
    versions = [(2, "a pirate"), (4, "a nurse")]
    for step, wanted in ((0, []), (2, []), (3, [[2]]), (9, [[2]])):
        found = word_in("nurse", lambda step=step: prompts(encoder, versions, [(4, "snow")], step=step))
        assert found is not None and found.places(Row("cond")) == wanted and found.places(Row("cond", 0, 1)) == []
        assert not found.places(Row("cond", 1))
    with pytest.raises(SettingsError, match="The word 'king', which is to mark .* is not in the prompt"):
        word_in("nurse king", lambda: prompts(encoder, versions))


def kept(studio: Studio, name: str) -> Mask:
    with studio.playground.shelf.store("Disk").using(name) as reference:
        mask = Mask.read(reference.manifest["marked"]["base"])
    assert mask is not None
    return mask


def test_a_reference_remembers_where_its_word_is_and_nothing_else_is_looked_at(studio) -> None:
    saved = studio.draw(MARKED)
    assert np.array_equal(saved.pictures[0], studio.draw().pictures[0])
    assert "RefDrop reference mask word: pirate" in saved.parameters[0]
    mask = kept(studio, "hero").picture.numpy()
    figure = np.array(Image.fromarray((mask * 255).astype(np.uint8)).resize((128, 128)))[30:90, 50:78] > 127
    assert figure.mean() > 0.6 and 0.1 < mask.mean() < 0.6  # the figure stands in the middle
    part = studio.draw({"reference": "hero", "rfg": 0.6}, **NURSE)
    whole = studio.draw({"reference": "hero", "rfg": 0.6, "marked_only": False}, **NURSE)
    listed = studio.draw({"references": [{"name": "hero", "rfg": 0.6, "marked_only": False}]}, **NURSE)
    assert not np.array_equal(part.pictures[0], whole.pictures[0])
    assert np.array_equal(listed.pictures[0], whole.pictures[0])
    assert "RefDrop marked only: False" in whole.parameters[0] and "marked only" not in part.parameters[0]


def test_a_given_picture_is_marked_by_its_captions_word(studio) -> None:
    import random

    from demo.characters import draw, draw_character, prompt
    from demo.pictures import as_text
    from demo.words import figure_of, overlap
    who = draw_character(random.Random(3), "chef")
    studio.draw({**MARKED, "keep": "Tiny", "reference_mask_word": "chef",
                 "picture": as_text(draw(who, random.Random(3)))}, prompt=prompt(who.kind, who.pose, who.ground))
    assert overlap(kept(studio, "hero").picture.numpy(), figure_of(who, 3)) > 0.6
    assert "throughout" in studio.draw({"reference": "hero"}, **NURSE).comments


def test_a_reference_acts_where_the_new_pictures_word_is(studio) -> None:
    studio.save("hero")
    everywhere = studio.draw({"reference": "hero", "rfg": 0.6}, **NURSE)
    made = studio.draw({"reference": "hero", "rfg": 0.6, "mask_word": "nurse"}, **NURSE)
    plain = studio.draw(**NURSE)
    assert "'hero' at 0.6 (where 'nurse' is), in 3 of 4 model calls" in made.comments
    assert "RefDrop mask word: nurse" in made.parameters[0]
    corner = [np.abs(each.pictures[0].astype(float) - plain.pictures[0])[:40, :24].mean()
              for each in (made, everywhere)]
    assert corner[0] < 0.7 * corner[1]  # of the sky


def test_a_word_that_is_not_there_is_a_sentence_and_one_may_go_on_without(studio) -> None:
    studio.save("hero")
    for settings in ({"reference": "hero", "mask_word": "wizard"}, {**MARKED, "reference_mask_word": "wizard"},
                     {"reference": "hero", "mask_word": "nurs"}):  # a part of a word
        problem = studio.refusal(settings, **NURSE)
        assert problem.status in (400, 422) and "is not in the prompt" in str(problem) and "\n" not in str(problem)
    plain = studio.draw(**NURSE)
    made = studio.draw({"reference": "hero", "mask_word": "wizard", "on_problem": "Continue"}, **NURSE)
    assert np.array_equal(made.pictures[0], plain.pictures[0]) and "not in the prompt" in made.parameters[0]
    assert "Guided" in studio.draw({"reference": "hero", "mask_word": "nurse"},
                                   prompt="a [pirate:nurse:0.3] on snow", steps=6).comments
