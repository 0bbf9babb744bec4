"""What the API's arguments mean, and the one sentence each bad one gets."""

import math

import pytest

from lib_refdrop.settings import Settings
from lib_refdrop.words import SettingsError

OLDER = ["enabled", "rfg", "mode", "enabled_hr", "store", "save_percent", "layer_input", "layer_middle", "layer_output"]


def test_the_first_nine_arguments_are_the_older_extensions():
    assert [name for name, _, _ in Settings.controls()][:9] == OLDER
    settings = Settings.from_args([True, -0.3, "save", True, "ram", 50, False, True, True])
    assert settings == Settings(True, -0.3, "Save", True, "RAM", 50.0, False, True, True, keep="Exact")
    assert settings.sections == ("middle", "output")


def test_a_short_list_leaves_defaults_and_a_dict_names_settings():
    assert Settings.from_args([True]) == Settings(enabled=True)
    assert Settings.from_args([]) == Settings()
    named = Settings.from_args([{"enabled": True, "mode": "Use", "rfg": 0.3, "reference": "hero"}])
    assert named == Settings(enabled=True, rfg=0.3, mode="Use", reference="hero")
    assert Settings.from_args([True, *[default for _, default, _ in Settings.controls()][1:], "more", 3]).enabled


@pytest.mark.parametrize("change, sentence", [
    ({"mode": "Blend"}, "Mode must be Save or Use"), ({"rfg": 5}, "from -1 to 1, not 5"),
    ({"rfg": math.nan}, "from -1 to 1, not nan"), ({"rfg": math.inf}, "not inf"), ({"rfg": "strong"}, "not 'strong'"),
    ({"rfg": None}, "not None"), ({"rfg": 10**400}, "must be a number"),
    ({"save_percent": -1}, "from 0 to 100, not -1"),
    ({"mode": "Save", "save_percent": 0}, "nothing would be kept"), ({"store": "Tape"}, "RAM or Disk"),
    ({"enabled": "perhaps"}, "true or false"), ({"layer_input": 2}, "true or false"),
    ({"strength": 0.3}, "no setting named"),
    ({"reference": "../../etc/passwd"}, "cannot be a reference's name"), ({"reference": "con"}, "cannot be"),
    ({"reference": "a" * 200}, "at most 120"), ({"reference": 7}, "must be text"),
    ({"picture": 7}, "base64 text, not 7"), ({"picture": ["a"]}, "base64 text"),
    ({"mode": "Use", "picture": "iVBORw0KGgo="}, "can be saved, not used"),
    ({"kept_masks": "0123456789"}, "must be like mask: 0123456789"), ({"kept_masks": "mask: 012"}, "must be like mask"),
    ({"kept_masks": "mask: 0123456789; mask: 0123456780"}, "must be like mask"), ({"kept_masks": 3}, "must be text"),
    ({"picture_seed": 0.5}, "whole number from 0 to 4294967295, not 0.5"),
    ({"picture_seed": -1}, "whole number from 0"),
    ({"picture_seed": 2**32}, "to 4294967295, not 4294967296"), ({"picture_seed": True}, "whole number"),
    ({"layer_input": False, "layer_middle": False, "layer_output": False}, "All RefDrop layers are off"),
])
def test_bad_values_get_one_sentence(change, sentence):
    with pytest.raises(SettingsError, match=sentence) as caught:
        Settings.from_args([{"enabled": True, **change}])
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_when_off_the_other_values_do_not_matter():
    assert Settings.from_args([False, 5, "nonsense"]) == Settings()


def test_parameters_in_the_image_name_the_reference_used():
    texts = Settings(enabled=True, rfg=0.25, layer_input=False).infotext("hero-2")
    assert texts["RefDrop RFG"] == 0.25 and texts["RefDrop reference"] == "hero-2"
    assert texts["RefDrop input layers"] is False and "RefDrop output layers" not in texts
    assert "RefDrop RFG" not in Settings(mode="Save").infotext("hero")
