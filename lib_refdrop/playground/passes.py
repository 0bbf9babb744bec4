"""Sampling passes: from noise, from a picture, and the second pass of hires. fix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from . import pictures
from .processing import CELL, Img2Img, Processing, Txt2Img
from .prompts.conditioning import Prompts
from .prompts.encoder import TextEncoder
from .sampling.catalogue import Sampler
from .sampling.denoiser import CFGDenoiser, Guidance, Interrupted
from .sampling.levels import ModelLevels
from .sampling.model import DenoisingModel
from .sampling.noise import BrownianNoise, ImageNoise, Noise


class BadPicture(RuntimeError):
    """The model gave no picture; the text says what to do."""


def sample(p: Processing) -> Tensor | None:
    """The latents ``[B, C, h, w]`` of the batch that ``p`` has begun; None when stopped before the first step."""
    p.is_hr_pass = False
    if isinstance(p, Img2Img):
        return _from_pictures(p)
    assert isinstance(p, Txt2Img)
    latents = _from_noise(p)
    if p.enable_hr and latents is not None and not _stopped(p):
        try:
            return _second_pass(p, latents)
        finally:
            p.is_hr_pass = False
    return latents


def decode(p: Processing, latents: Tensor) -> Tensor:
    """Pictures ``[B, 3, height, width]`` from 0 to 1, one by one. Raises :class:`BadPicture` for numbers not finite."""
    vae = p.sd_model.vae
    scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
    made = torch.cat([vae.decode(row[None], return_dict=False)[0] for row in scaled]).float()
    if not torch.isfinite(made).all():
        raise BadPicture(
            "The model gave numbers that are not finite instead of a picture; use full precision or another model."
        )
    return (made / 2 + 0.5).clamp(0, 1)


def encode(p: Processing, images: Sequence[Image.Image]) -> Tensor:
    """Latents ``[B, C, h, w]`` of pictures, without the little noise that the encoder could add."""
    vae = p.sd_model.vae
    given = pictures.as_tensor(images).to(vae.device, vae.dtype)
    found = [vae.encode(row[None], return_dict=False)[0].mode() for row in given]
    return torch.cat(found).float() * vae.config.scaling_factor


def _from_noise(p: Txt2Img) -> Tensor | None:
    sampler, schedule = p.sampler
    p.rng = _noise(p, p.width, p.height)
    x = p.rng.next()
    _begin(p, sampler, p.steps, p.prompts, p.negative_prompts, (p.height, p.width), p.cfg_scale)
    levels = sampler.levels(schedule, _levels(p), p.steps)
    p.sigmas = list(levels)
    _tell(p, "process_before_every_sampling", x=x, noise=x, c=p.c, uc=p.uc)
    start = (levels[0] ** 2 + 1) ** 0.5 if sampler.own_levels else levels[0]
    return _run(p, sampler, x * start, levels, levels, p.steps)


def _from_pictures(p: Img2Img) -> Tensor | None:
    sampler, schedule = p.sampler
    p.rng = _noise(p, p.width, p.height)
    noise = p.rng.next()
    p.init_latent = encode(p, p.prepare())
    if p.mask is not None and p.nmask is not None:
        p.mask, p.nmask = p.mask.to(noise.device), p.nmask.to(noise.device)
        if p.inpainting_fill == 2:
            p.init_latent = p.init_latent * p.mask + _noise(p, p.width, p.height).next() * p.nmask
        elif p.inpainting_fill == 3:
            p.init_latent = p.init_latent * p.mask
    denoiser = _begin(p, sampler, p.steps, p.prompts, p.negative_prompts, (p.height, p.width), p.cfg_scale)
    if p.mask is not None:
        denoiser.blend = partial(_blended, p)
    scale = 1.0 if p.initial_noise_multiplier is None else p.initial_noise_multiplier
    exact = p.host.opts.data["img2img_fix_steps"]
    p.sigmas = _part(p, sampler, schedule, p.steps, exact)[0]
    _tell(p, "process_before_every_sampling", x=p.init_latent, noise=noise, c=p.c, uc=p.uc)
    latents = _run_from(p, sampler, schedule, p.init_latent, noise * scale, p.steps, exact)
    return latents if latents is None or p.mask is None else _blended(p, latents)


def _blended(p: Any, latents: Tensor) -> Tensor:
    return p.init_latent * p.mask + latents * p.nmask


def _second_pass(p: Txt2Img, latents: Tensor) -> Tensor:
    """The first pass's latents, made larger and drawn over; they themselves where it is stopped at once."""
    p.is_hr_pass = True
    p.host.state.nextjob()
    (width, height), (sampler, schedule), first = p.hr_size, p.hr_sampler, latents
    if p.hr_upscaler in pictures.LATENT_UPSCALERS:
        latents = pictures.resized_latents(latents, height // CELL, width // CELL, p.hr_upscaler)
    else:
        way = pictures.PICTURE_UPSCALERS[p.hr_upscaler]
        latents = encode(p, [image.resize((width, height), way) for image in pictures.as_images(decode(p, latents))])
    p.rng = _noise(p, width, height)
    noise = p.rng.next()
    if p.networks is not None:
        p.networks.activate(p, p.hr_extra_network_data)
    steps = p.hr_second_pass_steps or p.steps
    _begin(p, sampler, steps, p.hr_prompts, p.hr_negative_prompts, (height, width),
           p.cfg_scale if p.hr_cfg is None else p.hr_cfg, p.sampler[0].calls(p.steps))
    p.hr_c, p.hr_uc = p.c, p.uc
    _tell(p, "before_hr")
    p.sigmas = _part(p, sampler, schedule, steps, exact=True)[0]
    _tell(p, "process_before_every_sampling", x=latents, noise=noise, c=p.hr_c, uc=p.hr_uc)
    made = _run_from(p, sampler, schedule, latents, noise, steps, exact=True)
    return first if made is None else made


def _run_from(p: Processing, sampler: Sampler, schedule: str, latents: Tensor, noise: Tensor, steps: int,
              exact: bool) -> Tensor | None:
    """From a picture's latents: ``exact`` makes ``steps`` steps, otherwise ``denoising_strength`` of them and one."""
    levels, whole = _part(p, sampler, schedule, steps, exact)
    if len(levels) < 2:  # DDIM makes no step at all where the strength is small
        return latents
    return _run(p, sampler, latents + noise * levels[0], levels, whole, len(levels) - 1)


def _part(p: Processing, sampler: Sampler, schedule: str, steps: int, exact: bool) -> tuple[list[float], list[float]]:
    """The levels that are left of a schedule for a pass that begins in a picture, and the whole schedule."""
    strength = min(p.denoising_strength or 0.0, 0.999)
    if exact and strength == 0:
        return [], []
    total, begun = (int(steps / strength), steps - 1) if exact else (steps, int(strength * steps))
    whole = sampler.levels(schedule, _levels(p), total)
    return list(sampler.part(whole, total, begun)), list(whole)


def _run(p: Processing, sampler: Sampler, x: Tensor, levels: Sequence[float], whole: Sequence[float],
         steps: int) -> Tensor | None:
    """The latents after ``levels``, which are the last of ``whole``'s; None when stopped before the first step."""
    state = p.host.state
    state.sampling_step, state.sampling_steps = 0, steps
    options: dict[str, Any] = dict(sampler.options)
    if sampler.takes_eta:
        default = p.host.opts.data["eta_ddim" if sampler.own_levels else "eta_ancestral"]
        options["eta"] = default if p.eta is None else p.eta
    assert p.denoiser and p.rng
    noise: Noise = p.rng
    if sampler.brownian:
        noise = BrownianNoise(tuple(x.shape[1:]), p.seeds, min(filter(None, whole)), max(whole), x.device)
    try:
        return sampler.function(p.denoiser, x, levels, noise, _after_step(p), **options)
    except Interrupted as stopped:
        return stopped.denoised
    finally:
        if p.denoiser.left_out:
            p.extra_generation_params.update(_left_out(p))


def _begin(p: Processing, sampler: Sampler, steps: int, prompts: Sequence[str], negatives: Sequence[str],
           size: tuple[int, int], cfg_scale: float, first_calls: int | None = None) -> CFGDenoiser:
    """Encodes the prompts of a pass and makes its denoiser, ``p.denoiser``; ``size`` is height and width."""
    options, calls = p.host.opts.data, sampler.calls(steps)
    encoded = Prompts(TextEncoder(p.sd_model, options["CLIP_stop_at_last_layers"]), calls, first_calls)
    p.c, p.uc = [encoded.wanted(prompt) for prompt in prompts], [encoded.unwanted(prompt) for prompt in negatives]
    model = DenoisingModel(p.sd_model, size, cfg_scale)
    least = options["s_min_uncond"] if p.s_min_uncond is None else p.s_min_uncond
    guidance = Guidance(1.0 if model.guides_itself else cfg_scale, calls, least, options["s_min_uncond_all"],
                        options["skip_early_cond"], options["batch_cond_uncond"])
    p.denoiser = CFGDenoiser(model, p.c, p.uc, guidance, lambda: _stopped(p))
    return p.denoiser


def _left_out(p: Processing) -> dict[str, Any]:
    options = p.host.opts.data
    least = options["s_min_uncond"] if p.s_min_uncond is None else p.s_min_uncond
    found = {"NGMS": f"{least:g}", "NGMS all steps": options["s_min_uncond_all"] or None} if least else {}
    early = options["skip_early_cond"]
    return {name: value for name, value in {**found, "Skip Early CFG": early or None}.items() if value is not None}


def _after_step(p: Processing) -> Callable[[int], None]:
    state = p.host.state

    def after(step: int) -> None:
        state.sampling_step = min(step + 1, state.sampling_steps)
        if p.on_step and not _stopped(p):
            p.on_step(state.progress)

    return after


def _noise(p: Processing, width: int, height: int) -> ImageNoise:
    shape = (p.sd_model.vae.config.latent_channels, height // CELL, width // CELL)
    return ImageNoise(shape, p.seeds, p.subseeds, p.subseed_strength, p.sd_model.unet.device)


def _levels(p: Processing) -> ModelLevels:
    return ModelLevels(p.sd_model.scheduler.alphas_cumprod)


def _stopped(p: Processing) -> bool:
    return bool(p.host.state.interrupted or p.host.state.skipped)


def _tell(p: Processing, hook: str, **kwargs: Any) -> None:
    if p.scripts:
        p.scripts.call(hook, p, **kwargs)
