"""One generation, from a processing object ``p`` to its pictures, with the hooks of scripts called on the way."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from . import sd_models, sd_samplers, shared
from .infotext_utils import build_infotext
from .scripts import PostprocessImageArgs, ScriptRunner

PROGRAM = "RefDrop playground"


class BadPicture(RuntimeError):
    """The model gave no picture; the text says what to do."""


@dataclass
class StableDiffusionProcessingTxt2Img:
    """What to make, and while it is made everything scripts want to know. Names are those of web UIs."""

    sd_model: Any  # a diffusers pipeline: unet, vae, text encoder, scheduler
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    sampler_name: str = "Euler"
    scheduler: str = "Automatic"
    batch_size: int = 1
    n_iter: int = 1
    scripts: ScriptRunner | None = None
    script_args: list = field(default_factory=list)
    scheduler_config: dict = field(default_factory=dict)  # of the model's own scheduler
    sd_model_name: str = ""
    sd_model_hash: str = ""
    version: str = ""
    on_step: Callable[[float], None] | None = None  # told the progress of the whole job, 0 to 1, after every step

    is_hr_pass: bool = False
    iteration: int = 0
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    all_prompts: list[str] = field(default_factory=list)
    all_negative_prompts: list[str] = field(default_factory=list)
    all_seeds: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    negative_prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def comment(self, text: str) -> None:
        """A sentence for the person who asked for the pictures; said once."""
        if text not in self.comments:
            self.comments.append(text)

    def branch_rows(self, batch: int) -> list[str]:
        """The branch of every row of the UNet batch that runs: diffusers puts the unconditional half first, and leaves it
        out where it does not guide."""
        if not self.sd_model.do_classifier_free_guidance:
            return ["cond"] * batch
        return ["uncond"] * (batch // 2) + ["cond"] * (batch - batch // 2)

    def setup(self) -> None:
        """Seeds and prompts of all images: image i has seed + i."""
        self.seed = random.randrange(2**32) if self.seed == -1 else self.seed
        total = self.batch_size * self.n_iter
        self.all_seeds = [self.seed + index for index in range(total)]
        self.all_prompts, self.all_negative_prompts = [self.prompt] * total, [self.negative_prompt] * total

    def infotext(self, index: int) -> str:
        """The ``parameters`` text of one image."""
        sampler, schedule = sd_samplers.find(self.sampler_name, self.scheduler)
        parameters = {
            "Steps": self.steps, "Sampler": sampler.name, "Schedule type": schedule, "CFG scale": f"{self.cfg_scale:g}",
            "Seed": self.all_seeds[index], "Size": f"{self.width}x{self.height}",
            "Model hash": self.sd_model_hash or None, "Model": self.sd_model_name or None,
            "Batch size": self.batch_size if self.batch_size > 1 else None,
            "Batch pos": index % self.batch_size if self.batch_size > 1 else None,
            **self.extra_generation_params, "Version": self.version or None,
        }
        return build_infotext(self.all_prompts[index], self.all_negative_prompts[index], parameters)

    def close(self) -> None:
        """Called when the generation is over, however it ended."""

    def sample(self) -> list[Image.Image]:
        """The pictures of the batch prepared in ``seeds`` and ``prompts``; none when a script stopped it before its
        first step. Raises :class:`BadPicture` when the model's numbers are not finite."""
        pipeline = self.sd_model
        sampler, schedule = sd_samplers.find(self.sampler_name, self.scheduler)
        pipeline.scheduler = sd_samplers.create(sampler, schedule, self.steps, self.scheduler_config, self.seeds)
        conditioning = sd_models.encode(pipeline, self.prompts, self.negative_prompts, self.cfg_scale)
        noise, generators = sd_models.noise(pipeline, self.seeds, self.width, self.height)
        if self.scripts:
            self.scripts.call("process_before_every_sampling", self, x=noise, noise=noise,
                              c=conditioning["prompt_embeds"], uc=conditioning["negative_prompt_embeds"])
        if shared.state.interrupted or shared.state.skipped:
            return []
        made = pipeline(**conditioning, latents=noise, generator=generators, guidance_scale=self.cfg_scale,
                        num_inference_steps=self.steps, width=self.width, height=self.height, output_type="np",
                        callback_on_step_end=self._after_step).images
        if not np.isfinite(made).all():
            raise BadPicture("The model gave numbers that are not finite instead of a picture; use full precision or "
                             "another model.")
        return [Image.fromarray((picture * 255).round().astype("uint8")) for picture in made]

    def _after_step(self, pipeline, index: int, timestep, values: dict) -> dict:
        state = shared.state
        # Samplers of second order make two calls a step; a step is what people asked for.
        state.sampling_step = min(self.steps, round((index + 1) * self.steps / pipeline.num_timesteps))
        if state.interrupted or state.skipped:
            pipeline._interrupt = True  # diffusers' own way: the rest of the steps is left out
        elif self.on_step:
            self.on_step(state.progress)
        return values


