"""Other extensions that reach into guidance or self-attention, on at the same time: they work as they do alone."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import PLAIN
from .test_contracts import ROUNDING
from .webui import REFERENCE, TARGET, Made, WebUI, difference

# Part of a script's name: its arguments, and what else the request needs to show its effect.
LARGE = {"width": 128, "height": 128}  # at 64 the middle layer has one token only: nothing to perturb, blur or scale
NEIGHBOURS = {
    "freeu": ([True, 1.3, 1.4, 0.9, 0.2], LARGE), "perturbedattention": ([True, 3.0], LARGE),
    "selfattentionguidance": ([True, 2.0, 2.0, 0.5], LARGE), "hypertile integrated": ([True, 32, 1], {}),
    "stylealign": ([True, 1.0], PLAIN["batch"]),
}
TILES = {"override_settings": {"hypertile_enable_unet": True, "hypertile_max_tile_unet": 128}, "width": 256,
         "height": 256}
# In tiles a layer sees a part of its own picture and all of the reference: the own seed gives another picture.
TILED = ("hypertile integrated", "hypertile's option")


@pytest.fixture(params=[*NEIGHBOURS, "hypertile's option"])
def neighbour(webui: WebUI, request) -> dict[str, Any]:
    """A request's part that switches it on; skips where the web UI has no such extension."""
    if request.param == "hypertile's option":
        if "hypertile_enable_unet" not in webui.get("/sdapi/v1/options"):
            pytest.skip("this web UI has no such option")
        return TILES
    args, more = NEIGHBOURS[request.param]
    names = [script["name"] for script in webui.get("/sdapi/v1/script-info") if script["is_alwayson"]]
    found = next((name for name in names if request.param in name.lower()), None)
    if found is None:
        pytest.skip("this web UI has no such extension")
    return {**more, "alwayson_scripts": {found: {"args": args}}}


def test_both_work_and_at_c_0_the_neighbour_alone(webui: WebUI, without: dict[str, Made], neighbour: dict) -> None:
    alone = webui.draw(**{**TARGET, **neighbour})
    off = {name: value for name, value in neighbour.items() if name not in ("alwayson_scripts", "override_settings")}
    assert alone.hashes != webui.draw(**{**TARGET, **off}).hashes  # it does something
    made = webui.use("hero", **neighbour)
    assert made.problem is None and "RefDrop RFG" in made.parameters[0] and made.hashes != alone.hashes
    assert webui.use("hero", 0, **neighbour).hashes == alone.hashes
    assert webui.draw(**{**TARGET, **neighbour}).hashes == alone.hashes
    assert webui.draw(**TARGET).hashes == without["euler"].hashes


def test_a_reference_made_with_it_is_its_own_picture(webui: WebUI, neighbour: dict, request) -> None:
    plain, own = webui.draw(**{**REFERENCE, **neighbour}), webui.save("neighbour", **neighbour)
    assert own.hashes == plain.hashes and own.problem is None
    again = webui.use("neighbour", 0.7, **{**REFERENCE, **neighbour})
    assert again.problem is None
    if not any(tiled in request.node.name for tiled in TILED) and len(own.pixels) == 1:
        assert difference(again, own) <= ROUNDING
    served = webui.use("neighbour", sampler_name="Heun")
    assert served.problem is None and "RefDrop RFG" in served.parameters[0]
