"""Methods are compared by what they do to the pictures, and by the time they take beside plain ones."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from demo.client import Answer, Recipe
from demo.comparison import compare, figure, judge, table
from demo.methods import METHODS, check, chosen, over
from demo.pairs import make_pairs
from demo.planes import Track, plane
from demo.report import write
from demo.setup import Problem

from .conftest import DrawingHost

LIKE = over(rfg=(0.34, 1.0))  # this host copies two of the six unnamed attributes, then all
COPY = over(rfg=1.0, grounds=True)


class Host(DrawingHost):
    """Knows a second method, which takes the reference's ground along; times are as if by a clock."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def txt2img(self, payload):
        settings = payload.get("alwayson_scripts", {}).get("RefDrop", {"args": [{}]})["args"][0]
        kind = settings.get("mode", "plain") + (" grounds" if settings.get("grounds") else "")
        self.drawn.append(kind)
        self.grounds = settings.get("grounds", False)
        answer = super().txt2img(payload)
        plain = 2.0 if self.drawn.count("plain") % 2 else 4.0
        return Answer(answer.files, answer.infotexts, plain if kind == "plain" else 3.0)

    def guided(self, who, reference, c):
        found = DrawingHost.guided(who, reference, c)
        return replace(found, ground=reference.ground) if self.grounds else found


class Eyes:
    """Reads from the host's parameters instead of the pixels: the words are known exactly."""

    def __init__(self, host):
        self.words = host.words

    def read(self, pictures):
        return [self.words[picture.tobytes()] for picture in pictures]


def drawn(pairs=4, methods=None, timed=12):
    host, methods = Host(), methods or {"like": LIKE, "copy": COPY}
    host.words = {}
    original = host.txt2img

    def keeping(payload):
        answer = original(payload)
        host.words[answer.image.tobytes()] = json.loads(answer.infotexts[0].split(", RefDrop")[0])
        return answer

    host.txt2img = keeping
    made = compare(host, Recipe(), make_pairs(1, pairs), methods, [].append, timed)
    return host, made, methods


def test_each_method_is_measured_at_each_strength():
    host, made, methods = drawn()
    report = judge(made, Eyes(host), methods)
    like, copy = report["methods"]
    assert [entry["strength"] for entry in like["curve"]] == ["rfg 0.34", "rfg 1.0"]
    assert like["curve"][1]["settings"] == {"rfg": 1.0}
    assert like["curve"][0]["agreement"] >= 2 / 6 and like["curve"][1]["agreement"] == 1
    assert like["curve"][1]["prompt_adherence"] == 1 and like["curve"][1]["copy_rate"] == 0
    assert copy["curve"][0]["strength"] == ""
    assert copy["curve"][0]["agreement"] == 1 and copy["curve"][0]["copy_rate"] == 1
    assert copy["curve"][0]["prompt_adherence"] == pytest.approx(2 / 3)  # kind and pose, but never the ground
    assert report["plain"]["copy_rate"] == 0 and report["pairs"] == 4


def test_time_is_a_ratio_to_the_plain_picture_beside_it():
    """Plain pictures take 2 s and 4 s in turns here, as on a machine that does other things too."""
    host, made, methods = drawn(pairs=3, methods={"like": over(rfg=(0.5,))}, timed=2)
    # three pictures a pair; then, in the first two pairs, plain and guided once more: in turns first
    assert host.drawn == ["Save", "plain", "Use", "plain", "Use",
                          "Save", "plain", "Use", "Use", "plain",
                          "Save", "plain", "Use"]
    assert made.ratios == {"like": [3 / 4, 3 / 4]}
    assert judge(made, Eyes(host), methods)["methods"][0]["time_over_plain"] == {
        "median": 0.75, "interval": [0.75, 0.75], "pairs": 2}


def test_strengths_take_turns_in_being_timed():
    host, made, _ = drawn(pairs=4, methods={"like": LIKE})
    asked = [payload["alwayson_scripts"]["RefDrop"]["args"][0] for payload in host.payloads
             if "alwayson_scripts" in payload]
    used = [settings["rfg"] for settings in asked if settings["mode"] == "Use"]
    assert used[2::3] == [0.34, 1.0, 0.34, 1.0] and len(made.ratios["like"]) == 4


