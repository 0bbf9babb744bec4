"""Several references, masks, layers and given pictures, through the API, infotext and plot of a real web UI."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from .test_travel import _plot, reads_infotext  # noqa: F401  # a fixture
from .webui import SIZE, TARGET, Made, WebUI

OTHER = {"prompt": "a king on sand", "seed": 33}


@pytest.fixture(scope="module")
def other(webui: WebUI) -> Made:
    return webui.save("other", **OTHER)


def encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def half(left: bool) -> str:
    image = Image.new("L", (32, 32), 0 if left else 255)
    image.paste(255 if left else 0, (0, 0, 16, 32))
    return encoded(image)


def test_a_list_of_references(webui: WebUI, other: Made, without: dict[str, Made]) -> None:
    two = [{"name": "hero", "rfg": 0.4}, {"name": "other", "rfg": -0.2, "until": 0.7}]
    both = webui.draw({"references": two}, **TARGET)
    assert both.problem is None and both.info["extra_generation_params"]["RefDrop reference"] == "hero"
    alone = [webui.draw({"references": [each]}, **TARGET) for each in two]
    assert len({both.hashes[0], *(each.hashes[0] for each in alone), without["euler"].hashes[0]}) == 4
    assert alone[0].hashes == webui.use("hero", 0.4).hashes
    zero = webui.draw({"references": "hero: 0; other: 0"}, **TARGET)
    assert zero.hashes == without["euler"].hashes


def test_the_parameters_of_several_make_the_picture_again(webui: WebUI, other: Made,
                                                          reads_infotext: None) -> None:  # noqa: F811
    made = webui.draw({"layers": "Free layout; 0-0.8", "references": [
        {"name": "hero", "rfg": 0.4}, {"name": "other", "rfg": 0.2, "layers": "middle=0.5"}]}, **TARGET)
    again = webui.draw(infotext=made.parameters[0])
    assert again.hashes == made.hashes and again.parameters == made.parameters


def test_a_plot_over_layers(webui: WebUI, without: dict[str, Made]) -> None:
    made = webui.draw([True, 0.4, "Use"], **TARGET, script_name="x/y/z plot", script_args=_plot(
        webui, x=("[RefDrop] Layers that guide", "Everything, Free layout, Style only"),
        y=("[RefDrop] Reference", "hero")))
    cells = [webui.use("hero", 0.4, {"layers": layers}).hashes[0]
             for layers in ("Everything", "Free layout", "Style only")]
    assert made.hashes[-3:] == cells and len({*cells, without["euler"].hashes[0]}) == 4


def test_a_mask_keeps_guidance_on_its_side(webui: WebUI, without: dict[str, Made]) -> None:
    def moved(made: Made) -> list[float]:
        change = np.abs(made.pixels[0].astype(float) - without["euler"].pixels[0])
        return [change[:, :SIZE // 2].mean(), change[:, SIZE // 2:].mean()]

    # Weakly: what a model of random weights draws is another picture everywhere as soon as anything is pushed hard.
    left, right = (moved(webui.use("hero", 0.1, {"mask": half(side)})) for side in (True, False))
    assert left[0] / left[1] > right[0] / right[1]
    whole, part = webui.use("hero", 0.6), webui.use("hero", 0.6, {"reference_mask": half(True)})
    assert part.problem is None and part.hashes != whole.hashes


def test_masks_by_a_word(webui: WebUI, without: dict[str, Made]) -> None:
    """The web UI's own tokenizer finds the words, in a prompt with emphasis that changes on the way."""
    prompt = "a (king:1.2) and a [ship:castle:0.5] on sand"
    plain = webui.draw(**OTHER)
    saved = webui.save("marked", {"reference_mask_word": "king"}, prompt=prompt, seed=OTHER["seed"])
    assert saved.problem is None
    part, whole = (webui.use("marked", 0.4, {"marked_only": only}, **OTHER) for only in (True, False))
    acting = webui.use("marked", 0.4, {"marked_only": False, "mask_word": "king, sand"}, **OTHER)
    assert not any(made.problem for made in (part, whole, acting))
    assert len({plain.hashes[0], *(made.hashes[0] for made in (part, whole, acting))}) == 4
    # Of three steps the ship is drawn in two, so that the second and third can be guided; the castle in the last.
    assert webui.use("marked", 0.4, {"mask_word": "ship"}, prompt=prompt).problem is None
    assert "from the second step on" in str(webui.use("marked", 0.4, {"mask_word": "castle"}, prompt=prompt).problem)
    assert "is not in the prompt" in str(webui.use("marked", 0.4, {"mask_word": "wizard"}, **OTHER).problem)
    assert webui.draw(**OTHER).hashes == plain.hashes


