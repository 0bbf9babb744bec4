"""The demo model's architecture with random weights: small, and the same wiring as the real one."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "examples"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from demo.model import new_pipeline  # noqa: E402

from lib_refdrop.hosts.diffusers import guide, lineage_of  # noqa: E402
from lib_refdrop.references.plan import preset  # noqa: E402
from lib_refdrop.techniques.reference.recording import Recorder  # noqa: E402
from lib_refdrop.techniques.sampling_pass import Session  # noqa: E402
from lib_refdrop.model.sites import SECTIONS  # noqa: E402

SAMPLERS = {"euler": EulerDiscreteScheduler, "heun": HeunDiscreteScheduler, "dpm": DPMSolverMultistepScheduler}


class Studio:
    """A pipeline with the shortest way to a picture, plain, recorded or guided. Pictures are latents."""

    def __init__(self, pipeline) -> None:
        self.pipeline, self.unet = pipeline, pipeline.unet
        self.lineage = lineage_of(self.unet)

    def draw(self, session: Session | None = None, prompt="a pirate", seed=1, batch=1, steps=4, size=64, sampler="euler",
             cfg=5.0) -> torch.Tensor:
        pipeline = self.pipeline
        pipeline.scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config, timestep_spacing="linspace")
        rows = (lambda n: ["uncond"] * (n // 2) + ["cond"] * (n // 2)) if cfg > 1 else (lambda n: ["cond"] * n)
        attached = guide(self.unet, session, rows, pipeline.scheduler.alphas_cumprod) if session else nullcontext()
        with attached:
            return pipeline([prompt] * batch, num_inference_steps=steps, height=size, width=size, guidance_scale=cfg,
                            generator=[torch.Generator().manual_seed(seed + i) for i in range(batch)],
                            output_type="latent").images

    def record(self, save_percent=100.0, sections=SECTIONS, sigmas=None, plan=None, **picture):
        """A reference of one picture, exact unless ``plan`` says otherwise, and the picture."""
        plan = replace(plan or preset("Exact", self.lineage), percent=save_percent)
        recorder = Recorder(self.lineage, {"seed": picture.get("seed", 1)}, plan)
        recorder.begin_pass("base", sigmas)
        image = self.draw(Session(self.lineage, sections, recorders=[recorder]), **picture)
        return recorder.reference("ref"), image

    def use(self, reference, c, sections=SECTIONS, **picture):
        """The picture guided by a reference, and what the session says of it."""
        session = Session(self.lineage, sections, guides=[(reference, c)])
        image = self.draw(session, **picture)
        return image, session.finish()


@pytest.fixture(scope="session")
def studio() -> Studio:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    pipeline = new_pipeline(seed=3)
    # Freshly initialised attention is all but uniform; larger weights make it pick tokens, as a trained one does.
    for name, weight in pipeline.unet.named_parameters():
        if ".attn1." in name and weight.dim() == 2:
            weight.data.mul_(3)
    return Studio(pipeline)
