"""RefDrop in a program of one's own: two calls on any diffusers pipeline."""

from __future__ import annotations

import copy
import math
import os

import numpy as np
import pytest
import torch
from demo.model import new_pipeline
from diffusers import (
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from PIL import Image

import lib_refdrop as refdrop
from lib_refdrop.hosts.diffusers import clock_of, is_flow, self_attentions
from lib_refdrop.hosts.fingerprint import differ, fingerprint
from lib_refdrop.model.rows import Kind
from lib_refdrop.pipelines import _encoded
from lib_refdrop.stores import DiskStore
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.words import RefDropError, ReferenceProblem, SettingsError
from tests.techniques.test_contracts import state_of

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


@pytest.fixture
def double(pipe):
    """In float64: random weights are chaotic, and what a batch rounds otherwise in float32 grows from step to step."""
    yield pipe.to(torch.float64)
    pipe.to(torch.float32)


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


@pytest.mark.parametrize("keep", ["Tiny", "Exact"])
@pytest.mark.parametrize("more", [{"guidance_scale": 1.0}, {"num_images_per_prompt": 2}], ids=str)
def test_rows_are_the_pipelines_own(double, tmp_path, more, keep) -> None:
    with refdrop.record(double, "hero", keep=keep, folder=tmp_path):
        own = draw(double, **more)
    with refdrop.use(double, "hero", 0.7, folder=tmp_path):
        assert (draw(double, **more)[0] - own[0]).abs().max() < 1e-9


def test_several_references_and_a_part_of_the_layers_and_of_the_schedule(pipe, tmp_path) -> None:
    for name, seed in (("hero", 1), ("other", 5)):
        with refdrop.record(pipe, name, keep="Exact", folder=tmp_path):
            draw(pipe, seed=seed)

    def guided(reference, *strength, **more):
        with refdrop.use(pipe, reference, *strength, folder=tmp_path, **more) as done:
            made = draw(pipe, prompt="a nurse", seed=2)
        return made, done.outcomes[0]

    alone, _ = guided("hero", 0.4)
    assert torch.equal(guided({"hero": 0.4})[0], alone) and torch.equal(guided({"hero": 0.4, "other": 0.0})[0], alone)
    assert not torch.equal(guided({"hero": 0.4, "other": -0.2})[0], alone)
    half, outcome = guided("hero", 0.4, layers="Free layout; 0-0.5")
    assert (outcome.acted, outcome.calls) == (2, 4) and not torch.equal(half, alone)


@pytest.mark.parametrize("keep, given", [("Balanced", None), ("Tiny", None), ("Balanced", PICTURE)])
def test_adain_acts_on_the_pipelines_blocks(pipe, tmp_path, keep, given) -> None:
    with refdrop.record(pipe, "hero", folder=tmp_path, keep=keep, picture=given):
        draw(pipe, seed=4)
    before, plain = state_of(pipe.unet), draw(pipe, prompt="a nurse", seed=9)
    with refdrop.use(pipe, "hero", Strength(0.0, adain=1.0), folder=tmp_path) as used:
        made = draw(pipe, prompt="a nurse", seed=9)
    assert used.outcomes[0].acted_on_all == used.outcomes[0].calls and (made - plain).abs().max() > 1e-2
    assert state_of(pipe.unet) == before and torch.equal(draw(pipe, prompt="a nurse", seed=9), plain)


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
    with pytest.raises(SettingsError, match="not understood"), refdrop.use(pipe, "hero", layers="x=1", folder=tmp_path):
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


def unet_like(unet: UNet2DConditionModel, **other) -> UNet2DConditionModel:
    torch.manual_seed(5)
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    return UNet2DConditionModel(**{**config, **other}).eval()


def test_a_unet_made_for_inpainting_with_nine_channels(pipe, tmp_path) -> None:
    pipe = StableDiffusionInpaintPipeline(**{**pipe.components, "unet": unet_like(pipe.unet, in_channels=9)},
                                          requires_safety_checker=False)
    for keep in ("Exact", "Tiny"):
        with refdrop.record(pipe, keep, keep=keep, folder=tmp_path):
            own = draw(pipe, "inpainting")
        with refdrop.use(pipe, keep, 0.7, folder=tmp_path) as done:
            assert (draw(pipe, "inpainting") - own).abs().max() < 1e-2
        assert done.outcomes[0].acted_on_all == done.outcomes[0].calls


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
def test_a_pipeline_shaped_like_sdxl(pipe, keep, tmp_path) -> None:
    unet = unet_like(pipe.unet, addition_embed_type="text_time", addition_time_embed_dim=32,
                     projection_class_embeddings_input_dim=6 * 32 + 64)
    xl = StableDiffusionXLPipeline(pipe.vae, None, None, None, None, unet, pipe.scheduler)
    xl.set_progress_bar_config(disable=True)
    words = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(7 + i)) for i, shape in
             enumerate(((77, unet.config.cross_attention_dim), (64,)) * 2)]
    names = ("prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds", "negative_pooled_prompt_embeds")

    def picture(seed: int) -> torch.Tensor:
        return xl(**dict(zip(names, words)), num_inference_steps=4, height=64, width=64, output_type="latent",
                  generator=torch.Generator().manual_seed(seed)).images

    with refdrop.record(xl, "hero", keep=keep, folder=tmp_path):
        own = picture(1)
    plain = picture(2)
    with refdrop.use(xl, "hero", 0.7, folder=tmp_path) as done:
        assert (picture(1) - own).abs().max() < 1e-2
        assert not torch.equal(picture(2), plain)
    assert all(outcome.acted_on_all == outcome.calls == 4 for outcome in done.outcomes)


