"""Several references at once, each with its own strength, layers and part of the schedule, through the API."""

from __future__ import annotations

import numpy as np
import pytest

from .conftest import Made, Studio

NURSE = {"prompt": "a nurse waving on snow", "seed": 8}


@pytest.fixture
def two(studio: Studio) -> dict[str, Made]:
    return {"hero": studio.save("hero"), "other": studio.save("other", prompt="a king on sand", seed=9)}


def same(one: Made, other: Made) -> bool:
    return np.array_equal(one.pictures[0], other.pictures[0])


def test_a_list_of_one_is_the_two_scalars(studio, two) -> None:
    scalars = studio.draw({"reference": "hero", "rfg": 0.4}, **NURSE)
    assert same(studio.draw({"references": [{"name": "hero", "rfg": 0.4}]}, **NURSE), scalars)
    assert same(studio.draw({"reference": "hero", "rfg": 0.4, "references": [{"name": "other", "rfg": 0}]}, **NURSE),
                scalars)


def test_two_references_make_another_picture_than_either(studio, two) -> None:
    both = studio.draw({"references": [{"name": "hero", "rfg": 0.3}, {"name": "other", "rfg": -0.2}]}, **NURSE)
    alone = [studio.draw({"reference": "hero", "rfg": 0.3}, **NURSE),
             studio.draw({"reference": "other", "rfg": -0.2}, **NURSE), studio.draw(**NURSE)]
    assert not any(same(both, each) for each in alone)
    assert "Guided by 'hero' at 0.3 and 'other' at -0.2 (0.1 together), throughout." in both.comments


def test_a_reference_beside_another_still_gives_its_own_picture_where_it_alone_acts(studio, two) -> None:
    """Its own seed, and the other at 0 from the start: nothing of the other is left."""
    again = studio.draw({"references": [{"name": "hero", "rfg": 0.8}, {"name": "other", "rfg": 0.0}]})
    assert np.abs(again.pictures[0].astype(int) - two["hero"].pictures[0]).max() <= 2


def test_the_parameters_make_it_again(studio, two) -> None:
    made = studio.draw({"references": [{"name": "hero", "rfg": 0.3, "layers": "Free layout; 0-0.5"},
                                       {"name": "other", "rfg": -0.2, "until": 0.75}]}, **NURSE)
    again = studio.draw(infotext=made.parameters[0], prompt=NURSE["prompt"], seed=8)
    assert same(again, made) and again.parameters == made.parameters


def test_a_part_of_the_schedule_is_so_many_steps(studio, two) -> None:
    made = studio.draw({"reference": "hero", "use_from": 0.25, "use_until": 0.75}, **NURSE, steps=8)
    assert "in 4 of 8 model calls" in made.comments
    whole, first = (studio.draw({"reference": "hero", **part}, **NURSE) for part in ({}, {"use_until": 0.5}))
    assert not same(whole, first) and "in 2 of 4 model calls" in first.comments


def test_strengths_of_0_are_plain_to_the_bit(studio, two) -> None:
    zero = studio.draw({"references": [{"name": "hero", "rfg": 0}, {"name": "other", "rfg": 0}]}, **NURSE)
    assert same(zero, studio.draw(**NURSE)) and "nothing was guided" in zero.comments


@pytest.mark.parametrize("settings, sentence", [
    ({"references": [{"name": "hero"}, {"name": "nobody"}]}, "There is no reference 'nobody'"),
    ({"references": ["hero"] * 9}, "9 are too many"),
    ({"reference": "hero", "layers": "output.77=0"}, "no self-attention in 'output.77'"),
    ({"reference": "hero", "layers": "all=0"}, "leave none"),
    ({"reference": "hero", "layers": "outptu=0"}, "not understood"),
    ({"reference": "hero", "use_from": 0.9, "use_until": 0.1}, "let from be less than until"),
    ({"reference": "hero", "use_from": 0.95}, "No step of this run lies in the part"),
])
def test_what_cannot_be_is_a_sentence(studio, two, settings, sentence) -> None:
    problem = studio.refusal(settings, **NURSE)
    assert problem.status in (400, 422) and sentence in str(problem) and "\n" not in str(problem)


