"""ControlNet's names for its reference preprocessors, in the API."""

from __future__ import annotations

import json

import pytest

from lib_refdrop.guides import Guide
from lib_refdrop.settings import Settings
from lib_refdrop.words import SettingsError


def of(**words) -> Settings:
    return Settings.from_args([{"enabled": True, "mode": "Use", "reference": "hero", **words}])


@pytest.mark.parametrize("module, wanted", [
    ("reference_only", {"blend": "Concatenate", "weight": 1.0, "adain": 0.0, "rfg": 0.3}),
    ("reference_adain", {"blend": "Coefficient", "rfg": 0.0, "adain": 1.0}),
    ("Reference_AdaIN+attn ", {"blend": "Concatenate", "weight": 1.0, "adain": 1.0}),
])
def test_a_module_says_how_the_reference_acts(module, wanted) -> None:
    settings = of(module=module)
    assert {name: getattr(settings, name) for name in wanted} == wanted
    assert settings.style_fidelity == 0.5  # ControlNet's own


def test_weight_and_the_part_of_the_schedule() -> None:
    settings = of(module="reference_adain+attn", weight=0.6, guidance_start=0.1, guidance_end=0.7)
    assert (settings.weight, settings.adain, settings.use_from, settings.use_until) == (0.6, 0.6, 0.1, 0.7)
    heavy = of(module="reference_adain+attn", weight=2)
    assert (heavy.weight, heavy.adain) == (2.0, 1.0)
    assert of(weight=0.6).blend == "Coefficient"  # our own word, without a module


@pytest.mark.parametrize("words, fidelity", [
    ({"control_mode": "Balanced"}, 0.5), ({"control_mode": "My prompt is more important"}, 0.0),
    ({"control_mode": "controlnet is more important"}, 1.0), ({"control_mode": 0}, 0.5), ({"control_mode": 1}, 0.0),
    ({"control_mode": "2"}, 1.0), ({"threshold_a": 0.8}, 0.8), ({"threshold_a": -1}, 0.5), ({"threshold_a": None}, 0.5),
    ({"control_mode": 0, "threshold_a": 0.2}, 0.2), ({"control_mode": 2, "threshold_a": 0.2}, 1.0),
    ({"control_mode": 1, "style_fidelity": 0.9}, 0.0), ({"control_mode": 0, "style_fidelity": 0.9}, 0.9),
    ({"module": "reference_only", "style_fidelity": 0.25}, 0.25), ({"style_fidelity": 0.7}, 0.7), ({}, 0.0),
])
def test_control_mode_and_style_fidelity(words, fidelity) -> None:
    assert of(**words).style_fidelity == fidelity


@pytest.mark.parametrize("as_text", [False, True])
def test_entries_of_a_list_have_them_too(as_text) -> None:
    listed = [{"name": "villain", "module": "reference_adain", "weight": 0.5, "guidance_end": 0.4, "control_mode": 2},
              {"name": "castle", "rfg": 0.1}]
    assert of(references=json.dumps(listed) if as_text else listed).guided_by() == [
        Guide("hero"), Guide("villain", 0.0, until=0.4, adain=0.5, style_fidelity=1.0), Guide("castle", 0.1)]
    assert of(module="reference_only", references=["castle"]).guided_by()[1] == Guide(
        "castle", blend="Concatenate", style_fidelity=0.5)


@pytest.mark.parametrize("words, sentence", [
    ({"module": "canny"}, "^module must be one of reference_only, reference_adain, reference_adain.attn, not 'canny'"),
    ({"module": None}, "module must be one of"), ({"module": ["reference_only"]}, "module must be one of"),
    ({"control_mode": "Harder"}, "control_mode must be one of Balanced, .* not 'Harder'"),
    ({"control_mode": True}, "control_mode must be"), ({"control_mode": 3}, "control_mode must be"),
    ({"threshold_a": 2}, "style fidelity must be a number from -1 to 1, not 2"),
    ({"threshold_a": "much"}, "style fidelity must be a number"),
    ({"threshold_a": 0.5, "style_fidelity": 0.5}, "say style_fidelity as well"),
    ({"module": "reference_only", "blend": "Coefficient"}, "say blend as well; take one of both out"),
    ({"module": "reference_only", "weight": 9}, "weight must be a number from 0 to 4, not 9"),
    ({"guidance_start": 0.1, "use_from": 0.2}, "say use_from as well"),
    ({"guidance_start": 1.5}, "Guide from must be a number from 0 to 1"),
    ({"guidance_start": 0.8, "guidance_end": 0.2}, "let from be less than until"),
    ({"processor_res": 512}, "no setting named 'processor_res'.* of ControlNet's it understands module, control_mode"),
    ({"references": [{"name": "a", "module": "canny"}]}, "^Reference 1 of the list: module must be one of"),
    ({"references": [{"name": "a", "control_mode": 7}]}, "^Reference 1 of the list: control_mode must be"),
    ({"references": [{"name": "a", "from": 0, "guidance_start": 0}]}, "^Reference 1 of the list: .* say from as well"),
])
def test_what_is_not_understood_is_one_sentence(words, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        of(**words)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_picture_says_it_in_our_words() -> None:
    """So that pasted parameters, and other programs, need to know one set of words only."""
    texts = of(module="reference_adain", weight=0.5, control_mode=2).infotext("hero")
    assert texts["RefDrop AdaIN"] == 0.5 and texts["RefDrop style fidelity"] == 1.0 and texts["RefDrop RFG"] == 0.0
    assert not any("module" in name or "control" in name for name in texts)
