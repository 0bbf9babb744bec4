"""Plans and recipes are what they say, presets what they promise."""

from __future__ import annotations

import json

import pytest
from demo.shapes import SD15, SDXL

from lib_refdrop.model.rows import BRANCHES
from lib_refdrop.model.sites import Site
from lib_refdrop.references.codec import Representation
from lib_refdrop.references.plan import PRESETS, RECIPES, Plan, Recipe, preset
from lib_refdrop.references.sizes import Picture, estimate

MB = 10**6
# Noise levels of SD's "Uniform" schedule, in 8 steps.
EIGHT = [14.615, 6.678, 3.522, 2.061, 1.277, 0.791, 0.44, 0.029]


def sizes(height: int, width: int) -> list[float]:
    """Megabytes of each preset's reference of an SDXL picture: 20 steps, both branches, 16 bit."""
    picture = Picture(height // 8, width // 8, 20)
    return [estimate(preset(name, SDXL), SDXL, picture) / MB for name in PRESETS]


def test_presets_have_the_sizes_they_promise():
    exact, balanced, small, tiny = sizes(512, 768)
    assert 3140 < exact < 3200 and balanced <= 150 and small <= 64 and tiny <= 3
    exact, balanced, small, tiny = sizes(1024, 1024)
    assert 8300 < exact < 8500 and balanced <= 250 and small <= 110 and tiny <= 7


@pytest.mark.parametrize("name", range(4), ids=PRESETS)
def test_a_larger_picture_never_has_the_smaller_reference(name):
    squares = [sizes(side, side)[name] for side in range(512, 2049, 128)]
    wide = [sizes(64 * side, 96 * side)[name] for side in range(6, 24, 2)]
    assert squares == sorted(squares) and wide == sorted(wide)


def test_exact_is_everything_as_the_model_has_it():
    plan = preset("Exact", SD15)
    assert set(plan.sites) == set(SD15.sites) and set(plan.sites.values()) == {Representation()}
    assert (plan.levels, plan.branches, plan.percent, plan.trajectory) == (None, BRANCHES, 100, False)
    assert preset("Tiny", SD15).sites == {} and preset("Tiny", SD15).trajectory


@pytest.mark.parametrize("name", PRESETS)
def test_a_manifest_is_plain_json_that_says_how_each_layer_is_kept(name):
    plan = preset(name, SDXL)
    read = json.loads(json.dumps(plan.manifest()))
    assert read["plan"] == name and name in read["explanation"]
    kept = {Site.parse(site): Representation.parse(words) for words, sites in read["sites"]["base"].items()
            for site in sites}
    assert kept == plan.sites


def test_few_steps_keep_their_first_levels():
    """At 8 steps levels 0, 1, 3 and 6 leave .978 of the exact picture, 1, 3, 5 and 7 leave .846 (10 pairs): where noise
    prevails everything is decided, and the last level changes next to nothing."""
    assert [EIGHT.index(each) for each in sorted(Plan("", {}, levels=4).chosen_of(EIGHT), reverse=True)] == [0, 1, 3, 6]
    assert [EIGHT.index(each) for each in sorted(Plan("", {}, levels=2).chosen_of(EIGHT), reverse=True)] == [1, 5]
    assert Plan("", {}, levels=4, percent=25.0).chosen_of(EIGHT) == {14.615, 6.678}
    assert Plan("", {}, percent=25.0).chosen_of(EIGHT) == {14.615, 6.678}


def test_too_few_levels_are_told():
    sites = dict.fromkeys(SD15.sites, Representation())
    assert "1 noise level serves 20 steps less well than 2 do" in Plan("", sites, levels=1).note(20)
    assert Plan("", sites, levels=1).note(1) == Plan("", sites, levels=2).note(40) == Plan("", sites).note(40) == ""
    assert Plan("", {}, levels=1).note(20) == ""  # the trajectory alone: everything is computed again
    for name in RECIPES:
        assert preset(name, SDXL).note(20) == ""


def test_a_recipe_says_what_it_does():
    assert Recipe("int4", 960, 3, sections=("middle", "output")).words() == (
        "hidden states in int4, at most 960 tokens a layer, 3 noise levels, without the input layers, both branches")
    assert Recipe("int8", levels=2, branches=("cond",)).changes() == ["int8", "levels2", "cond_only"]
    chosen = preset("Balanced", SDXL).only(("middle",), 50.0)
    assert {site.section for site in chosen.sites} == {"middle"} and chosen.percent == 50
