"""The benchmark's protocol and its two judges, against values worked out by hand."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from benchmark import weights
from benchmark.judging import DemoJudge, named
from benchmark.protocol import PLAIN, report, run, table
from benchmark.sets import DEMO, PROMPTS, PromptSet, file_name, load
from demo.characters import NAMED
from demo.client import Answer, Recipe
from demo.methods import METHODS, over
from demo.setup import Problem
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "demo-model"
needs_model = pytest.mark.skipif(not (MODEL / "reader" / "reader.safetensors").exists(), reason="no trained model yet")
KING = {"kind": "king", "pose": "up", "ground": "snow", "shirt": "red", "trousers": "teal", "hair": "grey",
        "length": "long", "skin": "tan", "sky": "mint"}


def demo_judge() -> DemoJudge:
    """Without its network: what it sees is given."""
    judge = object.__new__(DemoJudge)
    judge.uncut = 0
    return judge


# Sets.

def test_the_bundled_sets_are_of_one_subject_in_several_settings():
    ours, demo = load(PROMPTS), load(DEMO)
    assert len(ours) >= 10 and all(len(each.settings) >= 4 for each in ours)
    assert len({each.subject for each in ours}) == len(ours)
    assert load(PROMPTS, 2) == ours[:2]
    for each in demo:  # the demo model knows all of these words, and no two pictures of a set name the same place
        words = [named(prompt) for prompt in each.prompts]
        assert all(set(found) == set(NAMED) for found in words)
        assert len({found["kind"] for found in words}) == 1
        for place in ("pose", "ground"):
            assert len({found[place] for found in words}) == len(words)
    assert len({each.prompts for each in demo}) == len(demo)
    assert sum(len(each.settings) - 1 for each in demo) >= 32


def test_prompts_are_style_subject_and_setting_and_seeds_are_their_own():
    each = PromptSet("A drawing of", "a fox", ("at sea", "in bed"))
    assert each.prompts == ("A drawing of a fox at sea", "A drawing of a fox in bed")
    assert PromptSet("", "a king", ("waving on snow",)).prompts == ("a king waving on snow",)
    orders = each.orders(3)
    assert orders == each.orders(3) and orders != each.orders(4)
    assert orders[0].seed != orders[1].seed


@pytest.mark.parametrize("text, words", [
    ("[", "is not JSON"), ("[]", "holds no prompt sets"), ('{"subject": "a"}', "holds no prompt sets"),
    ('[{"subject": "a fox", "settings": "at sea"}]', "Set 1 of"), ('[{"settings": ["a", "b"]}]', "Set 1 of"),
    ('[{"subject": "a", "settings": ["x", 3]}]', "Set 1 of"),
    ('[{"subject": "a", "style": 1, "settings": ["x", "y"]}]', "Set 1 of"),
    ('[{"subject": "a", "settings": ["x"]}]', "two settings at least"),
    ('[{"subject": "a", "settings": ["x", "y"]}, {"subject": "b", "settings": ["x", "x "]}]', "Set 2 .* two settings"),
])
def test_sets_that_cannot_be_used_are_told_in_a_sentence(tmp_path, text, words):
    path = tmp_path / "sets.json"
    path.write_text(text)
    with pytest.raises(Problem, match=words):
        load(path)


def test_a_file_that_is_not_there_is_told_in_a_sentence(tmp_path):
    with pytest.raises(Problem, match="cannot be read"):
        load(tmp_path / "none.json")


def test_a_method_of_any_name_has_files():
    assert file_name("001 Q/K AdaIN: all weight 0.5 2") == "001 Q-K AdaIN- all weight 0.5 2.png"


# The reader in place of the weights.

def test_the_demo_judge_asks_the_papers_questions_of_attributes():
    judge = demo_judge()
    other = {**KING, "shirt": "blue", "hair": "black", "ground": "sand", "pose": "down"}
    assert judge.subject_distance(KING, other) == pytest.approx(2 / 5)  # shirt and hair, of the figure's five
    assert judge.background_distance(KING, other) == 0.5  # the ground is another, the sky the same
    assert judge.prompt_score(other, "a king waving on sand") == pytest.approx(2 / 3)
    first = "a king arms up on snow"
    assert not judge.copied(other, "a king arms down on sand", KING, first)
    assert judge.copied({**other, "pose": "up"}, "a king arms down on sand", KING, first)
    assert judge.copied({**other, "ground": "snow"}, "a king arms down on sand", KING, first)
    assert not judge.copied({**other, "ground": "snow"}, "a king arms down on snow", KING, first)  # as asked
    assert not judge.copied({**other, "ground": "bricks"}, "a king arms down on sand", KING, first)  # wrong, not copied


def test_a_prompt_that_the_demo_model_does_not_know_is_told_in_a_sentence():
    assert named("a pirate, waving, on bricks") == {"kind": "pirate", "pose": "waving", "ground": "bricks"}
    with pytest.raises(Problem, match="knows nothing of 'a fox at sea'"):
        named("a fox at sea")


# The papers' weights: everything but the weights themselves.

def flat(colour, size=(8, 8)):
    return Image.new("RGB", size, colour)


def made(cut) -> weights.WeightsJudge:
    """Compares mean colours of what the mask leaves black or not; CLIP features are the mean colour, of length one."""
    def unit(colour):
        return np.asarray(colour, float) / np.linalg.norm(colour)

    said = {"red": (1, 0, 0), "green": (0, 1, 0), "orange": (0.8, 0.6, 0), "cold": (-1, 0, 0)}
    return weights.WeightsJudge(cut, lambda picture: np.asarray(picture, float),
                                lambda one, other: np.abs(one[:4] - other[:4]).max() / 255,
                                lambda picture: unit(np.asarray(picture, float).mean((0, 1))),
                                lambda prompt: unit(said[prompt]))


def upper(picture):
    """The subject is the upper half."""
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, picture.width, picture.height // 2))
    return mask


def test_subject_and_background_are_compared_apart():
    judge = made(upper)
    one, other = flat((255, 0, 0)), flat((255, 0, 0))
    other.paste((0, 0, 255), (0, 4, 8, 8))  # another background
    seen = [judge.look(one), judge.look(other)]
    assert judge.subject_distance(*seen) == 0  # the upper halves, and noise beneath that is not compared here
    pixels = [np.asarray(each.subject) for each in seen]
    assert (pixels[0][:4] == (255, 0, 0)).all() and not (pixels[0][4:] == (255, 0, 0)).all(axis=-1).any()
    assert not np.array_equal(pixels[0][4:], pixels[1][4:])  # noise of its own in each picture
    assert (np.asarray(seen[1].background)[4:] == (0, 0, 255)).all()
    assert judge.background_distance(*seen) > 0.5  # the upper halves are noise there
    assert judge.uncut == 0
    again = made(upper)
    assert np.array_equal(again.look(one).subject, seen[0].subject)  # the same noise in the next run


def test_clip_scores_and_copies_are_cosines():
    judge = made(upper)
    red, green = judge.look(flat((200, 0, 0))), judge.look(flat((0, 100, 0)))
    assert judge.prompt_score(red, "red") == pytest.approx(2.5)
    assert judge.prompt_score(red, "orange") == pytest.approx(2.5 * 0.8)
    assert judge.prompt_score(red, "cold") == 0  # never below
    assert judge.copied(red, "orange", red, "red")
    assert not judge.copied(green, "orange", red, "red")  # 0.6 for its own, 0 for the reference's
    assert not judge.copied(red, "red", green, "red")  # equally like both is not copied


@pytest.mark.parametrize("value", (0, 255))
def test_a_picture_without_a_subject_is_counted(value):
    judge = made(lambda picture: Image.new("L", picture.size, value))
    judge.look(flat((9, 9, 9)))
    assert judge.uncut == 1


@pytest.mark.parametrize("missing", ("open_clip", "dreamsim", "rembg"))
def test_a_missing_package_is_told_in_a_sentence(monkeypatch, missing):
    for name in ("open_clip", "dreamsim", "rembg"):
        there = ModuleType(name)
        there.dreamsim = there.new_session = there.remove = None
        monkeypatch.setitem(sys.modules, name, None if name == missing else there)
    with pytest.raises(Problem, match=f"needs {missing}.*pip install -r examples/benchmark/requirements.txt"):
        weights.load()


# The protocol.

class Host:
    """Pictures of one grey: 100 for a reference, else by their settings; the judge sees that number."""

    def __init__(self):
        self.asked = []

    def txt2img(self, payload):
        settings = payload.get("alwayson_scripts", {}).get("RefDrop", {"args": [{}]})["args"][0]
        self.asked.append((payload["prompt"], payload["seed"], settings.get("mode"), settings.get("rfg")))
        grey = {"Save": 100, "Use": 110, None: 200}[settings.get("mode")]
        file = io.BytesIO()
        flat((grey,) * 3).save(file, "PNG")
        said = ", RefDrop RFG: 1" if settings.get("mode") == "Use" else ""
        return Answer([file.getvalue()], ["" + said], 2.0 if said else 1.0)


class Greys:
    uses = {"subject_distance": "greys"}
    uncut = 3

    def look(self, picture):
        return picture.getpixel((0, 0))[0]

    def subject_distance(self, one, other):
        return abs(one - other) / 100

    def background_distance(self, one, other):
        return 0.25

    def prompt_score(self, seen, prompt):
        return seen / 100 + prompt.endswith("three")

    def copied(self, seen, prompt, reference, reference_prompt):
        assert reference == 100 and reference_prompt == "a one"
        return seen == 110 and prompt == "a two"


def test_every_row_is_measured_over_the_twos_of_its_set():
    host, methods, pictures = Host(), {"RFG": over(rfg=(0.3,))}, {}
    sets = [PromptSet("", "a", ("one", "two", "three"))] * 2
    measured = run(host, Recipe(), sets, methods, Greys(), 5, [].append, pictures.__setitem__)
    found = report(measured, methods, Greys())
    plain, guided = found["rows"]
    # twos of (100, 200, 200): 1, 1 and 0; of (100, 110, 110): 0.1, 0.1 and 0
    assert plain["subject_distance"] == pytest.approx(2 / 3) and guided["subject_distance"] == pytest.approx(0.2 / 3)
    assert plain["background_distance"] == 0.25
    # of the two guided pictures, not of the reference: 2 and 3; 1.1 and 2.1
    assert plain["prompt_score"] == pytest.approx(2.5) and guided["prompt_score"] == pytest.approx(1.6)
    assert plain["copy_rate"] == 0 and guided["copy_rate"] == 0.5
    assert guided["intervals"]["copy_rate"] == [0.5, 0.5]
    assert (plain["seconds"], guided["seconds"]) == (1, 2)
    assert (plain["method"], plain["settings"]) == (PLAIN[0], {}) and guided["settings"] == {"rfg": 0.3}
    assert found["sets"] == 2 and found["pictures"] == 10 and len(pictures) == 10
    text = table(found)
    assert "RFG, rfg 0.3" in text and "In 3 of 10 pictures no subject" in text and text.isascii()
    first = host.asked[:5]
    assert [each[2] for each in first] == ["Save", None, None, "Use", "Use"]
    assert first[1][:2] == first[3][:2] and first[2][:2] == first[4][:2]  # same prompts, same seeds


def command(*words):
    return subprocess.run([sys.executable, "examples/benchmark/run.py", *words], cwd=ROOT, capture_output=True,
                          text=True, timeout=900, env={**os.environ, "REFDROP_ENVIRONMENT": "here"})


@pytest.mark.parametrize("words, said", [
    ((), "which model draws"), (("--url", "http://a", "--model", "b"), "give one of them"),
    (("--reader", "demo", "--sets", "0"), "1 at least"),
])
def test_options_that_cannot_be_met_are_told(words, said):
    answer = command(*words)
    assert answer.returncode == 2 and said in answer.stderr and "Traceback" not in answer.stderr


@needs_model
@pytest.mark.slow
def test_the_whole_protocol_runs_on_the_demo_model(tmp_path):
    answer = command("--reader", "demo", "--sets", "2", "--steps", "4", "--out", str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert found["reader"] == "demo" and found["sets"] == 2
    assert [row["strength"] for row in found["rows"]] == ["", *METHODS["RFG"]]
    assert found["pictures"] == 2 * (1 + 3 * len(found["rows"])) == len(list((tmp_path / "pictures").iterdir()))
    assert found["rows"][-1]["subject_distance"] < found["rows"][0]["subject_distance"]
    assert set(found["uses"]) == set(found["wanted"]) == {"subject_distance", "background_distance", "prompt_score",
                                                          "copy_rate"}
    assert (tmp_path / "benchmark.txt").read_text().strip() in answer.stdout
