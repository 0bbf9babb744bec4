"""Measures against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from demo.characters import NAMED, UNNAMED
from demo.measure import (
    adherence_matrix,
    agreement_matrix,
    bootstrap,
    by_attribute,
    copied_matrix,
    difference_matrix,
    mean_of_rows,
    mean_of_twos,
    measures,
    stereotype_share,
)

PIRATE = {"kind": "pirate", "pose": "up", "ground": "sand", "shirt": "red", "trousers": "black", "hair": "black",
          "length": "long", "skin": "tan", "sky": "blue"}


def like(words=PIRATE, **changes):
    return {**words, **changes}


def test_agreement_counts_unnamed_attributes_only():
    targets = [like(pose="down", ground="snow"), like(shirt="blue", sky="pink", skin="dark")]
    matrix = agreement_matrix([PIRATE, PIRATE], targets)
    assert matrix.shape == (2, len(UNNAMED))
    assert matrix.mean(axis=1).tolist() == [1.0, 0.5]
    assert mean_of_rows(matrix).value == 0.75
    found = {name: measured.value for name, measured in by_attribute(matrix).items()}
    assert found == {"shirt": 0.5, "trousers": 1, "hair": 1, "length": 1, "skin": 0.5, "sky": 0.5}


def test_adherence_counts_named_attributes_only():
    wanted = {name: PIRATE[name] for name in NAMED}
    matrix = adherence_matrix([wanted, wanted], [like(shirt="blue", sky="pink"), like(kind="king")])
    assert matrix.mean(axis=1).tolist() == pytest.approx([1, 2 / 3])


def test_diversity_compares_targets_of_one_kind_with_each_other():
    targets = [PIRATE, like(shirt="blue"), like(shirt="blue", sky="pink"), like(kind="king", hair="grey")]
    matrix = difference_matrix(targets, ["pirate", "pirate", "pirate", "king"])
    # of six attributes: the first two differ in one, first and third in two, second and third in one; the king is alone
    assert mean_of_twos(matrix).value == pytest.approx((1 + 2 + 1) / 3 / 6)
    assert np.isnan(matrix[3]).all() and np.isnan(np.diag(matrix)).all()


def test_diversity_is_nothing_where_no_two_are_of_one_kind():
    assert all(math.isnan(value) for value in mean_of_twos(difference_matrix([PIRATE, PIRATE], ["pirate", "king"])))


def test_stereotypes_are_counted_over_the_skewed_attributes_of_each_kind():
    # a pirate's are red shirt, black hair and long hair; a chef's white shirt and short hair
    assert stereotype_share([PIRATE, like(shirt="white")], ["pirate", "chef"]) == pytest.approx(4 / 5)


def test_intervals_hold_the_value_and_narrow_with_more_pairs():
    rng = np.random.default_rng(1)
    few, many = (mean_of_rows((rng.random((count, 6)) < 0.4).astype(float)) for count in (16, 256))
    for measured in (few, many):
        assert measured.low < measured.value < measured.high
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_an_interval_is_about_two_standard_errors_to_each_side():
    values = np.random.default_rng(2).normal(size=(100, 1))
    measured = mean_of_rows(values)
    assert measured.high - measured.low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)


def test_intervals_are_the_same_every_time():
    value = np.arange(20.0)[:, None]
    assert mean_of_rows(value) == mean_of_rows(value)


def test_where_all_pairs_are_alike_the_interval_is_a_point():
    assert tuple(bootstrap(8, lambda rows: 0.5)) == (0.5, 0.5, 0.5)


def test_the_place_is_not_counted_as_the_subjects():
    # of the figure's own five: all, then all but shirt and skin; the sky: no, then yes
    targets = [like(pose="down", ground="snow", sky="pink"), like(pose="down", shirt="blue", skin="dark")]
    wanted = [{"kind": "pirate", "pose": "down", "ground": "snow"}] * 2
    found = measures([PIRATE, PIRATE], wanted, targets, ["pirate", "pirate"])
    assert found["subject_agreement"].value == pytest.approx((5 + 3) / 10)
    assert found["sky_agreement"].value == 0.5
    assert found["agreement"].value == pytest.approx((5 + 4) / 12)
    assert found["ground_agreement"].value == 0.5  # the second stands on the pirate's sand, not on the snow it was to
    assert found["pose_agreement"].value == 0
    assert found["copy_rate"].value == 0.5
    assert found["prompt_adherence"].value == pytest.approx(5 / 6)


def test_only_what_the_prompt_did_not_ask_for_is_copied():
    wanted = [{"kind": "pirate", "pose": pose, "ground": ground}
              for pose, ground in (("down", "sand"), ("down", "snow"), ("up", "snow"), ("down", "snow"))]
    targets = [like(pose="down"),  # on sand, as asked
               like(pose="up"),  # both the reference's, against the prompt: one pair, not two
               like(pose="up", ground="bricks"),  # up as asked, and on a ground that nobody named
               like(pose="wide", ground="sand")]  # the reference's ground, against the prompt
    assert copied_matrix([PIRATE] * 4, wanted, targets).tolist() == [[0, 0], [1, 1], [0, 0], [1, 0]]
    found = measures([PIRATE] * 4, wanted, targets, ["pirate"] * 4)
    assert found["copy_rate"].value == 0.5
    assert found["ground_agreement"].value == 0.75 and found["pose_agreement"].value == 0.5


def test_what_never_happened_in_few_pairs_may_still_happen():
    # 0 of n: the upper end p solves (1 - p)^n = 0.025; 0.1089 for 32, 0.1157 for 30 (tables of Clopper and Pearson)
    never = mean_of_rows(np.zeros((32, 1)))
    assert (never.value, never.low) == (0, 0) and never.high == pytest.approx(0.1089, abs=1e-4)
    always = mean_of_rows(np.ones((10, 3)))
    assert (always.value, always.high) == (1, 1) and always.low == pytest.approx(1 - 0.1157, abs=1e-4)


def test_open_prompts_have_leaks_but_no_copies():
    targets = [like(pose="down", kind="king"), like(ground="snow")]
    found = measures([PIRATE, PIRATE], [{"kind": "pirate"}] * 2, targets, ["pirate"] * 2)
    assert found["prompt_adherence"].value == 0.5  # the kind alone is asked
    assert found["ground_agreement"].value == 0.5 and found["pose_agreement"].value == 0.5
    assert all(math.isnan(part) for part in found["copy_rate"])
