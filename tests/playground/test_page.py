"""The page without a browser: what stands on it, and what a click on Generate gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from demo.characters import NAMED, prompt
from demo.vocabulary import write_vocabulary
from PIL import Image

from lib_refdrop.playground import DEFAULT_MODEL
from lib_refdrop.playground.page import new_page
from lib_refdrop.playground.vocabulary import Vocabulary


@pytest.fixture
def page(studio):
    return new_page(studio.playground)


def by_id(page, name):
    return next(block for block in page.blocks.values() if getattr(block, "elem_id", None) == name)


def click(page, tab, **values):
    """Pictures, parameters, info and what is said after Generate, with other values in some of the fields."""
    button = by_id(page, f"{tab}_generate")
    event = next(fn for fn in page.fns.values() if (button._id, "click") in fn.targets)
    given = [values.get((control.elem_id or "").removeprefix(f"{tab}_"), getattr(control, "value", None))
             for control in event.inputs]
    return event.fn(*given)


def test_both_tabs_have_the_panel(page):
    for tab in ("txt2img", "img2img"):
        for name in (
            f"{tab}_prompt",
            f"{tab}_generate",
            f"refdrop_{tab}",
            f"refdrop_{tab}_mode",
            f"generation_info_{tab}",
            f"html_log_{tab}",
            f"{tab}_gallery",
        ):
            assert by_id(page, name)


def test_the_page_says_which_words_the_model_knows_and_offers_prompts(page):
    for tab in ("txt2img", "img2img"):
        said = by_id(page, f"{tab}_words").value
        assert all(word in said for words in NAMED.values() for word in words if word not in ("up", "down", "wide"))
        examples = [row[0] for row in by_id(page, f"{tab}_examples").samples]
        assert len(examples) >= 3 and prompt("pirate", "up", "grass") in examples


def test_a_click_draws(page):
    pictures, parameters, info, said = click(page, "txt2img", prompt="a king on snow", steps=2, seed=3)
    assert np.asarray(Image.open(pictures[0])).shape == (128, 128, 3)
    assert (
        parameters.startswith("a king on snow\nSteps: 2") and Image.open(pictures[0]).info["parameters"] == parameters
    )
    assert json.loads(info)["all_seeds"] == [3] and "<p>" not in said


def test_a_click_draws_from_a_picture(page):
    before = Image.new("RGB", (128, 128), "white")
    mask = Image.new("RGB", (128, 128), "black")
    mask.paste("white", (0, 0, 64, 128))
    pictures, parameters, _, _ = click(page, "img2img", prompt="a king", steps=4, image=before, mask=mask, mask_blur=0)
    made = np.asarray(Image.open(pictures[0]))
    assert (made[:, 64:] == 255).all() and made[:, :64].min() < 200 and "Denoising strength: 0.75" in parameters


def test_a_click_draws_a_second_pass(page):
    pictures, *_ = click(page, "txt2img", prompt="a king", steps=2, enable_hr=True, hr_scale=1.5)
    assert Image.open(pictures[0]).size == (192, 192)


def test_a_fault_is_a_sentence_on_the_page(page):
    _, parameters, info, said = click(page, "img2img", prompt="<b>")
    assert parameters == "" and "init_images" in said and list(json.loads(info)) == ["at"]


def test_words_that_mean_nothing_to_the_model_are_said(page):
    *_, said = click(page, "txt2img", prompt="a red (pirate:1.2) AND [castle|king] on grass", steps=1)
    assert said.count("does not know") == 1 and "red, castle." in said


def test_the_vocabulary_is_what_captions_had(tmp_path):
    write_vocabulary(tmp_path)
    assert (tmp_path / "prompts.json").read_bytes() == (DEFAULT_MODEL / "prompts.json").read_bytes()
    known = Vocabulary.of(tmp_path)
    assert (
        not known.unknown(*known.examples) and known.unknown("a red Pirate, BREAK") == "This model does not know red."
    )


@pytest.mark.parametrize("content", [None, b"rubbish", b"[]", b'{"examples": 3, "groups": {}, "words": []}', b"\xff"])
def test_models_that_say_nothing_of_their_words_are_fine(tmp_path, content):
    if content is not None:
        (tmp_path / "prompts.json").write_bytes(content)
    assert (
        Vocabulary.of(tmp_path) == Vocabulary() and not Vocabulary().unknown("anything") and not Vocabulary().sentence
    )
