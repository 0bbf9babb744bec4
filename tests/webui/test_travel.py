"""Settings go into an image's parameters and come back out of them; command-line options are read."""

from __future__ import annotations

import argparse

import pytest

import preload
from lib_refdrop.settings import Settings
from lib_refdrop.webui.infotext import paste_function, written_keys
from lib_refdrop.webui.xyz import with_axes

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
