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
    difference_matrix,
    mean_of_rows,
    mean_of_twos,
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
