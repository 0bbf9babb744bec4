"""Masks through the API: where references act in the new picture, and which part of them is looked at."""

from __future__ import annotations

import base64
import io
import logging
import re
import time

import numpy as np
import pytest
from PIL import Image

from lib_refdrop.settings import Settings
from lib_refdrop.webui.forecast import forecast
from lib_refdrop.webui.kept_masks import KeptMasks

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


SOFT = encoded(Image.linear_gradient("L").resize((40, 24)))
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


def test_parameters_bring_their_masks_back(studio, plain) -> None:
    """Of the first reference and of each of the list, and a mask that only the request itself names counts first."""
    studio.save("other", prompt="a king on sand", seed=9)
    settings = {"reference": "hero", "rfg": 0.6, "mask": LEFT, "reference_mask": SOFT,
                "references": [{"name": "other", "rfg": 0.4, "mask": RIGHT, "reference_mask": ""}]}
    made = studio.draw(settings, **NURSE)
    again = studio.draw(infotext=made.parameters[0], **NURSE)
    assert np.array_equal(again.pictures[0], made.pictures[0]) and again.parameters == made.parameters
    bare = {name: value for name, value in settings.items() if "mask" not in name}
    bare["references"] = [{"name": "other", "rfg": 0.4}]
    assert not np.array_equal(studio.draw(bare, **NURSE).pictures[0], made.pictures[0])
    number = re.search("RefDrop mask: ([0-9a-f]{10})", made.parameters[0])[1]
    one, other = (studio.draw({"reference": "hero", "rfg": 0.6, "mask": mask}, **NURSE) for mask in (number, LEFT))
    assert np.array_equal(one.pictures[0], other.pictures[0]) and one.parameters == other.parameters
    both = studio.draw({"reference": "hero", "rfg": 0.6, "mask": RIGHT, "kept_masks": f"mask: {number}"}, **NURSE)
    assert np.array_equal(both.pictures[0],
                          studio.draw({"reference": "hero", "rfg": 0.6, "mask": RIGHT}, **NURSE).pictures[0])


def test_a_mask_that_is_gone_is_a_sentence(studio, plain) -> None:
    made = studio.draw({"reference": "hero", "rfg": 0.6, "mask": LEFT}, **NURSE)
    (path,) = (studio.playground.refdrop_dir / "masks").glob("*.png")
    assert f"RefDrop mask: {path.stem}," in made.parameters[0]
    for damage in (lambda: path.write_bytes(path.read_bytes()[:60]), lambda: Image.new("L", (4, 4), 9).save(path),
                   path.unlink):
        damage()
        for problem in (studio.refusal(infotext=made.parameters[0], **NURSE),
                        studio.refusal({"references": [{"name": "hero", "mask": path.stem}]}, **NURSE)):
            assert problem.status == 422 and f"a mask that is no longer here ({path.stem})" in str(problem)
    again = studio.draw({"reference": "hero", "rfg": 0.6, "mask": LEFT}, **NURSE)
    assert np.array_equal(again.pictures[0], made.pictures[0]) and path.is_file()
    assert studio.refusal({"mode": "Save", "picture": path.stem}).status == 422


def test_a_folder_that_takes_no_masks_is_told_of_and_stops_nothing(studio, plain) -> None:
    (studio.playground.refdrop_dir / "masks").write_text("in the way")
    made = studio.draw({"reference": "hero", "rfg": 0.6, "mask": LEFT}, **NURSE)
    assert "The mask could not be kept" in made.comments and "RefDrop note" in made.parameters[0]


