"""Sequences in a real web UI: over a batch count, over requests of one name, and over a script that runs one processing
object again and again, as img2img's Batch does."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from .webui import TARGET, Made, WebUI, difference

NOTE = "RefDrop note"


def encoded(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def plain(webui: WebUI) -> Made:
    return webui.draw(**TARGET, n_iter=3)


def test_a_batch_count_is_a_sequence(webui: WebUI, plain: Made) -> None:
    made = {which: webui.draw({"sequence": which, "rfg": 0.5}, **TARGET, n_iter=3)
            for which in ("First", "Previous", "First and previous")}
    for which, each in made.items():
        assert each.problem is None and len(each.hashes) == 3, which
        assert each.hashes[0] == plain.hashes[0] and not set(each.hashes[1:]) & set(plain.hashes), which
        assert "RefDrop RFG" not in each.parameters[0] and "Picture 3 of a sequence" in each.parameters[2]
    assert len({each.hashes[1] for each in made.values()}) == 1 and len({each.hashes[2] for each in made.values()}) == 3
    assert webui.draw(**TARGET, n_iter=3).hashes == plain.hashes


def test_a_name_goes_on_over_requests(webui: WebUI) -> None:
    def frame(number: int, **settings) -> Made:
        webui.draw(**TARGET, steps=1)  # encoding draws on by random numbers from where the request before left them
        pixels = np.full((128, 128, 3), 60 + 40 * number, np.uint8)
        return webui.draw(settings or None, **TARGET, init_images=[encoded(pixels)], denoising_strength=0.6, steps=5)

    named = {"sequence": "First and previous", "sequence_name": "frames", "rfg": 0.5}
    made = [frame(number, **named) for number in range(3)]
    assert difference(made[0], frame(0)) < 1 < difference(made[1], frame(1))
    assert ["RefDrop RFG" in each.parameters[0] for each in made] == [False, True, True]
    assert all(each.problem is None for each in made)
    assert "the first picture" in made[2].parameters[0] and "the previous picture" in made[2].parameters[0]


def test_a_script_that_runs_the_same_object_again_goes_on(webui: WebUI) -> None:
    made = webui.draw({"sequence": "First", "rfg": 0.5}, **TARGET, steps=5, denoising_strength=0.6,
                      init_images=[encoded(np.full((128, 128, 3), 90, np.uint8))], script_name="loopback",
                      script_args=[2, 0.6, "Linear", "None"])
    assert made.problem is None
    assert made.info["extra_generation_params"][NOTE].startswith("Picture 2 of a sequence")
