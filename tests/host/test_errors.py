"""What cannot be done is said in the answer, and the picture is either not made or plain, as the user chose."""

from __future__ import annotations

import pytest

from .webui import TARGET, Made, WebUI


@pytest.mark.parametrize(("settings", "says"), [
    ({"mode": "Use", "reference": "nobody"}, "nobody"), ({"mode": "Use", "rfg": 5}, "RFG coefficient"),
    ({"mode": "Improve"}, "Mode"), ({"mode": "Use", "colour": 1}, "colour"),
    ({"mode": "Save", "reference": "a/b"}, "a/b"),
], ids=str)
def test_a_run_that_cannot_be_guided_stops_before_a_picture(webui: WebUI, settings: dict, says: str) -> None:
    made = webui.draw(settings, **TARGET)
    assert says in made.problem and not made.pixels
    assert made.problem in webui.log()


def test_or_goes_on_plain_where_the_user_wants_that(webui: WebUI, without: dict[str, Made]) -> None:
    made = webui.draw({"mode": "Use", "reference": "nobody", "on_problem": "Continue"}, **TARGET)
    assert made.hashes == without["euler"].hashes and "nobody" in made.problem
    assert "RefDrop RFG" not in made.parameters[0] and "RefDrop problem" in made.parameters[0]


def test_a_damaged_reference_is_named(webui: WebUI) -> None:
    webui.references.joinpath("broken.safetensors").write_bytes(b"not a reference")
    assert "broken" in webui.draw({"mode": "Use", "reference": "broken"}, **TARGET).problem


def test_a_problem_is_not_carried_into_the_next_run(webui: WebUI) -> None:
    webui.draw({"mode": "Use", "reference": "nobody"}, **TARGET)
    assert webui.use("hero").problem is None