def test_a_scheduler_that_counts_noise_otherwise(pipe, tmp_path) -> None:
    pipe.scheduler = EDMEulerScheduler(sigma_min=0.05, sigma_max=14.0, sigma_data=1.0)
    with refdrop.record(pipe, "hero", keep="Exact", folder=tmp_path):
        own = draw(pipe)
    levels = DiskStore(tmp_path).load("hero").passes["base"].levels
    assert levels == pytest.approx([sigma.item() for sigma in pipe.scheduler.sigmas[:-1]], rel=1e-4)
    with refdrop.use(pipe, "hero", 0.7, folder=tmp_path):
        assert (draw(pipe) - own).abs().max() < 1e-2


def test_perturbed_attention_guidance_has_rows_of_its_own(pipe, tmp_path) -> None:
    pag = StableDiffusionPAGPipeline(**pipe.components, requires_safety_checker=False, pag_applied_layers=["mid"])
    pag.set_progress_bar_config(disable=True)
    with refdrop.record(pag, "hero", keep="Exact", folder=tmp_path):
        own = draw(pag)
    kinds = {str(kind) for kind in DiskStore(tmp_path).load("hero").passes["base"].kept}
    assert kinds == {"cond", "uncond", "cond.1"}
    with refdrop.use(pag, "hero", 0.7, folder=tmp_path):
        assert (draw(pag) - own).abs().max() < 1e-2
    with refdrop.use(pipe, "hero", 0.7, folder=tmp_path) as done:
        draw(pipe)
    assert done.outcomes[0].acted_on_all == done.outcomes[0].calls


def test_one_inside_another_is_guided_by_both_and_neither_counts_the_others_replay(pipe, tmp_path) -> None:
    for name, prompt in (("hero", "a pirate"), ("villain", "a clown")):
        with refdrop.record(pipe, name, keep="Tiny", folder=tmp_path):
            draw(pipe, prompt=prompt)
    alone = {}
    for name in ("hero", "villain"):
        with refdrop.use(pipe, name, 0.3, folder=tmp_path):
            alone[name] = draw(pipe, prompt="a nurse", seed=2)
    with refdrop.use(pipe, "hero", 0.3, folder=tmp_path) as outer, \
            refdrop.use(pipe, "villain", 0.3, folder=tmp_path) as inner:
        both = draw(pipe, prompt="a nurse", seed=2)
    assert [done.outcomes[0].calls for done in (outer, inner)] == [4, 4]
    assert all(not torch.allclose(both, other, atol=1e-3) for other in alone.values())
    with refdrop.use(pipe, "hero", 0.3, folder=tmp_path), refdrop.use(pipe, "villain", 0.0, folder=tmp_path):
        assert torch.equal(draw(pipe, prompt="a nurse", seed=2), alone["hero"])


def test_rows_that_nobody_knows_are_told_and_left_plain(pipe, tmp_path) -> None:
    with refdrop.record(pipe, "hero", keep="Exact", folder=tmp_path):
        draw(pipe)
    with pytest.raises(RefDropError, match="rows of a StableDiffusionPipeline"):
        with refdrop.use(pipe, "hero", 0.3, folder=tmp_path), torch.no_grad():
            pipe._guidance_scale = 7.5
            pipe.unet(torch.zeros(3, 4, 8, 8), 500, torch.zeros(3, 77, pipe.unet.config.cross_attention_dim))


