"""Other extensions that reach into guidance or self-attention, on at the same time: they work as they do alone."""

from __future__ import annotations

from typing import Any

import pytest

from lib_refdrop.stores import DiskStore

from .conftest import PLAIN
from .test_contracts import ROUNDING
from .test_own_pictures import same
from .test_passes import encoded
from .webui import REFERENCE, TARGET, Made, WebUI, difference, largest

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
    return {**more, "alwayson_scripts": {_script(webui, request.param): {"args": args}}}


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


# Part of a script's name: its arguments for so many tiles in a call, of halves of a picture of 256 × 128.
TILINGS = {"multidiffusion integrated": lambda at_once: [True, "MultiDiffusion", 128, 128, 0, at_once],
           "tiled diffusion": lambda at_once: [True, "MultiDiffusion", False, True, 256, 128, 16, 16, 0, at_once]}


@pytest.fixture(params=TILINGS)
def tiled(webui: WebUI, request):
    """A request in tiles, so many in a call; skips where the web UI has no such extension."""
    found = _script(webui, request.param)
    return lambda at_once: {"width": 256, "height": 128, "steps": 2,
                            "alwayson_scripts": {found: {"args": TILINGS[request.param](at_once)}}}


def test_tiles_are_guided_alike_however_many_come_in_a_call_and_none_is_saved(webui: WebUI, tiled) -> None:
    alone = webui.draw(**{**TARGET, **tiled(1)})
    assert alone.hashes != webui.draw(**{**TARGET, "width": 256, "height": 128, "steps": 2}).hashes
    made = [webui.use("hero", **tiled(at_once)) for at_once in (1, 2)]
    assert largest(made[0].pixels[0], made[1].pixels[0]) <= 2 < largest(made[0].pixels[0], alone.pixels[0])
    assert "tiles" in made[0].info["extra_generation_params"]["RefDrop note"]
    assert webui.use("hero", 0, **tiled(1)).hashes == alone.hashes
    assert "tiles" in webui.save("tiles", **tiled(1)).problem
    assert not (webui.references / "tiles.safetensors").exists()


def test_controlnets_reference_only_adds_calls_that_are_not_recorded(webui: WebUI, without: dict[str, Made]) -> None:
    found = _script(webui, "controlnet")
    unit = {"enabled": True, "module": "reference_only", "model": "None", "image": encoded(without["euler"].pixels[0]),
            "weight": 1.0, "threshold_a": 0.5, "control_mode": "Balanced"}
    with_it = {"alwayson_scripts": {found: {"args": [unit]}}}
    own, plain = webui.draw(**{**REFERENCE, **with_it}), webui.draw(**REFERENCE)
    assert difference(own, plain) > 0
    saved = webui.save("mixed", **with_it)
    assert saved.problem is None and largest(saved.pixels[0], own.pixels[0]) == 0
    same(webui.use("mixed", 0.7, **{**REFERENCE, **with_it}), own)
    store = DiskStore(webui.references)
    calls = [store.load(name).passes["base"].calls for name in ("hero", "mixed")]
    assert calls[0] == calls[1]
    after = webui.save("after")  # what it has put into the model may stay there
    assert after.hashes == plain.hashes
    same(webui.use("after", 0.7, **REFERENCE), plain)


def _script(webui: WebUI, part: str) -> str:
    names = [script["name"] for script in webui.get("/sdapi/v1/script-info") if script["is_alwayson"]]
    found = next((name for name in names if part in name.lower()), None)
    if found is None:
        pytest.skip("this web UI has no such extension")
    return found
