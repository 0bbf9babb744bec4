"""The demo model's architecture with random weights, for tests: small, and the same wiring as the real one."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "examples"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from demo.model import new_pipeline

from lib_refdrop.hosts.diffusers import attached, lineage_of
from lib_refdrop.model.rows import Row
from lib_refdrop.model.sites import SECTIONS
from lib_refdrop.references.plan import preset
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.techniques.sampling_pass import SamplingPass

SAMPLERS = {"euler": EulerDiscreteScheduler, "heun": HeunDiscreteScheduler, "dpm": DPMSolverMultistepScheduler}


class Studio:
    """A pipeline with the shortest way to a picture, plain, recorded or guided. Pictures are latents."""

    def __init__(self, pipeline) -> None:
        self.pipeline, self.unet = pipeline, pipeline.unet
        self.lineage = lineage_of(self.unet)

    def draw(self, sampling_pass: SamplingPass | None = None, prompt="a pirate", seed=1, batch=1, steps=4, size=64,
             sampler="euler",
             cfg=5.0) -> torch.Tensor:
        pipeline = self.pipeline
        pipeline.scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config, timestep_spacing="linspace")
        branches = ("uncond", "cond") if cfg > 1 else ("cond",)
        rows = [Row(branch, image) for branch in branches for image in range(batch)]
        alphas = pipeline.scheduler.alphas_cumprod
        with attached(self.unet, sampling_pass, lambda n: rows, alphas) if sampling_pass else nullcontext():
            return pipeline([prompt] * batch, num_inference_steps=steps, height=size, width=size, guidance_scale=cfg,
                            generator=[torch.Generator().manual_seed(seed + i) for i in range(batch)],
                            output_type="latent").images

    def record(self, save_percent=100.0, sections=SECTIONS, sigmas=None, plan=None, **picture):
        """A reference of one picture, exact unless ``plan`` says otherwise, and the picture."""
        plan = replace(plan or preset("Exact", self.lineage), percent=save_percent)
        plan = replace(plan, sites={site: how for site, how in plan.sites.items() if site.section in sections})
        recording = Recording(self.lineage, {"seed": picture.get("seed", 1)}, plan)
        recording.begin_pass("base", sigmas)
        sampling_pass = SamplingPass([recording])
        image = self.draw(sampling_pass, **picture)
        sampling_pass.finish()
        return recording.reference("ref"), image

    def use(self, reference, c, sections=SECTIONS, **picture):
        """The picture guided by a reference, and what became of it."""
        sampling_pass = self.guiding(reference, c, sections)
        image = self.draw(sampling_pass, **picture)
        return image, sampling_pass.finish()[0]

    def guiding(self, reference, c, sections=SECTIONS, replays=None) -> SamplingPass:
        """A pass in which a reference guides."""
        strength = c if isinstance(c, Strength) else Strength(c, sections)
        return SamplingPass([Guidance([(reference, strength)], self.lineage, replays=replays)])


@pytest.fixture(scope="session")
def studio() -> Studio:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    pipeline = new_pipeline(seed=3)
    # Freshly initialised attention is all but uniform; larger weights make it pick tokens, as a trained one does.
    for name, weight in pipeline.unet.named_parameters():
        if ".attn1." in name and weight.dim() == 2:
            weight.data.mul_(3)
    return Studio(pipeline)
