"""The design's contracts, through the script and the API, on the bundled model."""

import numpy as np
import pytest
from safetensors import safe_open

from lib_refdrop.playground import DEFAULT_MODEL, Playground
from lib_refdrop.playground.sampling.catalogue import SAMPLERS

from .conftest import Studio


def furthest(one, other):
    return int(np.abs(one.astype(int) - other).max())


def state_of(unet):
    """Everything a patch could leave behind: attributes, hooks and processors of every module."""
    return [
        (
            name,
            sorted(vars(module)),
            vars(type(module)).keys(),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            id(getattr(module, "processor", None)),
        )
        for name, module in unet.named_modules()
    ]


def test_off_is_bit_identical_to_a_host_without_the_extension(studio):
    bare = Studio(Playground(DEFAULT_MODEL, extension=False))
    plain = bare.draw(batch_size=2)
    before = state_of(studio.playground.model.pipeline.unet)
    studio.save("hero")
    studio.draw({"rfg": 0.5}, seed=8)
    off = studio.draw(batch_size=2)
    assert all(np.array_equal(one, other) for one, other in zip(off.pictures, plain.pictures))
    assert "RefDrop RFG" not in off.parameters[0] and "RefDrop mode" not in off.parameters[0]
    assert state_of(studio.playground.model.pipeline.unet) == before


def test_saving_and_a_coefficient_of_zero_change_nothing(studio):
    plain, other = studio.draw(), studio.draw(seed=8)
    assert np.array_equal(studio.save("hero").pictures[0], plain.pictures[0])
    zero = studio.draw({"rfg": 0}, seed=8)
    assert np.array_equal(zero.pictures[0], other.pictures[0])
    assert "RefDrop" not in zero.parameters[0].replace("RefDrop playground", "")


@pytest.mark.parametrize("sampler", [each.name for each in SAMPLERS])
def test_own_seed_gives_the_own_picture_at_every_coefficient(studio, sampler):
    saved = studio.save("hero", sampler_name=sampler)
    for c in (0.7, -0.5) if sampler != "DPM adaptive" else (0.7,):  # which calls the model a hundred times
        again = studio.draw({"reference": "hero", "rfg": c}, sampler_name=sampler)
        assert furthest(again.pictures[0], saved.pictures[0]) <= 2
        assert "throughout" in again.comments


PROMPTS = ["a [pirate:wizard:0.5] on grass", "a [pirate|wizard] on grass", "a pirate AND a wizard :0.7 AND snow",
           "a pirate BREAK on (grass:1.3)", "a pirate on grass, " * 20]


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_own_seed_gives_the_own_picture_with_every_kind_of_prompt(studio, prompt, keep):
    """Alone, and as the second picture of a batch that the reference's picture was the first of."""
    saved = studio.draw({"mode": "Save", "reference": "hero", "keep": keep}, prompt=prompt, batch_size=2)
    again = studio.draw({"reference": "hero", "rfg": 0.7}, prompt=prompt)
    assert furthest(again.pictures[0], saved.pictures[0]) <= 2 and "throughout" in again.comments
    second = studio.draw({"reference": "hero", "rfg": 0.7}, prompt=prompt, batch_size=2, seed=4)
    assert furthest(second.pictures[1], saved.pictures[0]) <= 2


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
@pytest.mark.parametrize("payload", [
    {"enable_hr": True, "hr_scale": 1.5, "hr_second_pass_steps": 3, "denoising_strength": 0.6, "hr_prompt": "a wizard"},
    {"cfg_scale": 1}, {"negative_prompt": "a king " * 50}, {"override_settings": {"skip_early_cond": 0.3}},
    {"override_settings": {"s_min_uncond": 4.0}}, {"override_settings": {"batch_cond_uncond": False}},
    {"subseed": 9, "subseed_strength": 0.4}, {"override_settings": {"CLIP_stop_at_last_layers": 2}},
])
def test_own_seed_gives_the_own_picture_however_the_host_calls_the_model(studio, payload, keep):
    saved = studio.draw({"mode": "Save", "reference": "hero", "keep": keep, "enabled_hr": True}, **payload)
    again = studio.draw({"reference": "hero", "rfg": 0.7, "enabled_hr": True}, **payload)
    assert furthest(again.pictures[0], saved.pictures[0]) <= 2


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
def test_a_picture_begun_from_another_gives_itself_again(studio, keep):
    before = studio.draw(seed=8).pictures[0]
    saved = studio.draw_from(
        before, {"mode": "Save", "reference": "hero", "keep": keep}, denoising_strength=0.7, steps=6
    )
    again = studio.draw_from(before, {"reference": "hero", "rfg": 0.7}, denoising_strength=0.7, steps=6)
    assert furthest(again.pictures[0], saved.pictures[0]) <= 2 and "throughout" in again.comments


