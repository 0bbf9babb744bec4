"""Settings travel: into a picture's parameters and back, and along the axes of a plot."""

from __future__ import annotations

import pytest

from .webui import TARGET, Made, Refused, WebUI


@pytest.fixture
def reads_infotext(webui: WebUI) -> None:
    """One version of Forge fails at every request with this field, whatever it says."""
    try:
        webui.draw(infotext="a cat\nSteps: 1, Sampler: Euler, Seed: 1, Size: 64x64")
    except Refused as error:
        pytest.skip(f"this web UI's own infotext field does not work ({error})")


def test_a_pictures_parameters_make_it_again(webui: WebUI, reads_infotext: None) -> None:
    made = webui.use("hero", 0.45, {"save_percent": 50, "layer_input": False})
    again = webui.draw(infotext=made.parameters[0])
    assert again.hashes == made.hashes and again.parameters == made.parameters


def test_parameters_of_a_plain_picture_leave_refdrop_off(webui: WebUI, reads_infotext: None,
                                                         without: dict[str, Made]) -> None:
    assert webui.draw(infotext=without["euler"].parameters[0]).hashes == without["euler"].hashes


def test_a_plot_over_c_and_the_reference(webui: WebUI, without: dict[str, Made]) -> None:
    made = webui.draw([True, 0.9, "Use"], **TARGET, script_name="x/y/z plot", script_args=_plot(
        webui, x=("[RefDrop] RFG coefficient", "0, 0.3, 0.6"), y=("[RefDrop] Reference", "hero")))
    cells = [webui.use("hero", c).hashes[0] for c in (0, 0.3, 0.6)]
    assert made.hashes[-3:] == cells and cells[0] == without["euler"].hashes[0]
    said = made.info["infotexts"][-3:]
    assert "RefDrop RFG: 0.6" in said[2] and "RefDrop RFG: 0.3" in said[1] and "RefDrop RFG" not in said[0]


def test_our_options_are_restored_after_a_request(webui: WebUI) -> None:
    webui.draw(**TARGET, override_settings={"refdrop_inner_passes": True})
    options = webui.get("/sdapi/v1/options")
    assert options.get("refdrop_inner_passes", False) is False  # Forge's API leaves extensions' options out


def _plot(webui: WebUI, **axes: tuple[str, str]) -> list:
    """The plot script's arguments: everything as the page shows it, but the axes, and the single pictures kept."""
    info = webui.get("/sdapi/v1/script-info")
    shown = next(script for script in info if script["name"] == "x/y/z plot" and not script["is_img2img"])["args"]
    args = [control["value"] for control in shown]
    for place, control in enumerate(shown):
        for axis, (label, values) in axes.items():
            if control["label"] == f"{axis.upper()} type":
                args[place] = control["choices"].index(label)
                args[place + 1:place + 3] = [values, []]
            elif control["label"].endswith(" type") and control["label"][0].lower() not in axes:
                args[place] = 0  # nothing
        if control["label"] in ("Include Sub Images", "Use text inputs instead of dropdowns"):
            args[place] = True
    return args
