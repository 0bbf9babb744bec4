"""Every fault is one sentence with an HTTP status; nothing saved before is lost, and the next picture is right."""

import os

import numpy as np
import pytest

from lib_refdrop.hosts.diffusers import self_attentions
from lib_refdrop.playground import ApiError
from lib_refdrop.stores import DiskStore


@pytest.mark.parametrize("settings, word", [
    ({"mode": "Morph"}, "Save or Use"), ({"rfg": 5}, "-1 to 1"), ({"rfg": float("nan")}, "-1 to 1"),
    ({"rfg": "much"}, "-1 to 1"), ({"save_percent": -1}, "0 to 100"), ({"store": "Tape"}, "RAM or Disk"),
    ({"strength": 1}, "no setting named 'strength'"), ({"reference": "a/b"}, "cannot be a reference's name"),
    ({"layer_input": False, "layer_middle": False, "layer_output": False}, "layers"),
])
def test_a_setting_that_cannot_be(studio, settings, word):
    problem = studio.refusal(settings)
    assert problem.status == 422 and word in str(problem) and "\n" not in str(problem)


def test_no_reference_to_use(studio):
    problem = studio.refusal({"mode": "Use"})
    assert problem.status == 400 and "Save first" in str(problem)
    studio.save("hero")
    problem = studio.refusal({"reference": "villain"})
    assert "'villain'" in str(problem) and "hero" in str(problem)


@pytest.mark.parametrize("damage", ["truncated", "empty", "not safetensors", "other safetensors", "a flipped byte"])
def test_a_file_that_is_damaged(studio, damage):
    studio.save("kept")
    studio.save("hero")
    path = studio.playground.refdrop_dir / "hero.safetensors"
    whole = path.read_bytes()
    path.write_bytes({
        "truncated": whole[:len(whole) // 2], "empty": b"", "not safetensors": b"PK\3\4 an archive" * 50,
        "other safetensors": b"\x02\0\0\0\0\0\0\0{}", "a flipped byte": whole[:5] + b"\xff" + whole[6:],
    }[damage])
    problem = studio.refusal({"reference": "hero"})
    assert problem.status == 400 and "hero" in str(problem) and "\n" not in str(problem)
    assert "'kept'" in studio.draw({"reference": "kept"}, seed=8).comments


def test_a_reference_of_another_lineage(studio):
    studio.save("hero")
    store = DiskStore(studio.playground.refdrop_dir)
    reference = store.load("hero")
    reference.manifest["lineage"] = "that of another model"
    store.save(reference, "stranger")
    problem = studio.refusal({"reference": "stranger"})
    assert problem.status == 400 and "stranger" in str(problem) and "model" in str(problem)


@pytest.mark.skipif(os.name == "nt", reason="folders are made read-only in another way there")
def test_a_folder_that_cannot_be_written(studio, tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    studio.playground.refdrop_dir = tmp_path / "file" / "references"
    problem = studio.refusal({"mode": "Save"})
    assert problem.status == 507 and "file" in str(problem)


def test_a_problem_can_be_told_to_let_the_picture_be_drawn_plain(studio):
    plain = studio.draw()
    made = studio.draw({"reference": "villain", "on_problem": "Continue"})
    assert np.array_equal(made.pictures[0], plain.pictures[0])
    assert "villain" in made.comments and "RefDrop RFG" not in made.parameters[0]


def test_after_a_fault_in_the_model_the_next_picture_is_right(studio):
    studio.save("hero")
    plain, unet = studio.draw(seed=8), studio.playground.model.pipeline.unet
    layer = list(self_attentions(unet).values())[3]
    handle = layer.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of luck")))
    with pytest.raises(RuntimeError):
        studio.draw({"reference": "hero"})
    handle.remove()
    assert np.array_equal(studio.draw(seed=8).pictures[0], plain.pictures[0])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_numbers_that_are_not_finite_are_not_kept(studio):
    unet = studio.playground.model.pipeline.unet
    weight = next(iter(self_attentions(unet).values())).to_k.weight
    before = weight.data.clone()
    try:
        weight.data.fill_(float("nan"))
        problem = studio.refusal({"mode": "Save", "reference": "broken"})
    finally:
        weight.data.copy_(before)
    assert "finite" in str(problem)
    assert not (studio.playground.refdrop_dir / "broken.safetensors").exists()


@pytest.mark.parametrize(
    "payload, word",
    [
        ({"steps": 0}, "steps"),
        ({"width": 100}, "multiple of 8"),
        ({"sampler_name": "Magic"}, "Euler a"),
        ({"scheduler": "Magic"}, "schedule"),
        ({"batch_size": 99}, "batch_size"),
        ({"prompt": 3}, "prompt must be text"),
        ({"restore_faces": True}, "restore_faces"),
        ({"alwayson_scripts": {"Other": {"args": []}}}, "Other not found"),
        ({"alwayson_scripts": {"RefDrop": {"args": {}}}}, "must be a list"),
        ({"alwayson_scripts": [1]}, "must be an object"),
    ],
)
def test_a_request_that_cannot_be(studio, payload, word):
    problem = studio.refusal(None, **payload)
    assert problem.status == 422 and word in str(problem)


def test_a_reference_that_is_silent_at_every_level_of_the_run_says_so(studio):
    """And not that the model's attention never ran."""
    made = studio.draw({"mode": "Save", "reference": "start", "save_percent": 25})
    with pytest.raises(ApiError) as caught:
        studio.draw_from(made.pictures[0], {"reference": "start"}, denoising_strength=0.3, steps=8)
    assert "'start' has no features at the noise levels of this run" in str(caught.value)


def test_a_sampler_that_never_calls_the_model_is_told_as_that(studio):
    studio.save("hero")
    problem = studio.refusal({"reference": "hero"}, sampler_name="DPM adaptive", steps=1)
    assert "The sampler never called the model" in str(problem)
