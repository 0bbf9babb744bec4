"""Stopping a generation half-way."""

import numpy as np


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