@dataclass
class Processed:
    """The result: pictures, their infotexts and, for the API, ``info`` as web UIs give it."""

    p: StableDiffusionProcessingTxt2Img
    images: list[Image.Image]
    infotexts: list[str]

    @property
    def comments(self) -> list[str]:
        return self.p.comments

    def js(self) -> str:
        p, made = self.p, len(self.images)
        return json.dumps({
            "prompt": p.prompt, "all_prompts": p.all_prompts[:made], "negative_prompt": p.negative_prompt,
            "all_negative_prompts": p.all_negative_prompts[:made], "seed": p.all_seeds[0] if p.all_seeds else p.seed,
            "all_seeds": p.all_seeds[:made], "subseed": -1, "all_subseeds": [-1] * made, "subseed_strength": 0,
            "width": p.width, "height": p.height, "sampler_name": p.sampler_name, "cfg_scale": p.cfg_scale,
            "steps": p.steps, "batch_size": p.batch_size, "restore_faces": False, "face_restoration_model": None,
            "sd_model_name": p.sd_model_name, "sd_model_hash": p.sd_model_hash, "sd_vae_name": None, "sd_vae_hash": None,
            "seed_resize_from_w": -1, "seed_resize_from_h": -1, "denoising_strength": None,
            "extra_generation_params": p.extra_generation_params, "index_of_first_image": 0, "infotexts": self.infotexts,
            "styles": [], "job_timestamp": shared.state.job_timestamp, "clip_skip": 1,
            "is_using_inpainting_conditioning": False, "version": p.version, "comments": p.comments,
        }, ensure_ascii=False)


def process_images(p: StableDiffusionProcessingTxt2Img) -> Processed:
    """Makes all batches of ``p``. The caller closes ``p`` afterwards, also after an exception.

    An interrupt ends the running batch after its step (its pictures are unfinished but kept) and leaves out the rest.
    """
    state, call = shared.state, p.scripts.call if p.scripts else (lambda *args, **kwargs: None)
    call("before_process", p)
    state.job_count, state.sampling_steps = p.n_iter, p.steps
    p.setup()
    call("process", p)
    result = Processed(p, [], [])
    for batch in range(p.n_iter):
        state.skipped = False
        if state.interrupted:
            break
        _one_batch(p, batch, result, call)
        state.nextjob()
    call("postprocess", p, result)
    return result


def _one_batch(p: StableDiffusionProcessingTxt2Img, batch: int, result: Processed, call: Callable) -> None:
    p.iteration, rows = batch, slice(batch * p.batch_size, (batch + 1) * p.batch_size)
    p.prompts, p.negative_prompts, p.seeds = p.all_prompts[rows], p.all_negative_prompts[rows], p.all_seeds[rows]
    which = {"batch_number": batch, "prompts": p.prompts, "seeds": p.seeds, "subseeds": [-1] * p.batch_size}
    call("before_process_batch", p, **which)
    call("process_batch", p, **which)
    for sentence in sd_models.too_long(p.sd_model, p.prompts + p.negative_prompts):
        p.comment(sentence)
    with torch.no_grad():
        images = p.sample()
    if not images:
        return
    pictures = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 255
    call("postprocess_batch", p, images=pictures, batch_number=batch)
    for index, image in enumerate(images):
        post = PostprocessImageArgs(image, rows.start + index)
        call("postprocess_image", p, post)
        result.images.append(post.image)
        result.infotexts.append(p.infotext(rows.start + index))
