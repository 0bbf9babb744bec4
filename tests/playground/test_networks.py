"""LoRAs from a folder."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lib_refdrop.playground import ApiError
from lib_refdrop.playground.networks import Networks, parse_prompt


@pytest.fixture
def loras(studio, tmp_path):
    """A folder with ``wild`` (UNet and text encoder), ``trained`` (as trainers name them) and two that are none."""
    pipeline = studio.playground.model.pipeline
    torch.manual_seed(0)

    def pair(layer):
        return torch.randn(4, layer.in_features) * 0.2, torch.randn(layer.out_features, 4) * 0.2

    wild, trained = {}, {}
    for part, end in (("unet", "attn1.to_k"), ("text_encoder", "q_proj")):
        for name, layer in getattr(pipeline, part).named_modules():
            if name.endswith(end):
                wild[f"{part}.{name}.lora_A.weight"], wild[f"{part}.{name}.lora_B.weight"] = pair(layer)
    for name, layer in pipeline.unet.named_modules():
        if name.endswith("attn2.to_v"):
            key = "lora_unet_" + name.replace(".", "_")
            trained[f"{key}.lora_down.weight"], trained[f"{key}.lora_up.weight"] = pair(layer)
            trained[f"{key}.alpha"] = torch.tensor(4.0)
    save_file(wild, tmp_path / "wild.safetensors")
    save_file(trained, tmp_path / "trained.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"rubbish")
    before, studio.playground.networks = studio.playground.networks, Networks(tmp_path)
    yield tmp_path
    studio.playground.networks = before


def mean(one, other):
    return float(np.abs(one.astype(int) - other).mean())


def test_tags_are_taken_out_of_the_prompt():
    text, found = parse_prompt("a <lora:hero:0.8>pirate <lora:snow> <other:x:1:2>")
    assert text == "a pirate  "
    assert {kind: [tag.items for tag in tags] for kind, tags in found.items()} == {
        "lora": [["hero", "0.8"], ["snow"]], "other": [["x", "1", "2"]]}


def test_a_lora_acts_as_strongly_as_asked_and_is_gone_afterwards(studio, loras):
    plain = studio.draw(prompt="a pirate").pictures[0]
    full, half, none = (studio.draw(prompt=f"a pirate<lora:wild:{weight}>").pictures[0] for weight in (1, 0.3, 0))
    assert mean(full, plain) > mean(half, plain) > 0.3 and np.array_equal(none, plain)
    assert np.array_equal(studio.draw(prompt="a pirate").pictures[0], plain)
    unet = studio.playground.model.pipeline.unet
    assert not any("lora" in name for name, _ in unet.named_modules()) and not hasattr(unet, "peft_config")
    assert "_hf_peft_config_loaded" not in vars(unet)


def test_text_encoder_and_unet_can_have_their_own_weights(studio, loras):
    both, text, unet = (
        studio.draw(prompt=f"a pirate<lora:wild:{weights}>").pictures[0] for weights in ("1", "1:0", "0:1")
    )
    plain = studio.draw(prompt="a pirate").pictures[0]
    assert all(mean(one, other) > 0.3 for one, other in ((both, text), (both, unet), (text, unet), (text, plain)))


def test_several_loras_and_one_of_the_second_pass_alone(studio, loras):
    one, two = (
        studio.draw(prompt=f"a pirate{tags}").pictures[0] for tags in ("<lora:wild>", "<lora:wild><lora:trained>")
    )
    assert mean(one, two) > 0.3
    hires = dict(prompt="a pirate", enable_hr=True, hr_scale=1.5, steps=3)
    assert (
        mean(studio.draw(**hires, hr_prompt="a pirate<lora:wild>").pictures[0], studio.draw(**hires).pictures[0]) > 0.3
    )


def test_a_reference_made_with_a_lora_gives_its_own_picture(studio, loras):
    saved = studio.save("hero", prompt="a pirate<lora:wild:0.5>")
    again = studio.draw({"reference": "hero", "rfg": 0.7}, prompt="a pirate<lora:wild:0.5>")
    assert np.abs(again.pictures[0].astype(int) - saved.pictures[0]).max() <= 2 and "throughout" in again.comments


@pytest.mark.parametrize(
    "tag, words",
    [
        ("<lora:hero>", "there is: broken, nothing, trained, wild"),
        ("<lora:broken>", "does not fit this model or is damaged"),
        ("<lora:nothing>", "'nothing'"),
        ("<lora:wild:much>", "weight"),
        ("<hypernet:x>", "<hypernet:…>"),
        ("<lora:../wild>", "no LoRA"),
        ("<lora:wild:nan>", "weight"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence_and_leaves_nothing(studio, loras, tag, words):
    plain = studio.draw().pictures[0]
    problem = studio.refusal(None, prompt="a pirate" + tag)
    assert problem.status == 422 and words in str(problem) and "\n" not in str(problem)
    assert np.array_equal(studio.draw().pictures[0], plain)


def test_without_a_folder_it_says_how_to_give_one(studio):
    assert "--lora-dir" in str(studio.refusal(None, prompt="a pirate <lora:hero>"))


def test_a_file_whose_name_is_no_text_is_not_listed(tmp_path):
    """In a sentence it could not be sent."""
    try:
        (tmp_path / os.fsdecode(b"bad\xff.safetensors")).touch()
    except OSError:
        pytest.skip("this file system has no such names")
    (tmp_path / "hat\n1.safetensors").touch()
    networks = Networks(tmp_path)
    with pytest.raises(ApiError) as caught:
        networks.check("a king <lora:bad\udcff>")
    assert str(caught.value).isprintable() and str(caught.value).endswith("there is: hat 1.")
