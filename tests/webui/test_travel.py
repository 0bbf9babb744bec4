"""Settings go into an image's parameters and come back out of them; command-line options are read."""

from __future__ import annotations

import argparse

import pytest

import preload
from lib_refdrop.playground import infotext
from lib_refdrop.settings import Settings
from lib_refdrop.webui import xyz
from lib_refdrop.webui.infotext import paste_function, written_keys
from lib_refdrop.webui.xyz import with_axes
from lib_refdrop.words import SettingsError

PASTE = {name: paste_function(name, default, control) for name, default, control in Settings.controls()}


def pasted(parameters: dict) -> dict:
    return {name: value for name, function in PASTE.items() if (value := function(parameters)) is not None}


def test_what_is_written_is_read_back() -> None:
    made = Settings.from_args([{"enabled": True, "rfg": -0.3, "save_percent": 40, "layer_middle": False}])
    written = {key: str(value) for key, value in made.infotext("hero").items()}
    read = Settings.from_args([pasted(written)])
    assert (read.enabled, read.rfg, read.mode, read.reference) == (True, -0.3, "Use", "hero")
    assert (read.save_percent, read.layer_middle, read.layer_input) == (40, False, True)


def test_what_is_not_written_goes_back_to_its_default() -> None:
    values = pasted({"RefDrop mode": "Use", "RefDrop RFG": "0.3"})
    assert values["layer_input"] is True and values["save_percent"] == 100.0


def test_another_pictures_parameters_switch_it_off_and_touch_nothing_else() -> None:
    assert pasted({"Steps": "20"}) == {"enabled": False}


def test_parameters_edited_by_hand_do_no_harm() -> None:
    assert "rfg" not in pasted({"RefDrop mode": "Use", "RefDrop RFG": "much"})


def travelled(settings: Settings, name: str) -> dict:
    """Written into a picture's parameters and pasted from there, by the playground's own text, which is that of
    hosts."""
    return pasted(infotext.parse(infotext.build("a pirate, on grass", "", {
        "Steps": 20, "Sampler": "Euler", "CFG scale": "7", **settings.infotext(name), "Version": "v1.10.1"})))


OTHERS = {"enabled": True, "rfg": -0.45, "mode": "Use", "enabled_hr": True, "store": "RAM", "save_percent": 35.0,
          "layer_input": False, "layer_middle": False, "layer_output": True, "reference": "hero", "replace": True,
          "on_problem": "Continue", "keep": "Tiny", "budget": 250.0,
          "references": '[{"name": "villain, the old", "rfg": -0.2}]', "layers": "output.0=0, middle=0.5; 0.1-0.8",
          "use_from": 0.25, "use_until": 0.75, "picture_seed": 2**32 - 1, "picture_by": "Inversion",
          "blend": "Coefficient", "weight": 2.5, "style_fidelity": 0.5, "dropout": 0.5,
          "sequence": "Previous", "sequence_name": "story, the first", "adain": 0.35, "adain_attention": 0.65,
          "kept_masks": "mask: 0123456789; reference mask: abcdef0123",
          "mask_word": "pirate, ship: old", "reference_mask_word": "king", "marked_only": False}


@pytest.mark.parametrize("name", [setting for setting, _, control in Settings.controls() if not control.picture])
def test_every_setting_travels_and_one_that_is_new_must_be_listed_here(name) -> None:
    settings = Settings.from_args([{**OTHERS, "enabled": True}])
    assert travelled(settings, "hero")[name] == OTHERS[name]
    assert OTHERS[name] != getattr(Settings(), name) or name in ("mode", "layer_output", "blend")  # one section is on


@pytest.mark.parametrize("name", ["512x768", "hero, the king", "Steps", "3", "été", "a b", "x"])
def test_a_name_comes_back_whole(name) -> None:
    assert travelled(Settings.from_args([True]), name)["reference"] == name


def test_a_name_that_parameters_cannot_tell_is_refused() -> None:
    with pytest.raises(SettingsError, match="choose another"):
        Settings.from_args([{"enabled": True, "mode": "Save", "reference": "RefDrop reference"}])


def test_the_parameters_of_a_save_use_what_was_saved() -> None:
    values = travelled(Settings.from_args([{"enabled": True, "mode": "Save", "keep": "Small"}]), "hero-2")
    assert (values["enabled"], values["mode"], values["reference"], values["keep"]) == (True, "Use", "hero-2", "Small")


@pytest.mark.parametrize("keep", ["Exact", "Balanced"])
def test_how_it_was_kept_is_always_written(keep) -> None:
    made = Settings.from_args([{"enabled": True, "mode": "Save", "keep": keep}]).infotext("hero")
    assert made["RefDrop kept"] == keep and made["RefDrop save percentage"] == 100


def test_the_older_extensions_own_list_keeps_everything_as_it_did() -> None:
    nine = [True, 0.3, "SAVE", False, "Disk", 100, True, True, True]
    assert Settings.from_args(nine).keep == "Exact" and Settings.from_args([*nine, "hero"]).keep == "Balanced"


@pytest.mark.parametrize("text", ["\u22120.3", "\u20130.3", "-0.3", " -0.3 "])
def test_a_minus_is_understood_however_it_is_typed(text) -> None:
    assert Settings.from_args([True, text]).rfg == -0.3 == xyz._number(text)


@pytest.mark.parametrize("settings", [{"mode": "x" * 10**7}, {"rfg": "9" * 10**6}, {"enabled": "y" * 10**6},
                                      {"reference": "z" * 10**6}, {"k" * 10**6: 1}, {"mode": "\ud800"},
                                      {"reference": "\ud800"}, {"rfg": [1] * 10**5}, {"mode": "one\ntwo"}])
def test_what_cannot_be_used_comes_back_in_one_short_sentence(settings) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_args([{"enabled": True, **settings}])
    assert len(str(caught.value)) < 800 and "\n" not in str(caught.value)
    str(caught.value).encode()


def test_every_written_key_is_ours() -> None:
    assert all(key.startswith("RefDrop ") for key in written_keys())


def test_a_plots_cell_overrides_arguments_by_place_and_by_name() -> None:
    cell = argparse.Namespace(refdrop_axes={"rfg": 0.1})
    assert Settings.from_args(with_axes(cell, [True, 0.9, "Save"])) == Settings.from_args([True, 0.1, "Save"])
    assert Settings.from_args(with_axes(cell, [{"enabled": True}])) == Settings.from_args([True, 0.1])


def test_command_line_options() -> None:
    parser = argparse.ArgumentParser()
    preload.preload(parser)
    given = parser.parse_args(["--refdrop-dir", "somewhere", "--refdrop-memory", "2.5"])
    assert (given.refdrop_dir, given.refdrop_memory) == ("somewhere", 2.5)
    with pytest.raises(SystemExit):
        parser.parse_args(["--refdrop-memory", "-1"])
