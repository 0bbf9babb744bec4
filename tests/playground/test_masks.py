"""Masks through the API: where references act in the new picture, and which part of them is looked at."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from .conftest import Made, Studio

NURSE = {"prompt": "a nurse waving on snow", "seed": 8}


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def half(left: bool, size: int = 32) -> Image.Image:
    image = Image.new("L", (size, size), 0 if left else 255)
    image.paste(255 if left else 0, (0, 0, size // 2, size))
    return image


LEFT, RIGHT, WHITE = (encoded(image) for image in (half(True), half(False), Image.new("L", (3, 5), 255)))


def moved(made: Made, plain: Made) -> tuple[float, float]:
    """How far the left and the right half of a picture are from the plain one, in grey levels."""
    change = np.abs(made.pictures[0].astype(float) - plain.pictures[0])
    middle = change.shape[1] // 2
    return change[:, :middle].mean(), change[:, middle:].mean()


@pytest.fixture
def plain(studio: Studio) -> Made:
    studio.save("hero")
    return studio.draw(**NURSE)


def test_a_reference_acts_where_the_mask_is_white(studio, plain) -> None:
    """More there and less elsewhere than without a mask; layers see the whole picture, so that some comes across."""
    full = moved(studio.draw({"reference": "hero", "rfg": 0.6}, **NURSE), plain)
    left = moved(studio.draw({"reference": "hero", "rfg": 0.6, "mask": LEFT}, **NURSE), plain)
    right = moved(studio.draw({"reference": "hero", "rfg": 0.6, "mask": RIGHT}, **NURSE), plain)
    assert left[0] / left[1] > full[0] / full[1] > right[0] / right[1]
    assert left[1] < 0.8 * full[1] and right[0] < 0.8 * full[0]


def test_white_masks_are_none_and_are_told_of(studio, plain) -> None:
    everywhere = studio.draw({"reference": "hero", "rfg": 0.6}, **NURSE)
    made = studio.draw({"reference": "hero", "rfg": 0.6, "mask": WHITE, "reference_mask": WHITE}, **NURSE)
    assert np.abs(made.pictures[0].astype(int) - everywhere.pictures[0]).max() <= 2
    assert "(within a mask; a part of it)" in made.comments
    digits = made.info["extra_generation_params"]["RefDrop mask"]
    assert len(digits) == 10 and int(digits, 16) and "RefDrop mask" not in everywhere.parameters[0]


def test_each_reference_has_masks_of_its_own(studio, plain) -> None:
    studio.save("other", prompt="a king on sand", seed=9)
    two = [{"name": "hero", "rfg": 0.6, "mask": LEFT}, {"name": "other", "rfg": 0.6, "mask": RIGHT}]
    both = studio.draw({"references": two}, **NURSE)
    alone = [studio.draw({"references": [each]}, **NURSE) for each in two]
    left = [moved(both, each)[0] for each in alone]
    right = [moved(both, each)[1] for each in alone]
    assert left[0] < left[1] and right[1] < right[0]  # each half is most like that of its own reference


def test_a_part_of_the_reference_guides_otherwise_than_the_whole(studio, plain) -> None:
    whole, part = (studio.draw({"reference": "hero", "rfg": 0.6, **more}, **NURSE)
                   for more in ({}, {"reference_mask": LEFT}))
    assert not np.array_equal(whole.pictures[0], part.pictures[0])
    wide = studio.draw({"reference": "hero", "rfg": 0.6, "mask": LEFT, "reference_mask": LEFT}, **NURSE, width=160,
                       height=104)
    assert wide.pictures[0].shape[:2] == (104, 160) and "throughout" in wide.comments


@pytest.mark.parametrize("settings, sentence", [
    ({"mask": "not base64!"}, "The mask must be an image's bytes as base64 text"),
    ({"reference_mask": base64.b64encode(b"no image").decode()}, "The reference's mask cannot be read"),
    ({"mask": encoded(Image.new("L", (8, 8), 0))}, "black everywhere"), ({"mask": 7}, "Mask must be an image"),
    ({"references": [{"name": "hero", "mask": [1]}]}, "mask must be an image as base64 text"),
])
def test_a_bad_mask_is_a_sentence(studio, plain, settings, sentence) -> None:
    problem = studio.refusal({"reference": "hero", **settings}, **NURSE)
    assert problem.status in (400, 422) and sentence in str(problem) and "\n" not in str(problem)


def test_in_a_save_masks_say_nothing(studio) -> None:
    assert "Saved reference 'hero'" in studio.draw({"mode": "Save", "reference": "hero", "mask": LEFT}).comments
