"""The noise levels of a pass, asked of a web UI's sampler before it samples; stand-ins name things as the web UIs
do."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from lib_refdrop.hosts import find_adapter

from .tiny import ALPHAS, SIGMAS, UNet, a1111, forge

SCHEDULE = [14.6, 9.0, 5.0, 2.5, 1.0, 0.3, 0.0]  # six steps


class KDiffusion:
    def __init__(self, func) -> None:
        self.func = func

    def get_sigmas(self, p, steps: int) -> torch.Tensor:
        p.extra_generation_params["Schedule type"] = "Karras"
        assert steps == len(SCHEDULE) - 1
        return torch.tensor(SCHEDULE)


class CompVis:
    def __init__(self, func) -> None:
        self.func = func

    def get_timesteps(self, p, steps: int) -> torch.Tensor:
        return torch.arange(0, 1000, 1000 // steps) + 1  # the cleanest first


def sample_euler(model, x, sigmas, extra_args=None): ...


def sample_dpm_adaptive(model, x, sigma_min, sigma_max): ...


def ddim(model, x, timesteps, extra_args=None): ...


def unipc(model, x, timesteps, extra_args=None): ...


@pytest.fixture(autouse=True)
def host(monkeypatch) -> None:
    """Half of the schedule where a pass begins in a picture, unless the number of steps is asked for."""

    def setup_img2img_steps(p, steps=None):
        return (steps * 2, steps - 1) if steps else (p.steps, p.steps // 2)

    monkeypatch.setitem(sys.modules, "modules.sd_samplers_common",
                        SimpleNamespace(setup_img2img_steps=setup_img2img_steps))


@pytest.fixture(params=[forge, a1111])
def p(request, unet: UNet) -> SimpleNamespace:
    p = request.param(unet)
    p.steps, p.extra_generation_params, p.is_hr_pass = 6, {"Clip skip": 2}, False
    return p


def levels(p: SimpleNamespace, sampler) -> list[float] | None:
    p.sampler = sampler
    return find_adapter(p).sigmas(p)


def test_all_of_the_schedule(p) -> None:
    assert levels(p, KDiffusion(sample_euler)) == pytest.approx(SCHEDULE[:-1])
    assert p.extra_generation_params == {"Clip skip": 2}  # to ask changes no picture's parameters


def test_the_share_that_img2img_goes_through(p) -> None:
    p.init_latent = torch.zeros(1)
    assert levels(p, KDiffusion(sample_euler)) == pytest.approx(SCHEDULE[2:-1])  # t_enc + 1 steps


def test_the_share_that_hires_fix_goes_through(p) -> None:
    p.is_hr_pass, p.hr_second_pass_steps = True, 3
    assert levels(p, KDiffusion(sample_euler)) == pytest.approx(SCHEDULE[3:-1])


def test_samplers_that_are_given_timesteps(p) -> None:
    called_at = [831, 665, 499, 333, 167][::1]
    sigmas = ((1 - ALPHAS) / ALPHAS).sqrt()
    p.steps = 6
    found = levels(p, CompVis(ddim))
    assert found == pytest.approx([sigmas[at].item() for at in [997, *called_at]], rel=1e-4)
    assert SIGMAS[997].item() == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("sampler", [KDiffusion(sample_dpm_adaptive), CompVis(unipc), SimpleNamespace(func=None), None],
                         ids=["adaptive", "own grid", "another kind", "none"])
def test_nobody_knows(p, sampler) -> None:
    assert levels(p, sampler) is None


def test_a_host_that_fails_to_answer_is_noted_in_the_log(p, caplog) -> None:
    sampler = KDiffusion(sample_euler)
    sampler.get_sigmas = lambda p, steps: 1 / 0
    assert levels(p, sampler) is None and "ZeroDivisionError" in caplog.text
