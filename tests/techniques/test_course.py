"""Where, when and in which branch a reference acts: what an expression means, and the sentence each mistake gets."""

from __future__ import annotations

import pytest

from lib_refdrop.model.rows import Kind
from lib_refdrop.model.sites import Lineage, Site, SiteShape
from lib_refdrop.techniques.reference.course import Course, parse
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.words import SettingsError

SD15 = Lineage({Site(section, block, 0): SiteShape(8, width) for section, block, width in (
    ("input", 1, 320), ("input", 2, 320), ("input", 4, 640), ("input", 5, 640), ("input", 7, 1280), ("input", 8, 1280),
    ("middle", 0, 1280), ("output", 3, 1280), ("output", 4, 1280), ("output", 5, 1280), ("output", 6, 640),
    ("output", 7, 640), ("output", 8, 640), ("output", 9, 320), ("output", 10, 320), ("output", 11, 320))})


def by_place(text: str) -> dict[str, float]:
    return {f"{site.section}.{site.block}": factor for site, factor in parse(text).by_site(SD15).items()}


def test_nothing_said_is_everything_as_it_is() -> None:
    course = parse("")
    assert course == Course() and set(course.by_site(SD15).values()) == {1.0}
    assert course.over_progress(0) == course.over_progress(1) == course.in_branch(Kind("uncond")) == 1


def test_the_place_that_is_named_most_exactly_decides_in_any_order() -> None:
    for text in ("output.3=0, middle=0.5; all=0.8, output=0.2, output.4.0=1",
                 "output.4.0=1; output=.2; all=80%; output.3=0; middle=0.5"):
        found = by_place(text)
        assert (found["output.3"], found["output.4"], found["output.5"]) == (0, 1, 0.2)
        assert (found["middle.0"], found["input.1"]) == (0.5, 0.8)


def test_presets_are_of_the_models_own_blocks() -> None:
    free, style = by_place("Free layout"), by_place("style only")
    assert [place for place, factor in free.items() if not factor] == ["output.3"]
    assert [place for place, factor in style.items() if factor] == [f"output.{n}" for n in (7, 8, 9, 10, 11)]
    assert by_place("Free layout; output.3=0.5")["output.3"] == 0.5  # what is said itself wins


@pytest.mark.parametrize("text, factors", [
    ("0.25-0.75", {0: 0, 0.24: 0, 0.25: 1, 0.5: 1, 0.74: 1, 0.75: 0, 0.9: 0}),
    ("25%–75%", {0.24: 0, 0.25: 1, 0.75: 0}),
    ("0-0.5", {0: 1, 0.45: 1, 0.5: 0}), ("0.5-1", {0.45: 0, 0.5: 1, 1: 1}),
    ("0.2-0.8 ramp 0.2", {0.1: 0, 0.2: 0, 0.3: 0.5, 0.4: 1, 0.6: 1, 0.7: 0.5, 0.9: 0}),
    ("0-1 ramp 0.5", {0: 1, 0.5: 1, 1: 1}),  # the schedule's own ends are no edges
    ("0=0, 0.5=1, 1=0.5", {0: 0, 0.25: 0.5, 0.5: 1, 0.75: 0.75, 1: 0.5}),
    ("0.5=1; 0.7=-1", {0: 1, 0.6: 0, 0.9: -1}),
    ("0-0.5; 0=0, 1=1", {0.25: 0.25, 0.5: 0}),
])
def test_over_the_schedule(text, factors) -> None:
    assert {progress: parse(text).over_progress(progress) for progress in factors} == pytest.approx(factors)


def test_branches_have_factors_of_their_own() -> None:
    course = parse("uncond=0; cond=.5")
    assert (course.in_branch(Kind("cond", 1)), course.in_branch(Kind("uncond"))) == (0.5, 0)


def test_a_strength_is_the_product_and_acts_where_it_is_not_nothing() -> None:
    strength = Strength(0.4, ("middle", "output"), parse("output.3=0, middle=.5, uncond=0.5; 0-0.5"))
    sites = strength.sites(SD15)
    assert Site("middle", 0, 0) in sites and Site("output", 3, 0) not in sites and Site("input", 1, 0) not in sites
    assert (strength.at(0.2, Kind("cond")), strength.at(0.2, Kind("uncond")), strength.at(0.6, Kind("cond"))) == (
        0.4, 0.2, 0)


@pytest.mark.parametrize("text, sentence", [
    ("outptu.0=0", "'outptu.0=0' in the layers' expression is not understood"), ("output.0", "not understood"),
    ("output.0=much", "not understood"), ("middle=2", "between -1 and 1"), ("0.8-0.1", "that rise"),
    ("0.1-1.5", "that rise"), ("middle=0; middle=1", "says again"), ("0-.5; .5-1", "says again"),
    ("1.5=0", "not understood"), ("output.0.0.0=1", "not understood"), ("nan=1", "not understood"),
    ("Style only, Free layout", "says again"), ("x" * 2000, "1000 are the most"),
])
def test_a_mistake_is_one_sentence(text, sentence) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        parse(text)
    assert str(caught.value).endswith(".") and len(str(caught.value)) < 400


def test_a_place_that_the_model_does_not_have_is_named_with_those_it_has() -> None:
    with pytest.raises(SettingsError, match=r"no self-attention in 'output.77'; its blocks are input.1, input.2"):
        Strength(0.3, course=parse("output.77=0")).sites(SD15)
    with pytest.raises(SettingsError, match="leave none"):
        Strength(0.3, course=parse("all=0")).sites(SD15)
