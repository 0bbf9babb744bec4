"""The picture of an expression: what is drawn where, and one sentence where there is a mistake."""

from __future__ import annotations

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from lib_refdrop.webui.strength_map import SHOWN, strength_map

NO_MODEL = SimpleNamespace(loaded_model=lambda: None)
USUAL = {"layers": "Everything", "use_from": 0.0, "use_until": 1.0, "rfg": 0.3, "layer_input": True,
         "layer_middle": True, "layer_output": True, "blend": "Coefficient", "weight": 1.0, "style_fidelity": 0.0}
LEFT, WIDE = 68, 160  # of the schedule in the drawing


def drawn(host=NO_MODEL, **settings) -> str:
    return strength_map(host, *{**USUAL, **settings}.values())


def cells(made: str) -> dict[str, list[tuple[float, float, float, str]]]:
    """By row, from where to where it is coloured (fractions of the schedule), how deep and in which colour."""
    svg = ElementTree.fromstring(re.search("<svg.*</svg>", made).group())
    tag = "{http://www.w3.org/2000/svg}"
    rows = {float(text.get("y")) - 7: text.text for text in svg.iter(tag + "text") if float(text.get("y")) > 9}
    found = {name: [] for name in rows.values()}
    for rect in svg.iter(tag + "rect"):
        if rect.get("fill") != "none":
            x, wide = float(rect.get("x")) - LEFT, float(rect.get("width"))
            found[rows[float(rect.get("y"))]].append(
                (x / WIDE, (x + wide) / WIDE, float(rect.get("fill-opacity")), rect.get("fill")))
    return found


def words(made: str) -> str:
    return re.search('aria-label="([^"]*)"', made).group(1)


def test_it_takes_the_settings_in_this_order() -> None:
    assert tuple(USUAL) == SHOWN


def test_everything_is_one_stretch_in_every_block() -> None:
    found = cells(drawn())
    assert list(found)[:2] == ["input.1", "input.2"] and "middle.0" in found and list(found)[-1] == "output.11"
    assert len(found) == 16 and all([cell[:3] for cell in row] == [(0, 1, 1)] for row in found.values())
    assert "on SD 1.5" in words(drawn()) and "0.3" in words(drawn())


def test_an_expression_shows_place_window_depth_and_sign() -> None:
    made = drawn(layers="output.3=0, middle=-0.5; 0.25-0.75", use_until=0.5)
    found = cells(made)
    ((start, stop, deep, more),) = found["input.1"]
    ((_, _, half, less),) = found["middle.0"]
    assert (start, stop, deep, half) == (0.25, 0.5, 1, 0.5) and more != less and found["output.3"] == []
    assert "output.3: 0" in words(made) and "0.3 from 25% to 50%" in words(made) and "middle.0" in words(made)
    away = cells(drawn(rfg=-0.3))["input.1"][0]
    assert away[3] == less


def test_a_ramp_gets_deeper_step_by_step() -> None:
    deep = [cell[2] for cell in cells(drawn(layers="0.2-1 ramp 0.4"))["middle.0"]]
    assert len(deep) > 10 and deep == sorted(deep) and deep[-1] == 1 and deep[0] < 0.1


def test_sections_that_are_off_and_branches_that_differ_are_shown() -> None:
    found = cells(drawn(layer_input=False, style_fidelity=1.0))
    assert found["input.1"] == [] and len(found["middle.0"]) == 1  # nothing on the side of the negative prompt
    assert "Negative prompt: " in words(drawn(style_fidelity=1.0))
    assert "0 everywhere" in drawn(rfg=0.0) and cells(drawn(rfg=0.0))["middle.0"] == []
    assert "of the weight 2" in drawn(blend="Concatenate", weight=2.0, rfg=0.0)


def test_without_a_model_the_usual_one_that_has_the_place_is_drawn() -> None:
    made = drawn(layers="output.0.3=0")
    assert "on SDXL" in made and cells(made)["output.0.3"] == [] and "output.0.0–2,4–9" in cells(made)


@pytest.mark.parametrize("settings, sentence", [
    ({"layers": "outptu.0=0"}, "not understood"), ({"layers": "output.77=0"}, "no self-attention in"),
    ({"use_from": 0.8, "use_until": 0.2}, "let from be less than until"),
    ({"layers": "<b>=1"}, "&lt;b&gt;"),
])
def test_a_mistake_is_one_sentence_in_its_place(settings, sentence) -> None:
    made = drawn(**settings)
    assert sentence in made and "<svg" not in made and made.count("<p>") == 1 and "<b>" not in made


def test_the_loaded_models_own_blocks_are_drawn(program) -> None:
    host = SimpleNamespace(loaded_model=lambda: program.new().sd_model)
    made = drawn(host, layers="Free layout")
    assert list(cells(made)) == ["input.1", "middle.0", "output.0"] and " on " not in words(made)
    assert cells(made)["output.0"] == [] and cells(made)["middle.0"]
    other = SimpleNamespace(loaded_model=lambda: SimpleNamespace(model=nn.Linear(1, 1), weights=torch.zeros(1)))
    assert "on SD 1.5" in drawn(other)