def test_the_comparison_is_plain_json_and_a_table(tmp_path):
    host, made, methods = drawn(pairs=2, timed=0)
    report = judge(made, Eyes(host), methods)
    write(report, tmp_path / "methods.json")
    again = json.loads((tmp_path / "methods.json").read_text(), parse_constant=pytest.fail)
    assert again["methods"][1]["time_over_plain"] is None
    lines = table(report).splitlines()
    assert lines[1].startswith("plain") and lines[3].startswith("like, rfg 1.0") and lines[4].startswith("copy ")
    assert lines[4].endswith("1.000 (0.158-1.000)")  # copied in 2 of 2 pairs
    assert lines[6].split() == ["sky", "ground", "pose"]
    assert lines[10].split()[1:] == ["1.000", "(0.158-1.000)", "1.000", "(0.158-1.000)", "0.000", "(0.000-0.842)"]
    assert table(report).isascii()
    assert figure(report, "two pairs").size == (1240, 560)


def test_where_the_place_is_open_the_figure_shows_what_leaks_instead_of_copies(monkeypatch):
    host, made, methods = drawn(pairs=2, timed=0)
    report = judge(made, Eyes(host), methods)
    asked = []
    monkeypatch.setattr("demo.comparison.plane", lambda tracks, title, x, y: asked.append((x, tracks)) or flat)
    flat = plane([Track("plain", [(0, 0)], [((0, 0), (0, 0))], [""])], "", "x", "y")
    figure(report, "")
    for entry in (report["plain"], *(each for method in report["methods"] for each in method["curve"])):
        entry["copy_rate"] = float("nan")
    figure(report, "")
    assert [x.split(" (")[0] for x, _ in asked] == ["prompt adherence", "copy rate", "prompt adherence",
                                                  "ground agreement"]
    assert asked[3][1][-1].points == [(1.0, 1.0)]  # the second method: every ground, every unnamed attribute


def test_a_point_stands_where_its_values_are():
    """From 0.2 to 0.8 both ways: a point in the middle of the span is drawn in the middle of the plane."""
    tracks = [Track("plain", [(0.2, 0.2)], [((0.2, 0.2), (0.2, 0.2))], [""]),
              Track("one", [(0.5, 0.5), (0.8, 0.8)], [((0.5, 0.5),) * 2, ((0.8, 0.8),) * 2], ["", ""])]
    picture = np.asarray(plane(tracks, "", "x", "y", size=(400, 400))).astype(int)
    left, right, top, bottom = 60, 400 - 34, 40, 400 - 54 - 20
    middle = picture[(top + bottom) // 2, (left + right) // 2]
    corner = picture[bottom, left]
    assert middle[0] > 180 and middle[1] < 90  # the second track's red
    assert corner.max() < 60  # ink


@pytest.mark.parametrize("value", (0.0, 1.0))
def test_a_plane_of_one_value_has_a_span(value):
    track = Track("plain", [(value, value)], [((value, value), (value, value))], [""])
    assert plane([track], "", "x", "y", size=(300, 300)).size == (300, 300)


def test_a_method_is_a_line():
    assert over(rfg=(0.1, 0.2), keep="Small") == {"rfg 0.1": {"rfg": 0.1, "keep": "Small"},
                                                  "rfg 0.2": {"rfg": 0.2, "keep": "Small"}}
    assert over(rfg=0.3) == {"": {"rfg": 0.3}}
    with pytest.raises(ValueError):
        over(rfg=(0.1, 0.2), budget=(1, 2))
    assert all("," not in name for name in METHODS)
    assert [settings["rfg"] for settings in METHODS["RFG"].values()] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_methods_are_chosen_by_name():
    methods = {"RFG": LIKE, "Another way": COPY}
    assert chosen("", methods) == methods
    assert list(chosen("another WAY, rfg", methods)) == ["Another way", "RFG"]
    with pytest.raises(Problem, match="no method named 'rgf'; there is: RFG, Another way"):
        chosen("RFG,rgf", methods)


def test_settings_that_do_not_exist_are_told_before_anything_is_drawn():
    check(METHODS)
    with pytest.raises(Problem, match="'Fine' cannot be drawn at wieght 2: RefDrop has no setting named 'wieght'; it "):
        check({"Fine": over(wieght=(2,))})
    with pytest.raises(Problem, match="'Far' cannot be drawn: RFG coefficient"):
        check({"Far": over(rfg=7)})
