"""What is to be made, and meanwhile everything scripts want to know: the hosts' ``p``. Names are those of web UIs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from ..model.rows import Row
from . import infotext, pictures
from .sampling import catalogue
from .sampling.denoiser import CFGDenoiser
from .sampling.noise import ImageNoise

CELL = 8  # pixels of a latent's cell, both ways


@dataclass
class Processing:
    """One generation: ``n_iter`` batches of ``batch_size`` pictures."""

    host: Any  # its state and options
    sd_model: Any  # a diffusers pipeline: unet, vae, text encoder, scheduler
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0.0
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    sampler_name: str = "Euler"
    scheduler: str = "Automatic"
    batch_size: int = 1
    n_iter: int = 1
    eta: float | None = None
    s_min_uncond: float | None = None
    override_settings: dict[str, Any] = field(default_factory=dict)
    override_settings_restore_afterwards: bool = True
    scripts: Any = None
    script_args: list = field(default_factory=list)
    networks: Any = None  # the folder of LoRAs
    sd_model_name: str = ""
    sd_model_hash: str = ""
    version: str = ""
    on_step: Callable[[float], None] | None = None  # told the progress of the whole job, 0 to 1, after every step

    is_hr_pass: bool = False
    iteration: int = 0
    denoising_strength: float | None = None
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    extra_network_data: dict[str, list] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    all_prompts: list[str] = field(default_factory=list)
    all_negative_prompts: list[str] = field(default_factory=list)
    all_seeds: list[int] = field(default_factory=list)
    all_subseeds: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    negative_prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    subseeds: list[int] = field(default_factory=list)
    rng: ImageNoise | None = None
    denoiser: CFGDenoiser | None = None  # of the pass that runs
    c: Any = None
    uc: Any = None
    sigmas: list[float] | None = None  # of the pass that begins

    def comment(self, text: str) -> None:
        """A sentence for the person who asked for the pictures; said once."""
        if text not in self.comments:
            self.comments.append(text)

    def rows(self, batch: int) -> list[Row]:
        """What every row of the UNet call that runs is. Raises RuntimeError for a batch of another size: somebody else
        changed it on the way."""
        rows = self.denoiser.rows if self.denoiser else []
        if len(rows) != batch:
            raise RuntimeError(f"the denoiser called the UNet with {len(rows)} rows, not {batch}")
        return list(rows)

    def branch_rows(self, batch: int) -> list[str]:
        """The branch of every row."""
        return [row.branch for row in self.rows(batch)]

    @property
    def sampler(self) -> tuple[catalogue.Sampler, str]:
        """Sampler and schedule of the pass that runs."""
        return catalogue.find(self.sampler_name, self.scheduler)

    @property
    def images(self) -> slice:
        """Which of all pictures the batch that runs makes."""
        return slice(self.iteration * self.batch_size, (self.iteration + 1) * self.batch_size)

    def setup(self) -> None:
        """Seeds and prompts of all images: image i has seed + i; with a variation's strength only subseed + i."""
        self.seed = random.randrange(2**32) if self.seed == -1 else self.seed
        self.subseed = random.randrange(2**32) if self.subseed == -1 else self.subseed
        total = self.batch_size * self.n_iter
        self.all_seeds = [self.seed + (index if self.subseed_strength == 0 else 0) for index in range(total)]
        self.all_subseeds = [self.subseed + index for index in range(total)]
        self.all_prompts, self.all_negative_prompts = [self.prompt] * total, [self.negative_prompt] * total

    def begin_batch(self, number: int) -> None:
        self.iteration = number
        self.prompts, self.negative_prompts = self.all_prompts[self.images], self.all_negative_prompts[self.images]
        self.seeds, self.subseeds = self.all_seeds[self.images], self.all_subseeds[self.images]

    def parameters(self, index: int) -> dict[str, Any]:
        """Names and values that an image's infotext tells, in order."""
        sampler, schedule = catalogue.find(self.sampler_name, self.scheduler)
        clip_skip, varied, batch = (
            self.host.opts.data["CLIP_stop_at_last_layers"],
            self.subseed_strength > 0,
            self.batch_size,
        )
        return {
            "Steps": self.steps, "Sampler": sampler.name, "Schedule type": schedule, "CFG scale": f"{self.cfg_scale:g}",
            "Seed": self.all_seeds[index], "Size": f"{self.width}x{self.height}",
            "Model hash": self.sd_model_hash or None, "Model": self.sd_model_name or None,
            "Variation seed": self.all_subseeds[index] if varied else None,
            "Variation seed strength": f"{self.subseed_strength:g}" if varied else None,
            "Denoising strength": None if self.denoising_strength is None else f"{self.denoising_strength:g}",
            "Clip skip": clip_skip if clip_skip > 1 else None,
            "Batch size": batch if batch > 1 else None, "Batch pos": index % batch if batch > 1 else None,
        }

    def infotext(self, index: int) -> str:
        """The ``parameters`` text of one image."""
        own = {name: value(p=self, index=index) if callable(value) else value
               for name, value in self.extra_generation_params.items()}
        parameters = {**self.parameters(index), **own, "Version": self.version or None}
        return infotext.build(self.all_prompts[index], self.all_negative_prompts[index], parameters)

    def close(self) -> None:
        """Called when the generation is over, however it ended."""
        self.denoiser = self.rng = self.c = self.uc = None


