"""An ablation records once, uses every variant in its own right, and counts what is left of the gain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from demo.ablation import CANDIDATES, CHANGES, MERGED, Ablation, Pictures, judge, name_of, table, variants, write_all
from demo.characters import UNNAMED
from demo.client import LocalClient, Recipe
from demo.pairs import make_pairs
from PIL import Image

from lib_refdrop.references.contributions import load

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "demo-model"


class Counting(LocalClient):
    """The playground, and how often it was asked to save and to use."""

    modes: list[str]

    def txt2img(self, payload):
        settings = payload.get("alwayson_scripts", {}).get("RefDrop", {"args": [{}]})["args"][0]
        self.modes.append(settings.get("mode", "plain"))
        return super().txt2img(payload)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    client = Counting(MODEL, tmp_path_factory.mktemp("references"))
    client.modes = []
    return client


def test_every_variant_is_cut_from_one_recording_and_used(client):
    names = ["int8", "levels2", "last50", "Tiny", "Small"]
    chosen = {name: variants(client.lineage)[name] for name in names}
    made = Ablation(client, Recipe(steps=4, width=64, height=64), lambda text: None).run(make_pairs(1, 2), chosen)
    assert client.modes == (["Save", "Save", "plain"] + ["Use"] * 6) * 2
    assert client.memory.names() == []
    for number in range(2):
        exact, plain = (np.asarray(pictures[number], np.int16) for pictures in (made.exact, made.plain))
        pictures = {name: np.asarray(made.varied[name][number], np.int16) for name in names}
        assert abs(pictures["Tiny"] - exact).max() <= 2  # computed again, it is what was recorded
        assert all((pictures[name] != plain).any() for name in names)
        assert (pictures["levels2"] != exact).any() and (pictures["last50"] != exact).any()
    assert made.bytes["Tiny"] < made.bytes["int8"] < made.bytes["levels2"] < made.bytes["exact"]
    assert made.bytes["last50"] * 2 == made.bytes["levels2"] * 2 == made.bytes["exact"]


class Words:
    """Reads a picture of one colour as the unnamed attributes of which so many are the reference's."""

    def read(self, pictures):
        return [{name: "same" if place < picture.getpixel((0, 0))[0] else "other" for place, name in enumerate(UNNAMED)}
                for picture in pictures]


def of(*counts):
    return [Image.new("RGB", (4, 4), (count, 0, 0)) for count in counts]


@pytest.fixture
def report():
    made = Pictures(of(6, 6), of(0, 2), of(4, 4), {"int8": of(4, 4), "merged4": of(3, 4), "last50": of(0, 2)},
                    {"exact": 1000, "int8": 500, "merged4": 250, "last50": 500})
    return judge(made, Words())


def test_what_is_kept_is_a_share_of_the_exact_references_gain(report):
    assert report["plain"]["agreement"] == pytest.approx(1 / 6) and report["exact"]["agreement"] == pytest.approx(4 / 6)
    kept = {name: row["kept"] for name, row in report["variants"].items()}
    assert kept == pytest.approx({"int8": 1, "merged4": 5 / 6, "last50": 0})
    low, high = report["variants"]["merged4"]["kept_interval"]
    assert low == pytest.approx(0.75) and high == pytest.approx(1)
    assert report["variants"]["int8"]["likeness"] == 1 and report["variants"]["last50"]["likeness"] == 0


def test_without_a_gain_nothing_is_said():
    made = Pictures(of(6, 6), of(3, 3), of(3, 3), {"int8": of(3, 3)}, {"exact": 1, "int8": 1})
    report = judge(made, Words())
    assert np.isnan(report["variants"]["int8"]["kept"])
    assert "nan" in table(report)


def test_the_table_it_writes_is_the_one_that_budgets_read(report, tmp_path):
    write_all(report, "python examples/evaluate.py --ablate --seed 1 --pairs 2", tmp_path)
    contributions = load(tmp_path / "contributions.json")
    assert contributions.kept == {"int8": 1.0, "merged4": 0.833}  # last50 is for interest only
    assert "--ablate --seed 1" in contributions.made_with and "2 pairs" in contributions.made_with
    assert json.loads((tmp_path / "ablation.json").read_text())["variants"]["last50"]["kept"] == 0
    assert "int8" in table(report) and table(report).isascii()


def test_the_table_that_comes_along_has_every_change(client):
    assert {*(name_of(recipe) for recipe in CHANGES), *(f"merged{times}" for times in MERGED)} == set(load().kept)
    assert {name_of(recipe) for recipe in (*CHANGES, *CANDIDATES)} < set(variants(client.lineage))


@pytest.mark.parametrize("arguments, words", [
    (["--ablate", "--url", "http://127.0.0.1:9"], "--ablate looks into references"),
    (["--ablate", "--pairs", "1"], "pairs")])
def test_wrong_options_are_answered_at_once(arguments, words):
    answer = subprocess.run([sys.executable, "-S", "examples/evaluate.py", *arguments], cwd=ROOT, capture_output=True,
                            text=True)
    assert answer.returncode == 2 and words in answer.stderr
