"""How large a Save gets is said before it is made, and is right."""

from __future__ import annotations

import re

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


@pytest.mark.parametrize("settings", [{"keep": "Exact"}, {"keep": "Balanced"}, {"keep": "Small", "layer_input": False},
                                      {"keep": "Tiny"}, {"keep": "Exact", "save_percent": 40.0}, {"budget": 1.0}])
def test_the_line_says_what_will_be_written(studio, foretell, settings) -> None:
    line = foretell(mode="Save", **settings)
    studio.draw({"mode": "Save", "reference": "hero", **settings}, **GENERATION)
    number, unit = re.match(r"A Save of 128×96 in 6 steps keeps about ([\d.]+) ([kM]B)\. ", line).groups()
    written = (studio.playground.refdrop_dir / "hero.safetensors").stat().st_size
    assert float(number) * {"kB": 1e3, "MB": 1e6}[unit] == pytest.approx(written, rel=0.02), line


def test_there_is_nothing_to_say_in_use_or_of_an_empty_field(foretell) -> None:
    assert foretell(mode="Use") == ""
    assert foretell({**GENERATION, "width": None}, mode="Save") == ""  # the field was just emptied


def test_it_says_why_there_is_no_size(studio, foretell) -> None:
    nowhere = foretell(mode="Save", layer_input=False, layer_middle=False, layer_output=False)
    assert nowhere.startswith("All RefDrop layers")
    studio.playground.host.sd_model = None
    assert foretell(mode="Save") == "How large a reference gets is known with a model loaded."