def test_the_masks_used_last_are_kept(tmp_path) -> None:
    folder = KeptMasks(tmp_path / "masks", most=3)
    masks = [Image.new("L", (5, 4), grey) for grey in range(1, 6)]
    numbers = []
    for mask in [*masks[:3], masks[0], *masks[3:]]:
        numbers.append(folder.keep(mask))
        time.sleep(0.01)  # file systems tell times apart by milliseconds
    assert numbers[3] == numbers[0] and len(set(numbers)) == 5
    there = [folder.find(number) for number in (numbers[0], numbers[4], numbers[5])]
    assert [image.getpixel((0, 0)) for image in there] == [1, 4, 5]
    assert folder.find(numbers[1]) is None and folder.find(numbers[2]) is None
    assert len(list((tmp_path / "masks").iterdir())) == 3
    clear = Image.new("RGBA", (5, 4), (9, 9, 9, 4))
    assert folder.keep(clear) == numbers[4] == folder.keep(encoded(clear))  # an alpha of 4 is the same mask


@pytest.mark.parametrize("settings, sentence", [
    ({"mask": "not base64!"}, "The mask must be an image's bytes as base64 text"),
    ({"reference_mask": base64.b64encode(b"no image").decode()}, "The reference's mask cannot be read"),
    ({"mask": encoded(Image.new("L", (8, 8), 0))}, "black everywhere"), ({"mask": 7}, "Mask must be an image"),
    ({"references": [{"name": "hero", "mask": [1]}]}, "mask must be an image as base64 text"),
])
def test_a_bad_mask_is_a_sentence(studio, plain, settings, sentence) -> None:
    problem = studio.refusal({"reference": "hero", **settings}, **NURSE)
    assert problem.status in (400, 422) and sentence in str(problem) and "\n" not in str(problem)


def test_where_it_acts_says_nothing_in_a_save_and_that_is_said(studio) -> None:
    made = studio.draw({"mode": "Save", "reference": "hero", "mask": LEFT})
    assert "Saved reference 'hero'" in made.comments and "had no part in this Save" in made.comments
    assert "RefDrop mask" not in made.parameters[0]


@pytest.mark.parametrize("settings", [{"keep": "Exact"}, {"keep": "Balanced"}, {"budget": 0.5}, {"keep": "Tiny"}],
                         ids=str)
def test_a_save_with_a_mask_keeps_that_part(studio, settings, caplog) -> None:
    """Smaller, its size known before, the picture that is drawn the plain one; its parameters use it."""
    payload, save = {"width": 104, "height": 72}, {"mode": "Save", "reference": "hero", **settings}
    plain = studio.draw(**payload)
    studio.draw({**save, "reference": "whole"}, **payload)
    with caplog.at_level(logging.INFO, "RefDrop"):
        made = studio.draw({**save, "reference_mask": LEFT}, **payload)
    assert np.array_equal(made.pictures[0], plain.pictures[0])
    assert "Its mask keeps 50% of the picture." in made.comments
    whole, part = ((studio.playground.refdrop_dir / f"{name}.safetensors").stat().st_size for name in ("whole", "hero"))
    number, unit = re.findall(r"RefDrop saves (?:about|at most) ([\d.]+) ([kM]B)", caplog.text)[-1]
    assert part == pytest.approx(float(number) * {"kB": 1e3, "MB": 1e6}[unit], rel=0.02)
    if "budget" in settings:  # which keeps more of less
        assert part <= settings["budget"] * 1e6
    else:
        assert part < (1.02 if settings["keep"] == "Tiny" else 0.95) * whole
    again = studio.draw(infotext=made.parameters[0], **NURSE, **payload)
    assert "Guided by 'hero' at 0.3, throughout" in again.comments
    same = re.search("RefDrop reference mask: ([0-9a-f]{10})", made.parameters[0])[1]
    assert "keeps 50%" in studio.draw({**save, "reference_mask": same}, **payload).comments


def test_the_panel_says_at_most_where_a_mask_will_leave_less(studio) -> None:
    host = studio.playground.host
    host.sd_model = studio.playground.model.pipeline
    values = {name: default for name, default, _ in Settings.controls()} | {"mode": "Save", "keep": "Exact"}
    page = {"steps": 4, "width": 64, "height": 64, "cfg_scale": 4.0, "sampler_name": "Euler"}
    assert "keeps about" in forecast(host, list(values.values()), page)
    values["kept_masks"] = "reference mask: 0123456789"
    assert "keeps at most" in forecast(host, list(values.values()), page)
