"""RefDrop in a program of one's own: two calls on any diffusers pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

import lib_refdrop as refdrop
from lib_refdrop.stores import DiskStore
from lib_refdrop.words import RefDropError, ReferenceProblem, SettingsError
from tests.core.test_contracts import state_of

PICTURE = Image.fromarray(np.linspace(0, 255, 64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
MASK = Image.fromarray(np.pad(np.full((32, 32), 255, np.uint8), 16))
KINDS = {"text": {}, "picture": {"image": PICTURE, "strength": 0.7},
         "inpainting": {"image": PICTURE, "mask_image": MASK, "strength": 1.0, "height": 64, "width": 64}}


@pytest.fixture
def pipe(studio):
    """Text to picture; its scheduler is put back."""
    before = studio.pipeline.scheduler
    studio.pipeline.scheduler = EulerDiscreteScheduler.from_config(before.config)
    yield studio.pipeline
    studio.pipeline.scheduler = before


def of_kind(pipe, kind: str):
    parts = dict(pipe.components)
    others = {"picture": StableDiffusionImg2ImgPipeline, "inpainting": StableDiffusionInpaintPipeline}
    return others[kind](**parts, requires_safety_checker=False) if kind in others else pipe


def draw(pipe, kind: str = "text", prompt: str = "a pirate", seed: int = 1, **more) -> torch.Tensor:
    size = {"height": 64, "width": 64} if kind == "text" else {}
    return pipe(prompt, num_inference_steps=4, generator=torch.Generator().manual_seed(seed), output_type="latent",
                **{**KINDS[kind], **size, **more}).images


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pipeline_records_and_is_guided(pipe, kind, tmp_path) -> None:
    pipe = of_kind(pipe, kind)
    before, plain = state_of(pipe.unet), draw(pipe, kind, "a nurse", 2)
    with refdrop.record(pipe, "hero", keep="Exact", folder=tmp_path) as left:
        own = draw(pipe, kind)
    assert left.saved.name == "hero" and left.saved.path.is_file()
    assert torch.equal(own, draw(pipe, kind))  # recording changes nothing
    with refdrop.use(pipe, "hero", 0.4, folder=tmp_path) as done:
        guided = draw(pipe, kind, "a nurse", 2)
        again = draw(pipe, kind)
    assert [outcome.acted_on_all for outcome in done.outcomes] == [outcome.calls for outcome in done.outcomes]
    assert not torch.equal(guided, plain) and (again - own).abs().max() < 1e-3
    with refdrop.use(pipe, "hero", 0.0, folder=tmp_path):
        assert torch.equal(draw(pipe, kind, "a nurse", 2), plain)
    assert torch.equal(draw(pipe, kind, "a nurse", 2), plain) and state_of(pipe.unet) == before


@pytest.mark.parametrize("more", [{"guidance_scale": 1.0}, {"num_images_per_prompt": 2}], ids=str)
def test_rows_are_the_pipelines_own(pipe, tmp_path, more) -> None:
    with refdrop.record(pipe, "hero", keep="Tiny", folder=tmp_path):
        own = draw(pipe, **more)
    with refdrop.use(pipe, "hero", 0.7, folder=tmp_path):
        # Random weights are chaotic: what a batch rounds otherwise grows from step to step.
        assert (draw(pipe, **more)[0] - own[0]).abs().max() < 0.02


def test_only_the_first_generation_is_recorded_and_each_is_a_pass_of_its_own(pipe, tmp_path) -> None:
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    with refdrop.record(pipe, "hero", keep="Exact", folder=tmp_path):
        own = draw(pipe)
        draw(pipe, prompt="a nurse", seed=2)
    assert len(DiskStore(tmp_path).load("hero").passes["base"].calls) == 7  # 2N − 1
    with refdrop.use(pipe, "hero", 0.7, folder=tmp_path) as done:
        draw(pipe, prompt="a nurse", seed=2)
        # Heun comes to a level twice: nothing of the first picture is counted here.
        assert (draw(pipe) - own).abs().max() < 1e-3
    assert len(done.outcomes) == 2


def test_an_exception_leaves_no_reference_and_no_hook(pipe, tmp_path) -> None:
    before = state_of(pipe.unet)
    with pytest.raises(ZeroDivisionError), refdrop.record(pipe, "hero", folder=tmp_path):
        draw(pipe)
        raise ZeroDivisionError
    assert state_of(pipe.unet) == before and DiskStore(tmp_path).names() == []


def test_problems_are_one_sentence(pipe, tmp_path) -> None:
    with pytest.raises(ReferenceProblem, match="no reference 'nobody'"), refdrop.use(pipe, "nobody", folder=tmp_path):
        pass
    with refdrop.record(pipe, "hero", folder=tmp_path):
        draw(pipe)
    with pytest.raises(SettingsError, match="strength must be"), refdrop.use(pipe, "hero", 3, folder=tmp_path):
        pass
    with pytest.raises(SettingsError, match="sections"), refdrop.use(pipe, "hero", sections=[""], folder=tmp_path):
        pass
    with pytest.raises(SettingsError, match="keep must be"), refdrop.record(pipe, "hero", keep="Huge", folder=tmp_path):
        pass
    with pytest.raises(RefDropError, match="made no call"), refdrop.record(pipe, "unused", folder=tmp_path):
        pass
    with pytest.raises(RefDropError, match="no Stable Diffusion UNet"), refdrop.use(object(), "hero"):
        pass


def test_a_name_that_is_taken_gets_a_number(pipe, tmp_path) -> None:
    for name in ("hero", "hero-2"):
        with refdrop.record(pipe, "hero", keep="Tiny", folder=tmp_path) as left:
            draw(pipe)
        assert left.saved.name == name
