"""Stopping a generation half-way."""

import numpy as np
from demo.pictures import as_text
from PIL import Image

from lib_refdrop.references import inversion
from lib_refdrop.techniques.reference import inverting


def interrupted(studio, settings, after=2, **payload):
    """A generation that is stopped once ``after`` steps are done."""
    playground = studio.playground
    request = {"prompt": "a pirate arms up on grass", "seed": 5, "steps": 6, **payload,
               "alwayson_scripts": {"RefDrop": {"args": [{"enabled": True, **settings}]}}}

    def step(done):
        if done >= after / 6:
            playground.interrupt()

    return playground.generate(request, on_step=step)


def test_an_interrupted_save_keeps_nothing_and_says_so(studio):
    made = interrupted(studio, {"mode": "Save", "reference": "hero"})
    assert "interrupted" in " ".join(made.comments)
    assert not (studio.playground.refdrop_dir / "hero.safetensors").exists()


def test_an_inversion_can_be_interrupted(studio, monkeypatch):
    def begins(*given):
        studio.playground.interrupt()
        return inversion.inverted(*given)

    monkeypatch.setattr(inverting, "inverted", begins)
    picture = as_text(Image.new("RGB", (64, 64), "red"))
    made = interrupted(studio, {"mode": "Save", "reference": "hero", "picture": picture, "picture_by": "Inversion"},
                       after=9, steps=3, width=64, height=64)
    assert "interrupted, so no reference was saved" in " ".join(made.comments)
    assert not (studio.playground.refdrop_dir / "hero.safetensors").exists()
    unet = studio.playground.model.pipeline.unet
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_after_an_interrupt_the_model_is_as_it_was(studio):
    plain = studio.draw(seed=8)
    studio.save("hero")
    interrupted(studio, {"reference": "hero"})
    unet = studio.playground.model.pipeline.unet
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
    assert np.array_equal(studio.draw(seed=8).pictures[0], plain.pictures[0])


def test_an_interrupt_leaves_out_the_other_batches(studio):
    studio.save("hero")
    assert len(interrupted(studio, {"reference": "hero"}, n_iter=3).images) == 1
