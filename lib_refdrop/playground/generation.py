"""All batches of a generation, with the hooks of scripts called on the way in the order of AUTOMATIC1111 1.10."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image

from . import passes, pictures
from .processing import Img2Img, Processing
from .scripts import PostprocessBatchListArgs, PostprocessImageArgs, PostProcessMaskOverlayArgs, PostSampleArgs


@dataclass
class Processed:
    """The result: pictures, their infotexts and, for the API, ``info`` as web UIs give it."""

    p: Processing
    images: list[Image.Image] = field(default_factory=list)
    infotexts: list[str] = field(default_factory=list)

    @property
    def comments(self) -> list[str]:
        return self.p.comments

    def js(self) -> str:
        p, made = self.p, len(self.images)
        return json.dumps(
            {
                "prompt": p.prompt,
                "all_prompts": p.all_prompts[:made],
                "negative_prompt": p.negative_prompt,
                "all_negative_prompts": p.all_negative_prompts[:made],
                "seed": p.all_seeds[0] if p.all_seeds else p.seed,
                "all_seeds": p.all_seeds[:made],
                "subseed": p.all_subseeds[0] if p.all_subseeds else p.subseed,
                "all_subseeds": p.all_subseeds[:made],
                "subseed_strength": p.subseed_strength,
                "width": p.width,
                "height": p.height,
                "sampler_name": p.sampler_name,
                "cfg_scale": p.cfg_scale,
                "steps": p.steps,
                "batch_size": p.batch_size,
                "restore_faces": False,
                "face_restoration_model": None,
                "sd_model_name": p.sd_model_name,
                "sd_model_hash": p.sd_model_hash,
                "sd_vae_name": None,
                "sd_vae_hash": None,
                "seed_resize_from_w": -1,
                "seed_resize_from_h": -1,
                "denoising_strength": p.denoising_strength,
                "extra_generation_params": p.extra_generation_params,
                "index_of_first_image": 0,
                "infotexts": self.infotexts,
                "styles": [],
                "job_timestamp": p.host.state.job_timestamp,
                "clip_skip": p.host.opts.data["CLIP_stop_at_last_layers"],
                "is_using_inpainting_conditioning": False,
                "version": p.version,
                "comments": p.comments,
            }
        )


def process_images(p: Processing) -> Processed:
    """Makes all batches of ``p``. The caller closes ``p`` afterwards, also after an exception.

    An interrupt ends the running batch at its next model call (its pictures are unfinished but kept) and leaves out the
    rest. Settings that ``p`` overrides are as they were afterwards.
    """
    call = p.scripts.call if p.scripts else (lambda *args, **kwargs: None)
    call("setup", p)
    call("before_process", p)
    with p.host.opts.overridden(p.override_settings, p.override_settings_restore_afterwards), torch.no_grad():
        try:
            return _all_batches(p, call)
        finally:
            if p.networks is not None:
                p.networks.deactivate(p)


def _all_batches(p: Processing, call: Callable) -> Processed:
    state, result = p.host.state, Processed(p)
    state.job_count, state.sampling_steps = p.n_iter * (2 if getattr(p, "enable_hr", False) else 1), p.steps
    p.setup()
    call("process", p)
    for batch in range(p.n_iter):
        state.skipped = False
        if state.interrupted:
            break
        _one_batch(p, batch, result, call)
        state.nextjob()
    call("postprocess", p, result)
    return result


def _one_batch(p: Processing, batch: int, result: Processed, call: Callable) -> None:
    p.begin_batch(batch)
    which = {"batch_number": batch, "prompts": p.prompts, "seeds": p.seeds, "subseeds": p.subseeds}
    call("before_process_batch", p, **which)
    if p.networks is not None:
        p.networks.read_prompts(p)
        p.networks.activate(p, p.extra_network_data)
    call("process_batch", p, **{**which, "prompts": p.prompts})
    latents = passes.sample(p)
    if latents is None:
        return
    sampled = PostSampleArgs(latents)
    call("post_sample", p, sampled)
    tensors = passes.decode(p, sampled.samples)
    call("postprocess_batch", p, images=tensors, batch_number=batch)
    listed = PostprocessBatchListArgs(list(tensors))
    call("postprocess_batch_list", p, listed, batch_number=batch)
    for index, image in enumerate(pictures.as_images(torch.stack(list(listed.images)))):
        post = PostprocessImageArgs(image, p.images.start + index)
        call("postprocess_image", p, post)
        post.image = _overlaid(p, post.image, index, call)
        call("postprocess_image_after_composite", p, post)
        result.images.append(post.image)
        result.infotexts.append(p.infotext(p.images.start + index))


def _overlaid(p: Processing, image: Image.Image, index: int, call: Callable) -> Image.Image:
    """Outside its mask an inpainted picture is the one it began from, to the pixel."""
    if not isinstance(p, Img2Img) or p.overlay is None:
        return image
    before, mask = p.overlay
    laid = PostProcessMaskOverlayArgs(index, mask, before[index])
    call("postprocess_maskoverlay", p, laid)
    if image.size != laid.mask_for_overlay.size:
        return image
    return Image.composite(image, laid.overlay_image, laid.mask_for_overlay)
