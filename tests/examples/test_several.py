"""How much of two references is in a picture: by numbers that are known."""

from __future__ import annotations

import pytest
from demo.characters import UNNAMED
from demo.pairs import make_pairs
from demo.several import FIRST, SECOND, WAYS, Drawn, second_references, table

NAMES = list(UNNAMED)
ONE = {"kind": "pirate", "pose": "up", "ground": "grass", **{name: UNNAMED[name][0] for name in NAMES}}
# In the last attribute the references are alike, and it counts for neither.
OTHER = {**ONE, **{name: UNNAMED[name][1] for name in NAMES[:-1]}}


def mixed(of_first: int) -> dict[str, str]:
    """So many of the attributes in which they differ are the first's, the others the second's."""
    return {**OTHER, **{name: ONE[name] for name in NAMES[:of_first]}}


def test_only_what_tells_the_references_apart_counts() -> None:
    count, differ = 3, len(NAMES) - 1
    made = Drawn(make_pairs(1, count), {FIRST: [ONE] * count, SECOND: [OTHER] * count},
                 {name: [mixed(3 if "both" in name else 1)] * count for name in WAYS})
    report = made.report()
    assert report["both"][FIRST]["value"] == pytest.approx(3 / differ)
    assert report["both"][SECOND]["value"] == pytest.approx(1 - 3 / differ)
    assert report["claims"]["both: first over second"] == pytest.approx(dict.fromkeys(("value", "low", "high"),
                                                                                        2 / differ))
    assert report["claims"]["both: second over first"]["value"] == pytest.approx(-2 / differ)
    assert "+0.400" in table(report) if differ == 5 else table(report)


def test_the_second_reference_is_of_the_same_kind_and_another_picture() -> None:
    pairs = make_pairs(7, 12)
    for pair, second in zip(pairs, second_references(7, pairs)):
        assert second.kind == pair.kind and second.pose != pair.reference.pose
        assert second.ground != pair.reference.ground and second.seed not in (pair.reference.seed, pair.target.seed)
    assert second_references(7, pairs) == second_references(7, pairs)
