"""What a drawing's gain is, of the generated reference's: by numbers that are known, and through a host."""

from __future__ import annotations

import pytest
from demo.characters import UNNAMED
from demo.pairs import make_pairs
from demo.pictures import GENERATED, PLAIN, Drawn, table


def words(right: int) -> dict[str, str]:
    """So many of the six unnamed attributes are the reference's, which has the first word of each."""
    found = {name: values[0 if number < right else 1] for number, (name, values) in enumerate(UNNAMED.items())}
    return {"kind": "pirate", "pose": "up", "ground": "grass", **found}


def test_the_gain_is_over_plain_and_its_share_of_the_generated_ones() -> None:
    pairs = make_pairs(1, 4)
    made = Drawn(pairs, [words(6)] * 4, {PLAIN: [words(1)] * 4, GENERATED: [words(5)] * 4, "drawing": [words(4)] * 4,
                                         "inverted": [words(3)] * 4})
    report = made.report()
    assert report[GENERATED]["agreement"]["value"] == pytest.approx(5 / 6)
    assert report[GENERATED]["gain"]["value"] == pytest.approx(4 / 6)
    assert report["drawing"]["gain"]["value"] == pytest.approx(3 / 6)
    assert report["drawing"]["of_generated"] == pytest.approx({"value": 0.75, "low": 0.75, "high": 0.75})
    assert report["inverted"]["of_generated"] == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    assert "of_generated" not in report[GENERATED] and "gain" not in report[PLAIN]
    assert "0.750 (0.750-0.750)" in table(report)
