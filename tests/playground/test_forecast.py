"""How large a Save gets is said before it is made, and is right."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lib_refdrop.settings import Settings
from lib_refdrop.webui.forecast import forecast

GENERATION = {"steps": 6, "width": 128, "height": 96, "cfg_scale": 4.0, "sampler_name": "Euler"}


@pytest.fixture
def foretell(studio):
    """What the panel says, given as the page gives it: every control's value, in API order."""
    host = studio.playground.host
    host.sd_model = studio.playground.model.pipeline
    values = {name: default for name, default, _ in Settings.controls()}
    return lambda generation=GENERATION, **settings: forecast(host, list((values | settings).values()), generation)


def told(line: str, words: str = "about") -> float:
    """The bytes that a line says."""
    number, unit = re.match(rf"A Save of \d+×\d+ in \d+ steps keeps {words} ([\d.]+) ([kMG]B)\. ", line).groups()
    return float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


def written(studio) -> int:
    return (studio.playground.refdrop_dir / "hero.safetensors").stat().st_size


@pytest.mark.parametrize("settings", [{"keep": "Exact"}, {"keep": "Balanced"}, {"keep": "Small", "layer_input": False},
                                      {"keep": "Tiny"}, {"keep": "Exact", "save_percent": 40.0}])
def test_the_line_says_what_will_be_written(studio, foretell, settings) -> None:
    line = foretell(mode="Save", **settings)
    studio.draw({"mode": "Save", "reference": "hero", **settings}, **GENERATION)
    assert told(line) == pytest.approx(written(studio), rel=0.02), line


@pytest.mark.parametrize("sampler", ["Euler a", "Heun", "DPM2 a", "DPM++ 2S a", "DPM++ SDE", "DPM++ 2M SDE Heun",
                                     "DPM++ 3M SDE", "LCM", "DDIM", "Restart"])
@pytest.mark.parametrize("keep", ["Exact", "Balanced", "Tiny"])
def test_samplers_call_the_model_as_often_as_is_counted_on(studio, foretell, sampler, keep) -> None:
    steps = 21 if sampler == "Restart" else 6
    generation = GENERATION | {"sampler_name": sampler, "steps": steps, "width": 64, "height": 64}
    line = foretell(generation, mode="Save", keep=keep)
    studio.draw({"mode": "Save", "reference": "hero", "keep": keep}, **generation)
    assert told(line) == pytest.approx(written(studio), rel=0.02), line


@pytest.mark.parametrize("second", [
    {"hr_scale": 2.0, "hr_second_pass_steps": 0, "denoising_strength": 0.6},
    {"hr_scale": 1.5, "hr_second_pass_steps": 10, "denoising_strength": 0.5},
    {"hr_resize_x": 192, "hr_resize_y": 128, "hr_second_pass_steps": 3, "denoising_strength": 0.7}])
@pytest.mark.parametrize("keep", ["Exact", "Balanced", "Tiny"])
def test_a_second_pass_is_counted_as_it_is_made(studio, foretell, second, keep) -> None:
    generation = GENERATION | {"enable_hr": True, **second}
    settings = {"mode": "Save", "reference": "hero", "keep": keep, "enabled_hr": True}
    line = foretell(generation, **settings)
    studio.draw(settings, hr_upscaler="Latent", **generation)
    assert told(line) == pytest.approx(written(studio), rel=0.02), line
    assert told(foretell(generation, mode="Save", keep=keep)) < 0.7 * told(line)  # the first pass alone


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM++ SDE", "DDIM"])
@pytest.mark.parametrize("strength", [0.4, 0.75, 1.0])
def test_img2img_makes_the_steps_that_its_strength_says(studio, foretell, sampler, strength) -> None:
    generation = GENERATION | {"sampler_name": sampler, "denoising_strength": strength, "width": 64, "height": 64}
    line = foretell(generation | {"steps": 7}, mode="Save", keep="Exact")
    settings = {"mode": "Save", "reference": "hero", "keep": "Exact"}
    studio.draw_from(np.full((64, 64, 3), 90, np.uint8), settings, **(generation | {"steps": 7}))
    assert told(line) == pytest.approx(written(studio), rel=0.02), line


def test_all_parts_of_a_prompt_are_counted(studio, foretell) -> None:
    generation = GENERATION | {"prompt": "a pirate AND grass AND snow", "negative_prompt": ""}
    line = foretell(generation, mode="Save", keep="Exact")
    studio.draw({"mode": "Save", "reference": "hero", "keep": "Exact"}, **generation)
    assert told(line) == pytest.approx(written(studio), rel=0.02), line


@pytest.mark.parametrize("keep", ["Exact", "Balanced", "Tiny"])
def test_where_nobody_knows_how_often_the_model_is_called_it_says_at_most(studio, foretell, keep) -> None:
    generation = GENERATION | {"sampler_name": "DPM adaptive", "width": 64, "height": 64}
    line = foretell(generation, mode="Save", keep=keep)
    studio.draw({"mode": "Save", "reference": "hero", "keep": keep}, **generation)
    assert 0 < written(studio) <= told(line, "at most") * 1.001 + 60, line  # as it is rounded


def test_steps_without_the_negative_half_make_it_at_most(studio, foretell) -> None:
    generation = {**GENERATION, "override_settings": {"skip_early_cond": 0.5}}
    studio.draw({"mode": "Save", "reference": "hero", "keep": "Exact"}, **generation)
    with studio.playground.host.opts.overridden({"skip_early_cond": 0.5}):
        assert 1.1 * written(studio) < told(foretell(mode="Save", keep="Exact"), "at most")


@pytest.mark.parametrize("sampler, budget", [
    ("Euler", 0.8), ("Euler", 1.2), ("Euler", 3.0), ("Euler", 9.0), ("Heun", 0.8), ("Heun", 3.0),
    ("DPM adaptive", 1.2), ("Restart", 1.2)])
def test_a_budget_is_never_exceeded(studio, foretell, sampler, budget) -> None:
    generation = GENERATION | {"sampler_name": sampler, "steps": 20}
    line = foretell(generation, mode="Save", budget=budget)
    studio.draw({"mode": "Save", "reference": "hero", "budget": budget}, **generation)
    sure = sampler != "DPM adaptive"
    assert written(studio) <= budget * 1e6, line
    if sure:
        assert told(line) == pytest.approx(written(studio), rel=0.02), line
    else:
        assert told(line, "at most") <= budget * 1e6


def test_a_budget_too_small_for_anything_is_told_before(studio, foretell) -> None:
    assert "is too little: of this generation the smallest reference takes" in foretell(mode="Save", budget=0.01)
    assert "is too little" in str(studio.refusal({"mode": "Save", "budget": 0.01}))


def test_there_is_nothing_to_say_in_use_or_of_an_empty_field(foretell) -> None:
    assert foretell(mode="Use") == ""
    assert foretell({**GENERATION, "width": None}, mode="Save") == ""  # the field was just emptied


def test_it_says_why_there_is_no_size(studio, foretell) -> None:
    nowhere = foretell(mode="Save", layer_input=False, layer_middle=False, layer_output=False)
    assert nowhere.startswith("All RefDrop layers")
    studio.playground.host.sd_model = None
    assert foretell(mode="Save") == "How large a reference gets is known with a model loaded."