@dataclass
class Txt2Img(Processing):
    """From noise, and with ``enable_hr`` a second pass at a larger size."""

    enable_hr: bool = False
    hr_scale: float = 2.0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_upscaler: str = "Latent"
    hr_second_pass_steps: int = 0
    hr_sampler_name: str = ""
    hr_scheduler: str = ""
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_cfg: float | None = None
    hr_extra_network_data: dict[str, list] = field(default_factory=dict)
    hr_prompts: list[str] = field(default_factory=list)
    hr_negative_prompts: list[str] = field(default_factory=list)
    hr_c: Any = None
    hr_uc: Any = None

    @property
    def hr_size(self) -> tuple[int, int]:
        """Width and height of the second pass, in pixels; one side left open follows from the other."""
        wide, tall = self.hr_resize_x, self.hr_resize_y
        if not wide and not tall:
            wide, tall = int(self.width * self.hr_scale), int(self.height * self.hr_scale)
        elif not tall:
            tall = wide * self.height // self.width
        elif not wide:
            wide = tall * self.width // self.height
        return max(wide // CELL, 1) * CELL, max(tall // CELL, 1) * CELL

    @property
    def hr_sampler(self) -> tuple[catalogue.Sampler, str]:
        return catalogue.find(self.hr_sampler_name or self.sampler_name, self.hr_scheduler or self.scheduler)

    def begin_batch(self, number: int) -> None:
        super().begin_batch(number)
        self.hr_prompts = [self.hr_prompt or prompt for prompt in self.prompts]
        self.hr_negative_prompts = [self.hr_negative_prompt or prompt for prompt in self.negative_prompts]

    def parameters(self, index: int) -> dict[str, Any]:
        found = super().parameters(index)
        if not self.enable_hr:
            return {**found, "Denoising strength": None}
        sized = bool(self.hr_resize_x or self.hr_resize_y)
        return {
            **found, "Hires upscale": None if sized else f"{self.hr_scale:g}",
            "Hires resize": f"{self.hr_resize_x}x{self.hr_resize_y}" if sized else None,
            "Hires steps": self.hr_second_pass_steps or None, "Hires upscaler": self.hr_upscaler,
            "Hires sampler": self.hr_sampler_name or None, "Hires schedule type": self.hr_scheduler or None,
            "Hires CFG Scale": None if self.hr_cfg is None else f"{self.hr_cfg:g}",
            "Hires prompt": self.hr_prompt or None, "Hires negative prompt": self.hr_negative_prompt or None,
        }


@dataclass
class Img2Img(Processing):
    """From pictures, and with a mask only where it is white."""

    init_images: list[Image.Image] = field(default_factory=list)
    image_mask: Image.Image | None = None
    resize_mode: int = 0
    mask_blur: int = 4
    inpainting_fill: int = 0
    inpainting_mask_invert: int = 0
    initial_noise_multiplier: float | None = None

    init_latent: Tensor | None = None
    mask: Tensor | None = None  # 1 where the picture is kept
    nmask: Tensor | None = None  # 1 where it changes
    overlay: tuple[list[Image.Image], Image.Image] | None = None  # what is laid over what is made, and where not

    def parameters(self, index: int) -> dict[str, Any]:
        found = super().parameters(index)
        if self.image_mask is not None:
            found["Mask blur"] = self.mask_blur
        return found

    def close(self) -> None:
        super().close()
        self.init_latent = self.mask = self.nmask = None

    def prepare(self) -> list[Image.Image]:
        """The pictures to begin from, at their size, masked parts painted as asked; one a picture of the batch."""
        seen = [pictures.resized(pictures.flattened(image), self.width, self.height, self.resize_mode == 1)
                for image in self.init_images]
        if len(seen) == 1:
            seen *= self.batch_size
        if self.image_mask is None:
            return seen
        mask = self.image_mask.convert("L")
        if self.inpainting_mask_invert:
            mask = pictures.ImageChops.invert(mask)
        if self.mask_blur > 0:
            mask = mask.filter(pictures.ImageFilter.GaussianBlur(self.mask_blur))
        mask = pictures.resized(mask, self.width, self.height, self.resize_mode == 1)
        self.overlay = seen, mask
        self.nmask = pictures.latent_mask(mask, self.height // CELL, self.width // CELL)
        self.mask = 1 - self.nmask
        return [pictures.filled(image, mask) for image in seen] if self.inpainting_fill == 0 else seen
