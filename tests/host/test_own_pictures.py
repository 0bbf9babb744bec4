"""A reference gives its own picture back at every c, whatever its prompt says and however it is kept: with its own
seed, prompt and settings, alone or out of a batch."""

from __future__ import annotations

import pytest

from .webui import REFERENCE, Made, WebUI, largest

LEVELS = 2  # grey levels, anywhere in the picture
STEPS = {"steps": 4}
PROMPTS = {
    "editing": "[castle:ruin:0.5] on grass", "alternation": "a [cow|horse] on snow",
    "AND": "a pirate on grass AND a nurse waving :0.7", "three parts": "a pirate AND a king AND sand :0.4",
    "BREAK": "a pirate BREAK on grass, arms up", "all of it": "[castle:ruin:0.5] BREAK on grass AND a [cow|horse] :0.6",
    "long": ", ".join(["a pirate who has more to tell than one chunk of tokens takes"] * 7) + " AND a nurse",
}


def same(made: Made, own: Made, image: int = 0) -> None:
    assert made.problem is None
    assert largest(made.pixels[0], own.pixels[image]) <= LEVELS


@pytest.fixture(scope="module", params=PROMPTS)
def prompt(request) -> str:
    return PROMPTS[request.param]


@pytest.fixture(scope="module")
def own(webui: WebUI, prompt: str) -> Made:
    """A batch of two, whose first picture is saved whole; both are remembered."""
    webui.post("/sdapi/v1/options", {"refdrop_remember": True})  # an overridden setting comes too late for it
    try:
        made = webui.save("own", prompt=prompt, batch_size=2, **STEPS)
    finally:
        webui.post("/sdapi/v1/options", {"refdrop_remember": False})
    assert made.problem is None and len(made.pixels) == 2
    assert largest(made.pixels[0], made.pixels[1]) > 20
    return made


def test_the_first_of_a_batch_kept_whole(webui: WebUI, own: Made, prompt: str) -> None:
    for c in (0.7, -0.4):
        same(webui.use("own", c, **{**REFERENCE, "prompt": prompt, **STEPS}), own)


def test_in_the_same_batch_as_well(webui: WebUI, own: Made, prompt: str) -> None:
    same(webui.use("own", 0.7, **{**REFERENCE, "prompt": prompt, "batch_size": 2, **STEPS}), own)


@pytest.mark.parametrize("image", [0, 1])
def test_either_of_a_batch_that_was_remembered(webui: WebUI, own: Made, prompt: str, image: int) -> None:
    """Remembered pictures are trajectories, computed again when they are used."""
    seed = REFERENCE["seed"] + image
    made = webui.draw({"mode": "Use", "store": "RAM", "rfg": 0.7, "reference": f"{_name(prompt)}-{seed}"},
                      **{**REFERENCE, "prompt": prompt, "seed": seed, **STEPS})
    assert f"{_name(prompt)}-{seed}" in made.parameters[0]
    same(made, own, image)


def test_a_picture_alone_kept_as_a_trajectory(webui: WebUI, prompt: str) -> None:
    request = {**REFERENCE, "prompt": prompt, **STEPS}
    alone = webui.save("alone", {"keep": "Tiny"}, **request)
    same(webui.use("alone", 0.7, **request), alone)


@pytest.mark.parametrize("payload", [
    {"batch_cond_uncond": False}, {"pad_cond_uncond": True}, {"skip_early_cond": 0.5}, {"s_min_uncond_all": True},
], ids=str)
@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
def test_with_calls_laid_out_otherwise(webui: WebUI, payload: dict, keep: str) -> None:
    options = webui.get("/sdapi/v1/options")
    if not set(payload) <= set(options):
        pytest.skip("this web UI has no such option")
    request = {**REFERENCE, "prompt": PROMPTS["AND"], "override_settings": payload, **STEPS}
    request |= {"s_min_uncond": 3} if "s_min_uncond_all" in payload else {}
    own = webui.save("otherwise", {"keep": keep}, **request)
    same(webui.use("otherwise", 0.7, **request), own)


def _name(prompt: str) -> str:
    """How remembered pictures are called, before their seed."""
    words = "-".join("".join(letter if letter.isalnum() else " " for letter in prompt.lower()).split())
    return words.encode()[:60].decode().strip("-")