def test_a_given_picture_becomes_the_reference(pipe, tmp_path) -> None:
    given = Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8))
    with refdrop.record(pipe, "hero", keep="Tiny", folder=tmp_path, picture=given, picture_seed=9):
        drawn = draw(pipe)
    assert torch.equal(drawn, draw(pipe))
    hero = DiskStore(tmp_path).load("hero")
    numbers = torch.from_numpy(np.array(given, dtype=np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latent = pipe.vae.encode(numbers).latent_dist.mean[0] * pipe.vae.config.scaling_factor
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(9))
    for index, sigma in enumerate(pipe.scheduler.sigmas[:-1].tolist()):
        wanted = (latent + sigma * noise) / (1 + sigma**2) ** 0.5
        assert torch.allclose(hero.inputs("base", index, Kind("cond"))["x"], wanted, atol=1e-4)
    with refdrop.record(pipe, "features", keep="Exact", folder=tmp_path, picture=given, picture_seed=9):
        draw(pipe)
    guided = {}
    for name in ("hero", "features"):
        with refdrop.use(pipe, name, 0.7, folder=tmp_path) as done:
            guided[name] = draw(pipe, prompt="a nurse", seed=2)
        assert done.outcomes[0].acted_on_all == done.outcomes[0].calls == 4
    assert (guided["hero"] - guided["features"]).abs().max() < 1e-3
    assert not torch.allclose(guided["hero"], draw(pipe, prompt="a nurse", seed=2), atol=1e-2)


def test_a_given_picture_in_flow_in_edm_and_for_inpainting(pipe, tmp_path) -> None:
    """The model's own scale: of rectified flow the straight line, of EDM's models the spread that they were made for;
    a UNet for inpainting has its mask behind."""
    latent = _encoded(pipe, PICTURE, (8, 8))
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))

    def first(pipe, kind="text") -> tuple[torch.Tensor, float]:
        with refdrop.record(pipe, "hero", keep="Tiny", folder=tmp_path, picture=PICTURE, replace=True):
            draw(pipe, kind)
        hero = DiskStore(tmp_path).load("hero")
        return hero.inputs("base", 1, Kind("cond"))["x"], hero.passes["base"].calls[1].sigma

    pipe.scheduler = EDMEulerScheduler(sigma_min=0.05, sigma_max=14.0, sigma_data=0.5)
    x, sigma = first(pipe)
    assert torch.allclose(x, (latent + sigma * noise) / (0.25 + sigma**2) ** 0.5, atol=1e-4)
    pipe.scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    x, sigma = first(pipe)
    assert 0 < sigma < 1 and torch.allclose(x, (1 - sigma) * latent + sigma * noise, atol=1e-4)
    pipe.scheduler = EulerDiscreteScheduler.from_config(new_pipeline(seed=3).scheduler.config)
    painting = StableDiffusionInpaintPipeline(**{**pipe.components, "unet": unet_like(pipe.unet, in_channels=9)},
                                              requires_safety_checker=False)
    x, sigma = first(painting, "inpainting")
    assert x.shape == (9, 8, 8) and torch.allclose(x[:4], (latent + sigma * noise) / (1 + sigma**2) ** 0.5, atol=1e-4)
    assert set(x[4].unique().tolist()) == {0.0, 1.0}  # the mask


@pytest.mark.parametrize("prediction", ["epsilon", "flow_prediction"])
def test_a_given_picture_is_inverted_as_its_model_predicts(pipe, tmp_path, prediction) -> None:
    """The step up from the picture, by the model's own call on it at the quietest level."""
    pipe.scheduler = UniPCMultistepScheduler(prediction_type=prediction, use_flow_sigmas="flow" in prediction)
    with refdrop.record(pipe, "hero", keep="Tiny", folder=tmp_path, picture=PICTURE, picture_by="Inversion"):
        drawn = draw(pipe)
    assert torch.equal(drawn, draw(pipe))
    hero, latent = DiskStore(tmp_path).load("hero"), _encoded(pipe, PICTURE, (8, 8))
    sigma, given = hero.passes["base"].calls[3].sigma, hero.inputs("base", 3, Kind("cond"))
    scale = 1.0 if "flow" in prediction else (1 + sigma**2) ** 0.5
    with torch.no_grad():
        slope = pipe.unet(latent[None] / scale, given["t"], given["context"][None])[0][0]
    assert torch.allclose(given["x"] * scale, latent + sigma * slope, atol=1e-3)
    assert sigma < 0.5 * hero.passes["base"].calls[0].sigma


