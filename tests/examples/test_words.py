"""Masks by a word: the figure that is held against them, and what is told of pictures, by numbers that are known."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from demo.characters import UNNAMED, draw, draw_character
from demo.pairs import make_pairs
from demo.words import BOTH, ITS, NEW, PLAIN, WHOLE, Seen, described, figure_of, overlap, table

ONE = {"kind": "pirate", "pose": "up", "ground": "grass", **{name: values[0] for name, values in UNNAMED.items()}}


def but(*names: str) -> dict[str, str]:
    """The same with other words for some attributes."""
    others = {**{name: values[1] for name, values in UNNAMED.items()}, "ground": "snow"}
    return {**ONE, **{name: others[name] for name in names}}


def test_the_figure_is_what_stays_when_everything_else_changes() -> None:
    who = replace(draw_character(random.Random(4), "king"), ground="sand", sky="mint", pose="down")
    figure = figure_of(who, 4)
    picture = np.asarray(draw(who, random.Random(4)), dtype=int)
    sky = np.median(picture[:30, :6].reshape(-1, 3), axis=0)
    # The sky has one colour, which nothing of this figure has.
    assert (np.abs(picture - sky).sum(axis=2)[:95] > 20)[figure[:95]].mean() > 0.97
    assert not figure[:95][(np.abs(picture - sky).sum(axis=2) == 0)[:95]].any()
    assert 0.15 < figure.mean() < 0.4 and figure[60, 64] and not figure[:, :8].any()


def test_overlap_is_of_intersection_and_union() -> None:
    figure = np.zeros((128, 128), dtype=bool)
    figure[:64] = True
    half = np.zeros((2, 2))
    half[0] = 1
    assert overlap(figure.astype(float), figure) == 1 and overlap(1.0 - figure, figure) == 0
    assert overlap(np.ones((3, 3)), figure) == 0.5 and overlap(half, figure) > 0.98


def test_what_a_mask_leaves_is_told_of_what_it_was_without() -> None:
    pairs = make_pairs(1, 3, open_prompts=True)
    targets = {PLAIN: but("sky", "ground", "shirt", "hair"), WHOLE: ONE, ITS: but("sky"), NEW: but("sky", "ground"),
               BOTH: but("sky", "ground", "hair")}
    made = Seen(pairs, [0.5, 0.75, 1.0], [ONE] * 3, {way: [words] * 3 for way, words in targets.items()})
    report = made.report()
    assert report["overlap"]["value"] == 0.75 and report["ways"][WHOLE]["sky_agreement"]["value"] == 1
    assert {way: (row["surroundings"]["value"], row["subject"]["value"]) for way, row in report["left"].items()} == {
        ITS: (pytest.approx(0.5), pytest.approx(1)), NEW: (pytest.approx(0), pytest.approx(1)),
        BOTH: (pytest.approx(0), pytest.approx(0.5))}
    assert "0.750" in table(report) and "in both" in table(report)


def test_a_pairs_drawing_is_as_its_prompt_says() -> None:
    for pair in make_pairs(3, 4, open_prompts=True):
        assert described(pair).attributes().items() >= pair.reference.named.items()
