"""Every kind of pass: from a picture, of a part of it, and with a refiner."""

from __future__ import annotations

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from .test_contracts import ROUNDING
from .webui import REFERENCE, SIZE, TARGET, Made, WebUI, difference


def encoded(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def start(without: dict[str, Made]) -> dict:
    """A request that begins with a picture."""
    return {"init_images": [encoded(without["euler"].pixels[0])], "denoising_strength": 0.8, "steps": 4}


@pytest.fixture(scope="module")
def chance(webui: WebUI, start: dict) -> float:
    """How far two equal requests lie apart: AUTOMATIC1111 draws the encoded picture without a seed."""
    return difference(webui.draw(**{**TARGET, **start}), webui.draw(**{**TARGET, **start}))


def test_a_reference_serves_img2img(webui: WebUI, start: dict, chance: float) -> None:
    plain, made = webui.draw(**{**TARGET, **start}), webui.use("hero", **start)
    assert difference(made, plain) > 2 * chance and "RefDrop RFG" in made.parameters[0]
    assert difference(webui.use("hero", 0, **start), plain) <= 2 * chance


def test_img2img_makes_references_too(webui: WebUI, start: dict, chance: float) -> None:
    own = webui.save("from a picture", **start)
    assert difference(webui.use("from a picture", 0.7, **{**REFERENCE, **start}), own) <= ROUNDING + 2 * chance


def test_inpainting_is_guided_where_it_paints(webui: WebUI, start: dict, without: dict[str, Made]) -> None:
    mask = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[:, SIZE // 2:] = 255
    start = {**start, "mask": encoded(mask), "mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": False}
    plain, made = webui.draw(**{**TARGET, **start}), webui.use("hero", **start)
    assert made.problem is None and made.hashes != plain.hashes
    kept = np.s_[:, :SIZE // 2 - 8]
    assert np.abs(made.pixels[0][kept].astype(int) - without["euler"].pixels[0][kept]).max() <= 1


def test_a_refiner_ends_guidance_with_a_note(webui: WebUI, without: dict[str, Made]) -> None:
    refiner = os.environ.get("REFDROP_REFINER")
    if not refiner:
        pytest.skip("REFDROP_REFINER names no second checkpoint of this web UI")
    request = {"refiner_checkpoint": refiner, "refiner_switch_at": 0.5, "steps": 6}
    plain = webui.draw(**{**TARGET, **request})
    made = webui.use("hero", **request)
    assert made.problem is None and made.hashes != plain.hashes
    assert webui.use("hero", 0, **request).hashes == plain.hashes
    assert "refiner" in made.info["extra_generation_params"]["RefDrop note"]
    assert webui.draw(**TARGET).hashes == without["euler"].hashes
