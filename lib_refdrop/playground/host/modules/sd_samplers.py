"""Samplers by the names people know from web UIs, as diffusers schedulers.

Noise levels are spaced as k-diffusion spaces them (``timestep_spacing="linspace"``), except for DDIM, which keeps its
own.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

# torchsde compares single-precision noise levels with the rounded ends of its interval; nothing is wrong.
warnings.filterwarnings("ignore", message="Should have t[ab][<>]=t", module="torchsde")


class Sampler(NamedTuple):
    """One sampler: its scheduler class, what "Automatic" means for it, and which schedules it has."""

    name: str
    kind: type
    automatic: str
    schedules: tuple[str, ...]
    aliases: tuple[str, ...]


SCHEDULES: dict[str, dict[str, Any]] = {
    "Uniform": {},
    "Karras": {"use_karras_sigmas": True},  # Karras et al. 2022, Eq. 5
    "Exponential": {"use_exponential_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
}
_FROM_THE_MODEL = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
                   "steps_offset", "rescale_betas_zero_snr")
_ALL = tuple(SCHEDULES)
_SPACED = ("Uniform", "SGM Uniform")  # diffusers has no Karras levels for these

SAMPLERS = (
    Sampler("Euler", EulerDiscreteScheduler, "Uniform", _ALL, ("k_euler",)),
    Sampler("Euler a", EulerAncestralDiscreteScheduler, "Uniform", _SPACED, ("k_euler_a", "k_euler_ancestral")),
    Sampler("Heun", HeunDiscreteScheduler, "Uniform", _ALL, ("k_heun",)),
    Sampler("DPM++ 2M", DPMSolverMultistepScheduler, "Karras", _ALL, ("k_dpmpp_2m",)),
    Sampler("DPM++ SDE", DPMSolverSDEScheduler, "Karras", _ALL, ("k_dpmpp_sde",)),
    Sampler("DDIM", DDIMScheduler, "Uniform", _SPACED, ("ddim",)),
)


class UnknownSampler(ValueError):
    """Its text is one sentence that lists what there is."""


def find(name: str, schedule: str = "Automatic") -> tuple[Sampler, str]:
    """The sampler and schedule meant; names in any case, "DPM++ 2M Karras" too. Raises :class:`UnknownSampler`."""
    wanted, chosen = name.strip().lower(), schedule.strip().lower()
    for suffix in SCHEDULES:
        if wanted.endswith(" " + suffix.lower()) and chosen in ("automatic", suffix.lower()):
            wanted, chosen = wanted[: -len(suffix) - 1], suffix.lower()
            break
    sampler = next((each for each in SAMPLERS if wanted in (each.name.lower(), *each.aliases)), None)
    if sampler is None:
        raise UnknownSampler(f"There is no sampler named {name!r}; choose {_listed([s.name for s in SAMPLERS])}.")
    if chosen == "automatic":
        return sampler, sampler.automatic
    for each in sampler.schedules:
        if each.lower() == chosen:
            return sampler, each
    raise UnknownSampler(f"{sampler.name} has no schedule {schedule!r} here; choose {_listed(['Automatic', *sampler.schedules])}.")


def create(sampler: Sampler, schedule: str, steps: int, config: Mapping[str, Any], seeds: Sequence[int]):
    """A scheduler for one batch.

    ``config`` is that of the model's own scheduler: betas and prediction type (epsilon or v) come from it. ``seeds``,
    one an image, make the noise of DPM++ SDE the image's own.
    """
    understood = inspect.signature(sampler.kind.__init__).parameters
    kept = {key: config[key] for key in _FROM_THE_MODEL if key in config and key in understood}
    extra = dict(SCHEDULES[schedule])
    spacing = "leading" if sampler.kind is DDIMScheduler else "linspace"
    extra.setdefault("timestep_spacing", spacing)
    if steps == 1:
        extra["timestep_spacing"] = "trailing"  # a single evenly spaced step would begin at no noise at all
    if sampler.kind is DDIMScheduler:
        extra |= {"clip_sample": False, "set_alpha_to_one": False}
    scheduler = sampler.kind.from_config(kept, **extra)
    if sampler.kind is DPMSolverSDEScheduler:
        scheduler.noise_sampler_seed = list(seeds)
    return scheduler


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]