def test_what_cannot_be_inverted_is_one_sentence(pipe, tmp_path) -> None:
    with pytest.raises(SettingsError, match="Noising or Inversion"):
        with refdrop.record(pipe, "hero", folder=tmp_path, picture=PICTURE, picture_by="magic"):
            pass
    pipe.scheduler = EDMEulerScheduler(sigma_min=0.05, sigma_max=14.0, sigma_data=0.5)
    with pytest.raises(ReferenceProblem, match="cannot be inverted; choose Noising"):
        with refdrop.record(pipe, "hero", folder=tmp_path, picture=PICTURE, picture_by="Inversion"):
            draw(pipe)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_picture_that_cannot_be_read_is_one_sentence_and_leaves_nothing(pipe, tmp_path) -> None:
    with pytest.raises(SettingsError, match="no pixels"):
        with refdrop.record(pipe, "hero", folder=tmp_path, picture=Image.new("RGB", (0, 4))):
            draw(pipe)
    assert DiskStore(tmp_path).names() == []


def noted(done) -> list[str]:
    return [note for outcome in done.outcomes for note in outcome.notes]


def test_other_weights_than_the_references_are_noted(pipe, tmp_path) -> None:
    with refdrop.record(pipe, "hero", folder=tmp_path):
        draw(pipe)
    with refdrop.use(pipe, "hero", 0.3, folder=tmp_path) as done:
        draw(pipe, prompt="a nurse")
        changed = list(pipe.unet.parameters())
        for weight in changed:
            weight.data.mul_(1.3)
        try:
            draw(pipe, prompt="a nurse")
        finally:
            for weight in changed:
                weight.data.div_(1.3)
    before, after = done.outcomes
    assert before.notes == [] and len(after.notes) == 1
    assert after.notes[0].startswith("Reference 'hero' was saved with other weights (StableDiffusionPipeline;")


def test_a_lora_on_self_attention_is_noted_and_another_precision_is_none(pipe, tmp_path) -> None:
    layer = next(iter(self_attentions(pipe.unet).values()))
    with refdrop.record(pipe, "hero", folder=tmp_path):
        draw(pipe)
    plain, hook = fingerprint(self_attentions(pipe.unet), torch.float32), None
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert not differ(plain, fingerprint(self_attentions(copy.deepcopy(pipe.unet).to(dtype)), dtype))
    down, up = (0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
                for shape in ((4, layer.to_k.in_features), (layer.to_k.out_features, 4)))
    hook = layer.to_k.register_forward_hook(lambda module, args, out: out + args[0] @ down.T @ up.T)  # as peft adds it
    try:
        with refdrop.use(pipe, "hero", 0.3, folder=tmp_path) as done:
            draw(pipe, prompt="a nurse")
    finally:
        hook.remove()
    assert "other weights" in " ".join(noted(done))


@pytest.mark.parametrize("weights", [None, [], 7, "no", [[1]], [[1, 2, 3, "x"]], {"a": 1}, [None], [[math.nan] * 4]])
def test_a_fingerprint_that_is_none_tells_nothing(pipe, weights) -> None:
    assert not differ(weights, fingerprint(self_attentions(pipe.unet), torch.float32))


def test_a_reference_that_somebody_writes_into_while_it_is_used_is_told(pipe, tmp_path) -> None:
    with refdrop.record(pipe, "hero", folder=tmp_path) as left:
        draw(pipe)
    with pytest.raises(ReferenceProblem, match="'hero' was changed by another program while it was in use"):
        with refdrop.use(pipe, "hero", 0.3, folder=tmp_path):
            draw(pipe, prompt="a nurse")
            status = left.saved.path.stat()
            os.utime(left.saved.path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**7))


def test_a_reference_of_another_way_of_counting_noise_is_refused(pipe, tmp_path) -> None:
    """The layers are the same; its levels, sigma from 0 to 1, are not."""
    with refdrop.record(pipe, "hero", folder=tmp_path):
        draw(pipe)
    eps = pipe.scheduler
    pipe.scheduler = flow = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    assert is_flow(flow) and is_flow(FlowMatchEulerDiscreteScheduler()) and not is_flow(eps)
    assert clock_of(flow)(250.0) == 0.25
    with pytest.raises(ReferenceProblem, match="'hero' was made with .*, this model is .*, rectified flow"):
        with refdrop.use(pipe, "hero", 0.3, folder=tmp_path):
            draw(pipe)
    with refdrop.record(pipe, "river", keep="Exact", folder=tmp_path):
        own = draw(pipe)
    levels = [sigma for sigma, _ in DiskStore(tmp_path).load("river").manifest["passes"]["base"]]
    assert len(levels) == 4 and 0.9 < levels[0] <= 1 and all(0 < sigma <= 1 for sigma in levels)
    with refdrop.use(pipe, "river", 0.7, folder=tmp_path):
        assert (draw(pipe) - own).abs().max() < 1e-3
    pipe.scheduler = eps
    with pytest.raises(ReferenceProblem, match="'river' was made with .*rectified flow"):
        with refdrop.use(pipe, "river", 0.3, folder=tmp_path):
            draw(pipe)
