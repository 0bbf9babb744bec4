"""Samplers against what mathematics says, and against diffusers' own schedulers on the bundled model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from lib_refdrop.playground.sampling import catalogue, samplers
from lib_refdrop.playground.sampling.adaptive import dpm_adaptive
from lib_refdrop.playground.sampling.levels import SCHEDULES, ModelLevels, karras_between
from lib_refdrop.playground.sampling.noise import BrownianNoise, ImageNoise

# Data of one normal distribution with this deviation: then D is known, and so is where every sampler ends.
DEVIATION = 0.7
MOST, LEAST = 14.6, 0.03


def ideal(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return x * (DEVIATION**2 / (DEVIATION**2 + sigma**2))


def never(sigma: float, following: float) -> torch.Tensor:
    raise AssertionError("this sampler adds no noise")


def standard_normal():
    generator = torch.Generator().manual_seed(0)
    return lambda *_: torch.randn(1, 1, 100, 100, generator=generator, dtype=torch.float64)


def levels(steps: int) -> list[float]:
    return karras_between(LEAST, MOST, steps + 1)[:-1]


def error(sampler, steps: int, **options) -> float:
    """How far a sampler without noise is from the exact solution of the probability-flow equation."""
    start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    exact = math.sqrt((DEVIATION**2 + LEAST**2) / (DEVIATION**2 + MOST**2))
    return abs(float(sampler(ideal, start, levels(steps), never, lambda step: None, **options)) / exact - 1)


@pytest.mark.parametrize(
    "sampler, options, order",
    [
        (samplers.euler, {}, 1),
        (samplers.euler_ancestral, {"eta": 0.0}, 1),
        (samplers.heun, {}, 2),
        (samplers.dpm_2, {}, 2),
        (samplers.dpm_2_ancestral, {"eta": 0.0}, 2),
        (samplers.dpmpp_2s_ancestral, {"eta": 0.0}, 2),
        (samplers.dpmpp_2m, {}, 2),
        (samplers.dpmpp_sde, {"eta": 0.0}, 2),
        (samplers.dpmpp_2m_sde, {"eta": 0.0}, 2),
        (samplers.dpmpp_2m_sde, {"eta": 0.0, "solver": "heun"}, 2),
        (samplers.dpmpp_3m_sde, {"eta": 0.0}, 2),  # its first steps are of lower order
    ],
)
def test_the_error_falls_as_the_order_says(sampler, options, order):
    """Twice the steps, 2 to the power of the order less error."""
    coarse, fine = error(sampler, 80, **options), error(sampler, 160, **options)
    assert coarse < 0.05 and math.log2(coarse / fine) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("sampler, options", [
    (samplers.euler_ancestral, {}), (samplers.dpm_2_ancestral, {}), (samplers.dpmpp_2s_ancestral, {}),
    (samplers.dpmpp_sde, {}), (samplers.dpmpp_2m_sde, {}), (samplers.dpmpp_2m_sde, {"solver": "heun"}),
    (samplers.dpmpp_3m_sde, {}), (samplers.restart, {}),
])
def test_samplers_with_noise_end_in_the_data(sampler, options):
    """Started in the noised data, the spread at the end is that of the data at the last level, with many steps."""
    normal = standard_normal()
    x = sampler(ideal, normal() * math.sqrt(DEVIATION**2 + MOST**2), levels(400), normal, lambda step: None, **options)
    assert float(x.std()) == pytest.approx(math.sqrt(DEVIATION**2 + LEAST**2), rel=0.02)


def test_ddim_with_eta_ends_in_the_data_at_its_own_scale():
    normal = standard_normal()
    for eta in (0.0, 1.0):
        x = samplers.ddim(
            ideal, normal() * math.sqrt(DEVIATION**2 + MOST**2), levels(200), normal, lambda step: None, eta=eta
        )
        expected = math.sqrt((DEVIATION**2 + LEAST**2) / (1 + LEAST**2))
        assert float(x.std()) == pytest.approx(expected, rel=0.02)


def test_consistency_sampling_keeps_the_last_picture():
    seen = iter([torch.full((1, 1, 1, 1), 5.0), torch.full((1, 1, 1, 1), 7.0)])
    asked = []
    x = samplers.lcm(lambda x, sigma: asked.append(float(x)) or next(seen), torch.zeros(1, 1, 1, 1), [2.0, 1.0, 0.0],
                     lambda *_: torch.ones(1, 1, 1, 1), lambda step: None)
    assert float(x) == 7.0 and asked == [0.0, 6.0]


def test_the_adaptive_sampler_keeps_to_its_tolerance_with_few_calls():
    calls = []
    start, exact = torch.ones(1, 1, 1, 1, dtype=torch.float64) * MOST, MOST * math.sqrt(
        (DEVIATION**2 + LEAST**2) / (DEVIATION**2 + MOST**2))
    end = dpm_adaptive(lambda x, sigma: calls.append(sigma) or ideal(x, sigma), start, [MOST, LEAST, 0.0], never,
                       lambda step: None)
    assert abs(float(end) / exact - 1) < 0.05 and len(calls) < 120 and min(calls) > LEAST * 0.99


def test_restart_goes_back_up_as_often_as_the_steps_allow():
    def visits(steps):
        found = []
        samplers.restart(lambda x, sigma: found.append(sigma) or x, torch.zeros(1, 1, 1, 1),
                         [*levels(steps - 1), 0.0], lambda *_: torch.zeros(1, 1, 1, 1), lambda step: None)
        ends = [sigma for index, sigma in enumerate(found) if index and sigma > found[index - 1] * 1.5]
        return len(ends), all(1.3 < sigma < 3 for sigma in ends)

    assert visits(10) == (0, True) and visits(20) == (1, True) and visits(40) == (2, True)


def test_third_order_pays():
    assert error(samplers.dpmpp_3m_sde, 160, eta=0.0) < error(samplers.dpmpp_2m_sde, 160, eta=0.0) / 3


@pytest.fixture(scope="module")
def stable_diffusion() -> ModelLevels:
    return ModelLevels(
        EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    )


def test_levels_and_timesteps_are_each_others_inverse(stable_diffusion):
    assert stable_diffusion.most == pytest.approx(14.6146, abs=1e-4)  # the field's well-known ends
    assert stable_diffusion.least == pytest.approx(0.0292, abs=1e-4)
    for timestep in (0, 0.25, 17.5, 500, 998.999, 999):
        assert stable_diffusion.timestep(stable_diffusion.sigma(timestep)) == pytest.approx(timestep, abs=1e-6)
    assert stable_diffusion.timestep(1000.0) == 999 and stable_diffusion.timestep(1e-9) == 0


@pytest.mark.parametrize("name, options", [
    ("Uniform", {}), ("Karras", {"use_karras_sigmas": True}), ("Exponential", {"use_exponential_sigmas": True}),
])
@pytest.mark.parametrize("steps", [4, 20])
def test_schedules_are_those_of_another_implementation(stable_diffusion, name, options, steps):
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                       timestep_spacing="linspace", **options)
    scheduler.set_timesteps(steps)
    assert SCHEDULES[name](stable_diffusion, steps) == pytest.approx(scheduler.sigmas.tolist(), rel=1e-4)


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 150])
def test_every_schedule_falls_to_zero(stable_diffusion, name, steps):
    found = SCHEDULES[name](stable_diffusion, steps)
    assert found[-1] == 0 and all(one > other for one, other in zip(found, found[1:]))
    assert found[0] <= stable_diffusion.most * 1.0001 and (name == "DDIM" or len(found) == steps + 1)


def test_schedules_have_the_levels_that_web_uis_give(stable_diffusion):
    """By hand from their definitions, on timesteps 0 to 999."""
    own = stable_diffusion.sigmas
    assert SCHEDULES["Simple"](stable_diffusion, 4) == [own[999], own[749], own[499], own[249], 0.0]
    assert SCHEDULES["DDIM"](stable_diffusion, 4) == [own[751], own[501], own[251], own[1], 0.0]
    assert SCHEDULES["SGM Uniform"](stable_diffusion, 3) == pytest.approx([own[999], own[666], own[333], 0.0], rel=1e-6)
    heun = catalogue.find("DPM2")[0]
    assert heun.levels("Uniform", stable_diffusion, 3) == pytest.approx(
        [own[999], own[666], own[333], 0.0], rel=1e-6)  # of four levels the last but one is left out


def test_a_picture_begins_where_web_uis_begin(stable_diffusion):
    """0.4 of 20 steps makes 8 and one more; DDIM 8."""
    euler, ddim = catalogue.find("Euler")[0], catalogue.find("DDIM")[0]
    whole = euler.levels("Uniform", stable_diffusion, 20)
    assert euler.part(whole, 20, 8) == whole[11:] and len(whole[11:]) == 10
    assert len(ddim.part(ddim.levels("DDIM", stable_diffusion, 20), 20, 8)) == 9


@pytest.mark.parametrize("name, scheduler, options", [
    ("Euler", EulerDiscreteScheduler, {"timestep_spacing": "linspace"}),
    ("Heun", HeunDiscreteScheduler, {"timestep_spacing": "linspace"}),
    ("DPM++ 2M", DPMSolverMultistepScheduler, {"timestep_spacing": "linspace", "use_karras_sigmas": True}),
    ("DDIM", DDIMScheduler, {"timestep_spacing": "leading", "set_alpha_to_one": False, "clip_sample": False}),
])
def test_pictures_are_those_of_diffusers_own_pipeline(studio, name, scheduler, options):
    pipeline, before = studio.playground.model.pipeline, studio.playground.model.pipeline.scheduler
    noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(5))
    pipeline.scheduler = scheduler.from_config(before.config, **options)
    try:
        theirs = pipeline("a pirate arms up on grass", num_inference_steps=20, guidance_scale=6.0, latents=noise,
                          output_type="np").images[0]
    finally:
        pipeline.scheduler = before
    ours = studio.draw(sampler_name=name, steps=20, cfg_scale=6.0).pictures[0]
    assert np.abs(ours - theirs * 255).mean() < 1.0


def test_noise_is_an_images_own_wherever_it_stands():
    together, alone = ImageNoise((4, 8, 8), [3, 4]), ImageNoise((4, 8, 8), [4])
    assert all(torch.equal(together.next()[1], alone.next()[0]) for _ in range(3))
    brown, lonely = (BrownianNoise((4, 8, 8), seeds, LEAST, MOST) for seeds in ([3, 4], [4]))
    assert torch.equal(brown(5.0, 4.0)[1], lonely(5.0, 4.0)[0])


def test_brownian_noise_is_standard_and_its_path_does_not_depend_on_the_steps():
    noise = BrownianNoise((4, 64, 64), [1], LEAST, MOST)
    whole, first, second = noise(4.0, 2.0), noise(4.0, 3.0), noise(3.0, 2.0)
    assert float(whole.std()) == pytest.approx(1, abs=0.03)
    assert torch.allclose(whole * math.sqrt(2), first + second, atol=1e-3)


def test_a_variation_lies_between_its_seeds():
    one, other = ImageNoise((4, 8, 8), [1]).next(), ImageNoise((4, 8, 8), [2]).next()
    mixed = {part: ImageNoise((4, 8, 8), [1], [2], part).next() for part in (0.0, 0.5, 1.0)}
    assert torch.equal(mixed[0.0], one) and torch.allclose(mixed[1.0], other, atol=1e-5)
    # half-way on the sphere both weigh sin(angle / 2) / sin(angle), column by column
    unit, there = (noise / noise.norm(dim=2, keepdim=True) for noise in (one, other))
    angle = torch.acos((unit * there).sum(2, keepdim=True))
    assert torch.allclose(mixed[0.5], (one + other) * (torch.sin(angle / 2) / torch.sin(angle)), atol=1e-5)


@pytest.mark.parametrize("sampler", [each.name for each in catalogue.SAMPLERS if each.name != "DPM adaptive"])
def test_every_picture_of_a_batch_is_the_one_its_seed_gives_alone(studio, sampler):
    batch = studio.draw(seed=30, batch_size=2, sampler_name=sampler)
    alone = studio.draw(seed=31, sampler_name=sampler)
    assert np.abs(batch.pictures[1].astype(int) - alone.pictures[0]).max() <= 2


@pytest.mark.parametrize("name, schedule, found", [
    ("euler a", "automatic", ("Euler a", "Uniform")), ("DPM++ 2M Karras", "Automatic", ("DPM++ 2M", "Karras")),
    ("k_dpmpp_2m_sde", "", ("DPM++ 2M SDE", "Exponential")), ("DPM++ SDE", "sgm_uniform", ("DPM++ SDE", "SGM Uniform")),
    ("DPM++ 2M SDE Heun", "Automatic", ("DPM++ 2M SDE Heun", "Exponential")), ("DDIM", "Automatic", ("DDIM", "DDIM")),
])
def test_names_that_people_know_are_found(name, schedule, found):
    sampler, chosen = catalogue.find(name, schedule)
    assert (sampler.name, chosen) == found