def test_much_is_told_of(studio, two) -> None:
    assert "add up to 1.4" in studio.draw({"references": "hero: 0.7; other: 0.7"}, **NURSE).comments


def test_what_one_of_several_did_not_do_is_told(studio, two) -> None:
    studio.draw({"mode": "Save", "reference": "start", "save_percent": 25, "keep": "Exact"}, seed=3)
    part = studio.draw({"references": "hero: 0.3; start: 0.3"}, **NURSE)
    assert "throughout" not in part.comments and "in 4 of 4 model calls, in 1 of them on every row" in part.comments
    three = [{"name": "hero"}, {"name": "start", "from": 0.5}, {"name": "other", "from": 0.9}]
    late = studio.draw({"references": three}, **NURSE)
    assert "'start' did not guide: it has no features at the noise levels" in late.comments
    assert "'other' did not guide: no step of this run" in late.comments


def test_concatenation_is_told_as_such_and_its_parameters_make_it_again(studio, two) -> None:
    made = studio.draw({"reference": "hero", "blend": "Concatenate", "weight": 2, "style_fidelity": 0.5}, **NURSE)
    assert "Guided by 'hero' joined, weight 2 (style fidelity 0.5), throughout." in made.comments
    assert "RefDrop weight: 2" in made.parameters[0] and "RefDrop RFG" not in made.parameters[0]
    again = studio.draw(infotext=made.parameters[0], prompt=NURSE["prompt"], seed=8)
    assert same(again, made) and again.parameters == made.parameters
    nothing = studio.draw({"reference": "hero", "blend": "Concatenate", "weight": 0}, **NURSE)
    assert same(nothing, studio.draw(**NURSE)) and "nothing was guided" in nothing.comments
    mixed = studio.draw({"reference": "hero", "references": [
        {"name": "other", "blend": "concatenate", "weight": 0.5}]}, **NURSE)
    assert "'hero' at 0.3 and 'other' joined, weight 0.5" in mixed.comments


def test_dropout_is_told_and_its_parameters_make_the_picture_again(studio, two) -> None:
    made = studio.draw({"reference": "hero", "dropout": 0.5}, **NURSE)
    assert "Guided by 'hero' at 0.3 (dropout 0.5), throughout." in made.comments
    assert "RefDrop dropout: 0.5" in made.parameters[0]
    assert not same(made, studio.draw({"reference": "hero"}, **NURSE))
    assert same(studio.draw(infotext=made.parameters[0], prompt=NURSE["prompt"], seed=8), made)
    listed = studio.draw({"references": [{"name": "hero", "dropout": 0.5}]}, **NURSE)
    assert same(listed, made)
    batch = studio.draw({"reference": "hero", "dropout": 0.5}, **{**NURSE, "seed": 7, "batch_size": 2})
    assert np.abs(batch.pictures[1].astype(int) - made.pictures[0]).max() <= 2
    problem = studio.refusal({"reference": "hero", "dropout": 0.95}, **NURSE)
    assert "Token dropout must be a number from 0 to 0.9" in str(problem)


def test_adain_is_told_and_its_parameters_make_the_picture_again(studio, two) -> None:
    made = studio.draw({"reference": "hero", "rfg": 0, "adain": 0.5, "style_fidelity": 1}, **NURSE)
    assert "Guided by 'hero' at 0 (style fidelity 1; AdaIN 0.5), in " in made.comments  # the negative prompt is spared
    assert "RefDrop AdaIN: 0.5" in made.parameters[0]
    assert same(studio.draw(infotext=made.parameters[0], prompt=NURSE["prompt"], seed=8), made)
    words = {"module": "reference_adain", "weight": 0.5, "control_mode": "ControlNet is more important"}
    assert same(studio.draw({"reference": "hero", **words}, **NURSE), made)
    assert same(studio.draw({"references": [{"name": "hero", **words}]}, **NURSE), made)
    aligned = studio.draw({"reference": "hero", "adain_attention": 1}, **NURSE)
    assert "'hero' at 0.3 (AdaIN of queries and keys 1), throughout." in aligned.comments
    assert not same(aligned, studio.draw({"reference": "hero"}, **NURSE))