def test_a_given_picture_becomes_a_reference(webui: WebUI, without: dict[str, Made]) -> None:
    picture = Image.fromarray(np.tile(np.arange(SIZE, dtype=np.uint8), (SIZE, 1))).convert("RGB")
    saved = webui.draw({"mode": "Save", "reference": "drawn", "keep": "Tiny", "picture": encoded(picture)}, **TARGET)
    assert saved.problem is None and saved.hashes == without["euler"].hashes  # what is drawn is what the prompt draws
    guided = webui.use("drawn", 0.5)
    assert guided.problem is None and guided.hashes != without["euler"].hashes


def test_a_given_picture_by_inversion(webui: WebUI, without: dict[str, Made]) -> None:
    picture = Image.fromarray(np.tile(np.arange(SIZE, dtype=np.uint8), (SIZE, 1))).convert("RGB")
    settings = {"mode": "Save", "keep": "Tiny", "picture": encoded(picture)}
    saved = webui.draw({**settings, "reference": "inverted", "picture_by": "Inversion"}, **TARGET)
    assert saved.problem is None and saved.hashes == without["euler"].hashes
    webui.draw({**settings, "reference": "noised"}, **TARGET)
    guided = webui.use("inverted", 0.5)
    assert guided.problem is None and guided.hashes not in (without["euler"].hashes, webui.use("noised", 0.5).hashes)


def test_token_dropout_follows_the_seed(webui: WebUI) -> None:
    made = webui.use("hero", settings={"dropout": 0.5})
    assert made.problem is None and made.hashes == webui.use("hero", settings={"dropout": 0.5}).hashes
    assert made.hashes != webui.use("hero").hashes


def test_reference_only_and_style_fidelity(webui: WebUI, without: dict[str, Made],
                                           reads_infotext: None) -> None:  # noqa: F811
    joined = {"blend": "Concatenate", "weight": 2.0}
    made = webui.use("hero", settings={**joined, "style_fidelity": 0.5})
    assert made.problem is None
    others = [webui.use("hero", settings=joined), webui.use("hero"), without["euler"]]
    assert len({made.hashes[0], *(other.hashes[0] for other in others)}) == 4
    again = webui.draw(infotext=made.parameters[0])
    assert again.hashes == made.hashes and again.parameters == made.parameters
    assert webui.use("hero", settings={**joined, "weight": 0.0}).hashes == without["euler"].hashes


def test_adain_of_blocks_and_of_queries_and_keys(webui: WebUI, without: dict[str, Made],
                                                 reads_infotext: None) -> None:  # noqa: F811
    alone = {"rfg": 0.0, "adain": 1.0}
    made = [webui.use("hero", settings=each) for each in (alone, {**alone, "blend": "Concatenate"},
                                                          {"adain_attention": 1.0})]
    assert all(each.problem is None for each in made)
    others = [webui.use("hero"), without["euler"]]
    assert len({each.hashes[0] for each in (*made, *others)}) == 5
    again = webui.draw(infotext=made[0].parameters[0])
    assert again.hashes == made[0].hashes and again.parameters == made[0].parameters
    words = {"mode": "Use", "reference": "hero", "module": "reference_adain", "control_mode": 1}
    assert webui.draw(words, **TARGET).hashes == made[0].hashes
    assert webui.draw(**TARGET).hashes == without["euler"].hashes


@pytest.mark.parametrize("settings, words", [
    ({"references": ["hero"] * 9}, "9 are too many"), ({"mask": "no picture"}, "base64"),
    ({"layers": "outptu=0"}, "not understood"), ({"references": [{"name": "nobody"}]}, "nobody"),
])
def test_what_cannot_be_is_a_sentence(webui: WebUI, settings: dict, words: str, without: dict[str, Made]) -> None:
    made = webui.draw({"reference": "hero", **settings}, **TARGET)
    assert words in str(made.problem) and "\n" not in str(made.problem) and not made.pixels
    assert webui.draw(**TARGET).hashes == without["euler"].hashes