def test_a_reference_serves_another_sampler_steps_batch_and_size(studio):
    studio.save("hero", steps=20, sampler_name="Euler")
    other = dict(seed=11, steps=6, sampler_name="Heun", batch_size=3, width=192, height=96)
    guided, plain = studio.draw({"reference": "hero", "rfg": 0.5}, **other), studio.draw(**other)
    assert len(guided.pictures) == 3 and guided.pictures[0].shape == (96, 192, 3)
    assert all(furthest(one, two) > 20 for one, two in zip(guided.pictures, plain.pictures))
    assert "throughout" in guided.comments


def test_every_picture_of_a_batch_is_the_one_its_seed_gives_alone(studio):
    studio.save("hero")
    settings = {"reference": "hero", "rfg": 0.4}
    batch = studio.draw(settings, seed=30, batch_size=2, n_iter=2)
    for number, picture in enumerate(batch.pictures):
        assert furthest(picture, studio.draw(settings, seed=30 + number).pictures[0]) <= 2


def test_without_guidance_scale_only_the_conditional_branch_is_used(studio):
    saved = studio.save("hero", cfg_scale=1)
    again = studio.draw({"reference": "hero", "rfg": 0.7}, cfg_scale=1)
    assert furthest(again.pictures[0], saved.pictures[0]) <= 2 and "throughout" in again.comments


def test_a_reference_is_one_file_that_the_public_library_reads(studio):
    said = studio.save("hero").comments
    files = list((studio.playground.refdrop_dir).iterdir())
    assert [file.name for file in files] == ["hero.safetensors"] and "1 file" in said
    with safe_open(files[0], framework="pt") as file:
        assert "a pirate arms up on grass" in file.metadata()["refdrop"] and len(list(file.keys())) > 10


def test_parameters_tell_what_guided_the_picture(studio):
    studio.save("hero")
    text = studio.draw({"rfg": -0.3, "layer_input": False}, seed=8).parameters[0]
    assert "RefDrop RFG: -0.3" in text and "RefDrop reference: hero" in text and "RefDrop input layers: False" in text


def test_references_in_memory_leave_no_file(studio):
    saved = studio.draw({"mode": "save", "store": "ram", "reference": "hero", "keep": "exact"})
    again = studio.draw({"store": "RAM", "reference": "hero", "rfg": 0.7})
    assert furthest(again.pictures[0], saved.pictures[0]) <= 2
    assert not studio.playground.refdrop_dir.exists() or not list(studio.playground.refdrop_dir.iterdir())


def test_the_nine_arguments_of_the_older_extension_still_work(studio):
    assert "Saved reference" in studio.draw([True, 0.3, "Save", False, "Disk", 100, True, True, True]).comments
    guided = studio.draw([True, 0.3, "Use", False, "Disk", 100, True, True, True], seed=8)
    assert "throughout" in guided.comments and furthest(guided.pictures[0], studio.draw(seed=8).pictures[0]) > 20


def test_saving_twice_keeps_both_unless_asked_to_replace(studio):
    studio.save("hero")
    assert "hero-2" in studio.save("hero", seed=6).comments
    studio.draw({"mode": "Save", "reference": "hero", "replace": True}, seed=7)
    assert sorted(file.stem for file in studio.playground.refdrop_dir.iterdir()) == ["hero", "hero-2"]


def test_part_of_the_schedule_and_of_the_layers_can_be_kept(studio):
    studio.save("whole", steps=10)
    for name, part in {"half": {"save_percent": 50}, "outer": {"layer_input": False, "layer_middle": False}}.items():
        studio.draw({"mode": "Save", "reference": name, "keep": "Exact", **part}, steps=10)
    size = {file.stem: file.stat().st_size for file in studio.playground.refdrop_dir.iterdir()}
    assert 0.45 < size["half"] / size["whole"] < 0.55 and size["outer"] < 0.8 * size["whole"]
    assert "5 of 10 model calls" in studio.draw({"reference": "half"}, steps=10, seed=8).comments
