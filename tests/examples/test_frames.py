"""Frames from a folder into a folder, and what is measured of sequences, by numbers that are known."""

from __future__ import annotations

import io
import json
import random

import frames as command
import numpy as np
import pytest
from demo import frames
from demo.characters import UNNAMED, draw_character
from demo.client import Answer, LocalClient
from demo.pairs import Order
from demo.setup import Problem
from PIL import Image


class WebUI:
    """Answers with the picture that came, until it is stopped at a frame; forgets sequences when started again."""

    def __init__(self, stop_at: int = 99) -> None:
        self.known: set[str] = set()
        self.asked: list[dict] = []
        self.stop_at = stop_at

    def img2img(self, payload: dict) -> Answer:
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(payload)
        settings = payload["alwayson_scripts"]["RefDrop"]["args"][0]
        name = settings.get("sequence_name") or settings["reference"].rsplit(" ", 1)[0]
        guided = settings["mode"] == "Use" and name in self.known
        self.known.add(name)
        picture = io.BytesIO()
        Image.new("RGB", (16, 16)).save(picture, "PNG")
        return Answer([picture.getvalue()], ["RefDrop RFG: 0.2" if guided else "plain"], 0.0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number in (1, 2, 10):
        Image.new("RGB", (70, 66), (number, 0, 0)).save(tmp_path / "in" / f"frame-{number}.png")
    (tmp_path / "out").mkdir()
    return tmp_path


def asked(folder, *more: str):
    return command.parse([str(folder / "in"), str(folder / "out"), "--prompt", "a pirate", *more])


def test_frames_come_in_order_and_are_one_sequence(folder) -> None:
    web_ui = WebUI()
    assert command.draw(web_ui, asked(folder)) == 3
    assert sorted(path.name for path in (folder / "out").glob("*.png")) == ["frame-1.png", "frame-10.png",
                                                                           "frame-2.png"]
    settings = [payload["alwayson_scripts"]["RefDrop"]["args"][0] for payload in web_ui.asked]
    assert len({each["sequence_name"] for each in settings}) == 1 and settings[0]["sequence"] == "First and previous"
    assert {(payload["width"], payload["height"]) for payload in web_ui.asked} == {(64, 64)}
    assert len({payload["init_images"][0] for payload in web_ui.asked}) == 3


def test_a_run_that_was_stopped_goes_on(folder) -> None:
    web_ui = WebUI(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        command.draw(web_ui, asked(folder))
    web_ui.stop_at = 99
    assert command.draw(web_ui, asked(folder)) == 1 and len(web_ui.asked) == 3


def test_after_a_restart_of_the_web_ui_the_finished_pictures_serve(folder) -> None:
    with pytest.raises(KeyboardInterrupt):
        command.draw(WebUI(stop_at=2), asked(folder))
    again = WebUI()
    assert command.draw(again, asked(folder)) == 1
    plain, first, previous, last = [payload["alwayson_scripts"]["RefDrop"]["args"][0] for payload in again.asked]
    assert first["mode"] == previous["mode"] == "Save" and first["picture"] and first["replace"]
    assert first["reference"] == f"{last['sequence_name']} first"
    assert previous["reference"] == f"{last['sequence_name']} previous" and last == plain


def test_other_settings_are_not_mixed_in(folder) -> None:
    command.draw(WebUI(), asked(folder))
    with pytest.raises(Problem, match=r"asked for otherwise \(steps\)"):
        command.draw(WebUI(), asked(folder, "--steps", "5"))
    (folder / "in" / "frame-2.jpg").write_bytes(b"")
    with pytest.raises(Problem, match="would be one picture"):
        command.frames_in(folder / "in")
    (folder / "in" / "frame-2.jpg").unlink()
    with pytest.raises(Problem, match="There is no folder"):
        command.frames_in(folder / "nowhere")
    with pytest.raises(Problem, match="written over"):
        command.draw(WebUI(), command.parse([str(folder / "in")] * 2))


@pytest.mark.slow
def test_the_bundled_model_draws_them_and_goes_on_after_a_restart(folder) -> None:
    options = asked(folder, "--steps", "4", "--denoising", "0.5")
    def client() -> LocalClient:
        return LocalClient(command.MODEL, folder / "references")

    command.draw(client(), options)
    whole = {path.name: Image.open(path) for path in (folder / "out").glob("*.png")}
    assert "RefDrop RFG" not in whole["frame-1.png"].info["parameters"]
    assert all("RefDrop RFG: 0.2" in whole[f"frame-{number}.png"].info["parameters"] for number in (2, 10))
    third = np.asarray(whole["frame-10.png"]).astype(int)
    (folder / "out" / "frame-10.png").unlink()
    command.draw(client(), options)  # another process: nothing is in memory
    again = Image.open(folder / "out" / "frame-10.png")
    assert "RefDrop RFG: 0.2" in again.info["parameters"] and "first" in again.info["parameters"]
    assert np.abs(np.asarray(again).astype(int) - third).mean() < 8


# --- what is measured ---


def test_flicker_is_what_moves_beyond_the_frames() -> None:
    given = np.stack([np.full((4, 4, 3), value, np.float32) for value in (0, 10, 20)])
    assert frames.flicker(given, given) == 0
    assert frames.flicker(given * 0, given) == -10  # frozen
    assert frames.flicker(given + np.array([0, 30, 0]).reshape(3, 1, 1, 1), given) == (40 + 20) / 2 - 10


def test_a_walk_moves_the_figure_and_nothing_else() -> None:
    rng = random.Random(3)
    walk = [np.asarray(frame).astype(int) for frame in frames.frames_of(draw_character(rng), rng)]
    moved = [np.abs(one - other) for one, other in zip(walk, walk[1:])]
    assert all(each[:, :2].max() == each[:, -2:].max() == 0 and each.max() > 50 for each in moved)
    assert np.abs(walk[0] - walk[-1]).mean() > moved[0].mean()


def test_likeness_is_with_the_first_or_the_one_before() -> None:
    names = list(UNNAMED)
    one = {"kind": "pirate", "pose": "up", "ground": "grass", **{name: UNNAMED[name][0] for name in names}}
    two = {**one, names[0]: UNNAMED[names[0]][1]}
    orders = [[Order("pirate", "up", "grass", 1)] * 3]
    made = frames.Drawn(given=[np.zeros((3, 2, 2, 3))], frames={"plain": [np.zeros((3, 2, 2, 3))]},
                        frame_words={"plain": [[one, two, two]]}, orders=orders,
                        stories={"plain": [[one, two, two]], "First": [[one, one, one]]})
    report = made.report()
    share = (len(names) - 1) / len(names)
    assert report["stories"]["plain"]["measured"]["like_first"]["value"] == pytest.approx(share)
    assert report["stories"]["plain"]["measured"]["like_previous"]["value"] == pytest.approx((share + 1) / 2)
    assert report["stories"]["First"]["over_plain"]["like_first"]["value"] == pytest.approx(1 - share)
    assert report["frames"]["plain"]["measured"]["changes"]["value"] == pytest.approx((1 - share) / 2)
    assert report["stories"]["plain"]["measured"]["adherence"]["value"] == 1
    assert "like first" in frames.table(report) and json.dumps(report)


def test_pictures_of_a_story_differ_from_the_one_before_in_pose_and_ground() -> None:
    story = frames.story_of(Order("king", "up", "snow", 9), random.Random(1))
    assert len(story) == frames.PICTURES and {order.kind for order in story} == {"king"}
    assert all(one.pose != other.pose and one.ground != other.ground for one, other in zip(story, story[1:]))
