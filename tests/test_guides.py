"""Several references: what a list means, and the sentence each bad one gets."""

from __future__ import annotations

import json

import pytest

from lib_refdrop.guides import Guide, read, warning, written
from lib_refdrop.settings import Settings
from lib_refdrop.words import SettingsError

USUAL = Guide("hero", 0.25, 0.1, 0.9, "Free layout", "RAM")
LIST = [{"name": "villain", "rfg": -0.2, "from": 0, "until": 0.5, "layers": "middle=0", "store": "disk"}, "castle"]
GUIDES = [Guide("villain", -0.2, 0.0, 0.5, "middle=0", "Disk"), Guide("castle", 0.25, 0.1, 0.9, "Free layout", "RAM")]


@pytest.mark.parametrize("given", [LIST, json.dumps(LIST), tuple(LIST)], ids=["list", "JSON", "tuple"])
def test_what_an_entry_leaves_out_is_as_usual(given) -> None:
    assert read(given, USUAL) == GUIDES


def test_a_list_as_people_type_it() -> None:
    assert read("villain: −0.2; old castle :.5;  crowd ", Guide(rfg=0.3)) == [
        Guide("villain", -0.2), Guide("old castle", 0.5), Guide("crowd", 0.3)]


def test_what_is_written_is_read_back_and_short() -> None:
    assert read(written(GUIDES, USUAL), USUAL) == GUIDES
    assert written([Guide("castle", 0.4), Guide("a, b", -0.1)], Guide()) == "castle: 0.4; a, b: -0.1"
    assert written([], USUAL) == ""


def test_masks_are_written_by_number_and_read_back() -> None:
    guides = [Guide("villain", -0.2, mask="0123456789"), Guide("castle", 0.3, reference_mask="abcdef0123")]
    assert json.loads(written(guides, Guide()))[0] == {"name": "villain", "rfg": -0.2, "mask": "0123456789"}
    assert read(written(guides, Guide()), Guide()) == guides
    everywhere = [Guide("castle", 0.3)]
    assert read(written(everywhere, guides[0]), guides[0]) == everywhere  # it has no mask where the first one has


@pytest.mark.parametrize("name", ["a; b", "[old] hero", "{x}", "été, 3", "x=1"])
def test_any_name_comes_back(name) -> None:
    for guides in ([Guide(name, 0.4)], [Guide("first", 0.1), Guide(name, -0.4)], [Guide(name, 0.4, until=0.5)]):
        assert read(written(guides, Guide()), Guide()) == guides


@pytest.mark.parametrize("given, sentence", [
    (["a"] * 9, "by 8 references; 9 are too many"), ("[{", "must be a list like"), ({"name": "a"}, "must be a list"),
    ([{"rfg": 0.3}], "Reference 1 of the list has no name"), (["a", {"name": "b", "rfg": 2}], "Reference 2 .* from -1"),
    ([{"name": "a", "strenght": 1}], "no setting named 'strenght'; there are: name, rfg, from"),
    ([{"name": "a", "rfg": True}], "must be a number"), ([{"name": "a", "rfg": float("nan")}], "not nan"),
    ([{"name": "a", "from": 0.6, "until": 0.2}], "let from be less than until"), ([7], "must be an object"),
    ([{"name": "a", "layers": "outptu=1"}], "not understood"), ([{"name": "a", "layers": 3}], "must be text"),
    ([{"name": "../b"}], "cannot be a reference's name"), ([{"name": "a", "store": "Tape"}], "RAM or Disk"),
    ([{"name": "a", "rfg": 0.1, "strength": 0.2}], "twice"), ("a: much", "must be a number"), ([None], "an object"),
])
def test_a_bad_list_is_one_sentence(given, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        Settings.from_args([{"enabled": True, "mode": "Use", "references": given}])
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_the_two_scalars_are_the_short_form_of_a_list() -> None:
    def of(**settings) -> list[Guide]:
        return Settings.from_args([{"enabled": True, **settings}]).guided_by()

    assert of(reference="hero", rfg=0.4) == [Guide("hero", 0.4)]
    further = [{"name": "b", "rfg": -0.1}]
    assert of(reference="hero", rfg=0.4, references=further) == [Guide("hero", 0.4), Guide("b", -0.1)]
    assert of(references=further) == [Guide("b", -0.1)]  # nothing is added that nobody named
    assert of() == [Guide("")]  # the newest
    with pytest.raises(SettingsError, match="9 are too many"):
        of(reference="hero", references=["a"] * 8)


def test_the_one_form_says_the_same() -> None:
    settings = Settings.from_args([{"enabled": True, "references": LIST, "layers": "Free layout", "use_from": 0.2}])
    used = settings.guided_by()
    assert settings.of_guides(used).guided_by() == used
    assert settings.of_guides(used).reference == "villain"


@pytest.mark.parametrize("strengths, words", [
    ((0.3,), ""), ((0.3, 0.4), ""), ((0.5, 0.5), ""), ((0.7, 0.6), "add up to 1.3"), ((-0.3, -0.3), "add up to -0.6"),
    ((-1.0,), ""), ((0.4, -0.2), ""),
])
def test_strengths_that_add_up_to_too_much_are_told_of(strengths, words) -> None:
    assert words in warning([Guide("a", rfg) for rfg in strengths]) and bool(words) == bool(
        warning([Guide("a", rfg) for rfg in strengths]))
